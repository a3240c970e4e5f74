"""Runs the commands of the guides: every fenced bash block that follows ``<!-- tested -->``, in order, in one empty folder."""

import re

import pytest

GUIDES = ("README.md", "docs/data.md", "docs/export.md")
BLOCK = re.compile(r"<!-- tested -->\n```bash\n(.*?)```", re.DOTALL)
LINKED = ("configs", "train.py", "eval_knn.py", "eval_feature_retrieval.py", "eval_3dposes.py")


def blocks(text: str) -> list[str]:
    return BLOCK.findall(text)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("guide", GUIDES)
def test_commands_run(guide, root, tmp_path, run_command):
    found = blocks((root / guide).read_text())
    assert found, f"{guide} has no tested block"
    for name in LINKED:
        (tmp_path / name).symlink_to(root / name)
    for block in found:
        for command in block.replace("\\\n", " ").splitlines():
            result = run_command(["bash", "-c", command], cwd=tmp_path, timeout=300)
            assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"


def test_links_of_the_guides_exist(root):
    for guide in [root / "README.md", *(root / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", guide.read_text()):
            assert (guide.parent / link).exists(), f"{guide.name}: {link}"


def test_every_marked_block_is_found(root):
    text = (root / "README.md").read_text()
    assert len(blocks(text)) == text.count("<!-- tested -->")
