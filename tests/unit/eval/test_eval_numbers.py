"""Numbers among the options of ``egoagent eval`` and ``egoagent bench``: what means nothing is refused, with exit code 2."""

import argparse
from functools import partial

import pytest
import torch

from internlm import cli
from internlm.commands import bench
from internlm.eval import task
from internlm.eval.errors import EvalError
from internlm.eval.options import Extraction, add_options
from internlm.eval.tasks.knn import vote as knn
from internlm.eval.tasks.linear.options import LinearOptions

NUMBERS = {
    "knn": {
        "--k": ("0", "-1", "1.5", "nan", "9" * 30), "--temperature": ("0", "-1", "nan", "inf", "1e-999", "x"),
        "--limit": ("0", "-3"), "--batch": ("0", "-8"), "--workers": ("-1", "1.5"), "--max-broken-share": ("-0.1", "1.1", "nan"),
        "--frame-stride": ("0", "-1"), "--imgnet": ("0",),
    },
    "linear": {
        "--lr": ("0", "-1", "nan", "inf"), "--epochs": ("0", "-1", "2.5"), "--probe-batch": ("0",),
        "--weight-decay": ("-1", "nan"),
        "--held-out": ("0", "1", "-0.1", "nan"), "--shots": ("0", "-1"), "--draws": ("0",), "--seed": ("-1", "9" * 30),
        "--limit": ("0",), "--batch": ("0",),
    },
    "retrieval": {
        "--horizon": ("0", "-1"), "--steps": ("0",), "--frame-stride": ("0", "-5"), "--hop": ("0", "-1"), "--limit": ("0",),
        "--batch": ("0",),
    },
    "motion": {
        "--hop": ("0",), "--limit": ("0",), "--batch": ("0",), "--observed": ("0", "-1"),
        "--cpu-minutes": ("0", "-1", "nan", "inf"),
        "--baseline-steps": ("0",), "--seed": ("-1",),
    },
}  # fmt: skip
BENCH = {name: ("0", "-1", "x") for name in ("--past", "--future", "--stride", "--steps", "--threads", "--cpu-minutes")} | {
    "--seed": ("-1",),
    "--cpu-minutes": ("0", "nan", "inf"),
}


@pytest.mark.parametrize(
    ("words", "option", "value"),
    [
        (words, option, value)
        for words, options in (
            *((["eval", task, "--run", "r"], found) for task, found in NUMBERS.items()),
            (["bench", "motion"], BENCH),
        )
        for option, values in options.items()
        for value in values
    ],
)
def test_numbers_that_mean_nothing_are_refused_before_anything_is_read(words, option, value, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, f"{option}={value}"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and f"argument {option}" in said and "is not a" in said


def test_every_number_of_these_commands_is_checked():
    """An option that takes a plain int or float has no bounds."""
    plain, seen = [], 0

    def look(parser):
        nonlocal seen
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for inner in action.choices.values():
                    look(inner)
            elif action.type in (int, float):
                plain.append(action.option_strings)
            elif getattr(action.type, "__module__", "") == "internlm.eval.options":
                seen += 1
                for value in action.default if isinstance(action.default, tuple) else [action.default]:
                    assert value is None or action.type(str(value)) == value, action.option_strings

    for add in (bench.add_arguments, *(partial(add_options, options=task.find(name).Options) for name in task.names())):
        parser = argparse.ArgumentParser()
        add(parser)
        look(parser)
    assert not plain and seen > 30


def test_the_functions_refuse_them_too():
    x = torch.eye(4)
    for options in ({"temperature": value} for value in (0.0, -1.0, float("nan"), float("inf"))):
        with pytest.raises(EvalError, match="temperature"):
            knn.decide(x, torch.tensor([0, 0, 1, 1]), x, 2, **options)
    for ks in ((), (0,), (5, -1)):
        with pytest.raises(EvalError, match="neighbours"):
            knn.decide(x, torch.tensor([0, 0, 1, 1]), x, 2, ks=ks)
    for change in (
        {"rates": (float("nan"),)},
        {"rates": (float("inf"),)},
        {"weight_decay": -1.0},
        {"weight_decay": float("nan")},
    ):
        with pytest.raises(EvalError):
            LinearOptions(**change)
    for change in (
        {"batch": 0},
        {"limit": 0},
        {"workers": -1},
        {"max_broken_share": 2.0},
        {"max_broken_share": float("nan")},
    ):
        with pytest.raises(EvalError):
            Extraction(**change)
