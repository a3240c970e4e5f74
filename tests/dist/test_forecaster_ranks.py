"""Forecasters train on two processes as on one: losses, gradient norms and weights, and either continues the other's run."""

from functools import partial
from pathlib import Path

import pytest
import torch
from motion_samples import forecaster_config, motion_store
from processes import start

from internlm.checkpoint.manager import read_checkpoint
from internlm.data.motion import Recordings
from internlm.eval.tasks.motion.forecasters import make
from internlm.monitor.metrics import read_metrics
from internlm.systems.forecaster import diffusion
from internlm.train import loop

BUILD = diffusion.build
# Some weights have no gradient but rounding (a bias before a norm, of attention keys), which Adam would make steps of.
SAME = ("optim.eps=1e-3",)
# Each with the batch of a process; all see the same windows.
CASES = {
    "simlpe, zero 3": ("simlpe", 2, ("parallel.dp_shard=2",)),
    "simlpe, replicas": ("simlpe", 2, ("parallel.dp_replicate=2", "train.accumulation=2")),
    "egoagent, zero 3": ("egoagent", 2, ("parallel.dp_shard=2",)),
    "egoagent, zero 2, pieces": ("egoagent", 2, ("parallel.dp_shard=2", "parallel.zero=2", "train.accumulation=2")),
    "egoagent, tp": ("egoagent", 4, ("parallel.tp=2",)),
    "diffusion_policy, zero 3": ("diffusion_policy", 2, ("parallel.dp_shard=2",)),
}


def configs(folder: Path):
    """By name: a run on two processes and what it must repeat."""
    for name, (method, batch, overrides) in CASES.items():
        run = folder / name.replace(", ", "-").replace(" ", "")
        yield name, method, forecaster_config(method, folder / "store", run, f"train.clip_batch={batch}", *overrides, *SAME)


def _build_without_dropout(config):
    """Its draws are each process's own."""
    network = BUILD(config)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    return network


def _work(rank: int, world: int, config) -> None:
    loop.train(config)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forecasters")
    motion_store(folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion, "build", _build_without_dropout)
        for method in ("simlpe", "egoagent", "diffusion_policy"):
            loop.train(forecaster_config(method, folder / "store", folder / method, *SAME))
        for _, _, config in configs(folder):
            start(_work, 2, config, group=False)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_repeat_one(runs, name):
    method, config = next((method, config) for found, method, config in configs(runs) if found == name)
    ours, one = read_metrics(Path(config.run_dir)), read_metrics(runs / method)
    for key in ("loss", "grad_norm"):
        torch.testing.assert_close(*(torch.tensor([record[key] for record in run]) for run in (ours, one)), rtol=1e-4, atol=1e-5)
    two, alone = (read_checkpoint(folder / "checkpoints" / "step_000000008") for folder in (Path(config.run_dir), runs / method))
    for part in ("network", "average"):
        assert two.parts[part].keys() == alone.parts[part].keys()
        for key, tensor in alone.parts[part].items():
            about = partial("{}: {}".format, key)
            torch.testing.assert_close(two.parts[part][key], tensor, rtol=1e-4, atol=2e-6, msg=about)


def _alone(rank: int, world: int, folder: Path) -> None:
    if rank == 0:
        recordings = Recordings((str(folder / "store"),))
        made = make("simlpe", recordings, past=10, future=5, seed=0, steps=4, folder=folder / "alone")
        assert made.report["steps"] == made.report["steps_planned"]


def test_one_process_of_an_evaluation_trains_a_baseline_by_itself(tmp_path):
    motion_store(tmp_path / "store")
    start(_alone, 2, tmp_path)
    assert read_checkpoint(next((tmp_path / "alone" / "final" / "checkpoints").glob("step_*")))
