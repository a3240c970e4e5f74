"""Held-out losses on two processes: those of one, and training bit for bit as without them, whatever the mesh and engine."""

import importlib.util
from pathlib import Path

import pytest
from data_samples import write_take
from processes import start
from torch.distributed.tensor import DTensor
from train_samples import same_weights
from validate_samples import config, figures, without

from internlm.train import loop

# Each with the batch of a process.
CASES = {
    "one process": (4, {}),
    "zero 3": (2, dict(dp_shard=2)),
    "zero 2": (2, dict(dp_shard=2, zero=2)),
    "replicas": (2, dict(dp_replicate=2, activation_checkpointing="full")),
    "tp": (4, dict(tp=2)),
    "deepspeed 1": (2, dict(dp_shard=2, engine="deepspeed", zero=1)),
    "deepspeed 3": (2, dict(dp_shard=2, engine="deepspeed", zero=3)),
}
if importlib.util.find_spec("deepspeed") is None:
    CASES = {name: case for name, case in CASES.items() if not name.startswith("deepspeed")}


def child(rank: int, world: int, folder: Path) -> None:
    for name, (batch, parallel) in CASES.items():
        if ("one" in name) == (world == 2):
            continue
        for which, every in (("off", 0), ("on", 2)):
            # Adam's step is the gradient's sign where eps is far below it, rounding's sign where the gradient is zero.
            sections = {
                "train": {"image_batch": batch, "clip_batch": batch, "accumulation": 1, "steps": 5},
                "optim": {"lr": 1e-3, "momentum": 0.9, "eps": 1e-5},
            }
            run = config(folder / "store", folder / name / which, every, parallel=parallel, **sections)
            loop.train(run, after_step=nothing_gathered if name.startswith("zero") else lambda state, outcome: False)


def nothing_gathered(state, outcome) -> bool:
    assert all(isinstance(parameter, DTensor) for module in state.modules().values() for parameter in module.parameters())
    return False


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validate")
    for name, split in (("a", "train"), ("b", "train"), ("c", "val")):
        write_take(folder / "store", name, split=split, size=24)
    for world in (1, 2):
        start(child, world, folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_training_is_bit_for_bit_what_it_is_without(runs, name):
    plain, validated = figures(runs / name / "off"), figures(runs / name / "on")
    ranks = lambda records: [{k: v for k, v in r.items() if not k.startswith("ranks/")} for r in records]  # noqa: E731
    assert ranks(without(validated)) == ranks(plain)
    assert same_weights(runs / name / "off", runs / name / "on")
    assert [record["step"] for record in validated if "val/loss" in record] == [2, 4]


@pytest.mark.parametrize("name", [name for name in CASES if "one" not in name])
def test_the_losses_are_those_of_one_process(runs, name):
    for found, expected in zip(figures(runs / name / "on"), figures(runs / "one process" / "on"), strict=True):
        held_out = {key: value for key, value in expected.items() if key.startswith("val/")}
        assert {key: found[key] for key in held_out} == pytest.approx(held_out, rel=1e-4)
