"""docs/training.md: every command in it is one that the real parsers take, down to the config's keys."""

import argparse
import importlib
import re
import shlex

import pytest

from internlm.commands import COMMANDS, parse
from internlm.config.load import load_config

BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(COMMANDS[words[0]][0]).add_arguments(parser)
    return parse(parser, words[1:])


def commands(text: str) -> list[list[str]]:
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def as_egoagent(words: list[str], root) -> list[str]:
    """The words after ``egoagent`` that a line comes to, through srun, torchrun or a script."""
    if words[0] == "torchrun":
        from torch.distributed.run import parse_args

        arguments = parse_args(words[1:])
        assert (root / arguments.training_script).is_file()
        return ["train", *arguments.training_script_args]
    if words[0] == "bash":
        assert (root / words[1]).is_file()
        stage1 = "stage1" in words[1]
        return ["launch", words[3 if stage1 else 2], "--slurm", *words[5:]]
    if words[0] == "srun":
        return words[words.index("egoagent") + 1 :]
    assert words[0] == "egoagent", words
    return words[1:]


def test_every_command_of_the_guide_is_understood(root):
    found = commands((root / "docs" / "training.md").read_text())
    assert len(found) >= 12
    assert {as_egoagent(words, root)[0] for words in found} >= {"train", "launch", "describe", "estimate", "ckpt"}
    for words in found:
        try:
            arguments = parsed(as_egoagent(words, root))
        except (SystemExit, argparse.ArgumentError) as error:
            pytest.fail(f"{shlex.join(words)}: {error}")
        if hasattr(arguments, "config") and not arguments.config.startswith("runs/"):
            load_config(root / arguments.config, arguments.overrides)


def test_a_wrong_option_is_seen():
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        parsed(["launch", "c.py", "--no-such-option"])
