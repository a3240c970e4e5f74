"""docs/data.md: every command in it is one that the real parser takes, and no action is left out."""

import argparse
import re
import shlex

import pytest

from internlm.commands import data, world

BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of every ``egoagent`` line in the bash blocks; a line that ends with a backslash goes on."""
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line and line[0] == "egoagent"]


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    {"data": data, "world": world}[words[0]].add_arguments(parser)
    return parser.parse_args(words[1:])


@pytest.fixture(scope="module")
def guide(root) -> list[list[str]]:
    return commands((root / "docs" / "data.md").read_text())


def test_every_command_of_the_guide_is_understood(guide):
    assert len(guide) >= 7
    for words in guide:
        try:
            parse(words)
        except (SystemExit, argparse.ArgumentError) as error:
            pytest.fail(f"egoagent {' '.join(words)}: {error}")


def test_every_action_is_explained(guide):
    told = {words[1] for words in guide if words[0] == "data"}
    assert told == set(data.ACTIONS)


def test_the_reader_of_commands_sees_what_it_should():
    text = "```bash\n# a remark\negoagent data check 'a b' \\\n  --strict  # why\npip install x\n```\n`egoagent data gone`"
    assert commands(text) == [["data", "check", "a b", "--strict"]]
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        parse(["data", "check", "s", "--no-such-option"])
