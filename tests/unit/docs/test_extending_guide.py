"""The guide to a system of one's own shows code that is tested: every block is found in the file that it names."""

import re


def test_every_block_of_the_guide_is_code_that_runs(root):
    guide = (root / "docs/extending.md").read_text()
    blocks = re.findall(r"<!-- from (\S+) -->\n```python\n(.*?)```", guide, re.DOTALL)
    assert len(blocks) == guide.count("```python") >= 4
    for file, block in blocks:
        assert block in (root / file).read_text(), (file, block)
