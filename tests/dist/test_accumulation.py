"""The pieces of a step are reduced over processes once, in its last backward pass, and give what reducing each of them gives."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from processes import start
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils._python_dispatch import TorchDispatchMode
from train_samples import both, clip_batch, image_batch, tiny_config

from internlm.core.mesh import open_mesh
from internlm.parallel.plan import local
from internlm.systems.base import Part
from internlm.train.engine import TorchEngine
from internlm.train.state import build_state
from internlm.train.step import TrainStep

CPU = torch.device("cpu")
STEPS, PIECES = 3, 4
REDUCE_SCATTER, ALL_REDUCE = "_reduce_scatter_base_", "allreduce_"
CASES = {
    2: {
        "stage 1": dict(dp_shard=2),
        "zero 3": dict(dp_shard=2),
        "half": dict(dp_shard=2),
        "zero 2": dict(dp_shard=2, zero=2),
        "replicas": dict(dp_replicate=2),
    },
    4: {"hsdp": dict(dp_replicate=2, dp_shard=2), "dp × tp": dict(dp_shard=2, tp=2, sequence_parallel=False)},
}


class Collectives(TorchDispatchMode):
    """How often each was called, below autograd and ``fully_shard``."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "c10d":
            self.counts[function._schema.name.removeprefix("c10d::")] += 1
        return function(*args, **(kwargs or {}))


def train(name: str, parallel: dict, folder: Path, *, each: bool) -> dict:
    """Figures, weights, units of ``fully_shard`` and the last step's collectives. ``each``: every piece is reduced."""
    shape = tuple(parallel.get(axis, 1) for axis in ("dp_replicate", "dp_shard", "tp"))
    with open_mesh(shape, CPU) as mesh:
        model, optim = {"init_std": 0.1}, {"lr": 1e-3, "momentum": 0.9, "eps": 1e-5}
        stage, dtype = "pretrain" if name == "stage 1" else "joint", "bfloat16" if name == "half" else "float32"
        sections = {"train": {"accumulation": PIECES, "dtype": dtype}, "parallel": parallel}
        config = tiny_config(stage=stage, model=model, optim=optim, **sections)
        state = build_state(config, CPU, mesh)
        step, found = TrainStep(config, state, folder, getattr(torch, dtype)), []
        if each:
            backward = state.engine.backward
            state.engine.backward = lambda loss, last: backward(loss, last=True)
        for number in range(STEPS):
            with Collectives() as counted:
                index = number * mesh.data.size + mesh.data.rank
                outcome = step(both(image_batch(index), clip_batch(index) if stage == "joint" else None))
            found.append({**outcome.losses, "norm": outcome.grad_norm})
        units = [part for part in state.modules()["predictor"].modules() if isinstance(part, FSDPModule)]
        return {
            "figures": [{name: float(value) for name, value in figures.items()} for figures in found],
            "weights": [local(parameter.detach()).clone() for parameter in state.engine.parameters],
            "counts": dict(counted.counts),
            "units": len(units),
        }


class Branches(nn.Module):
    """Either of two layers, as a stream's pieces may use."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor, first: bool) -> torch.Tensor:
        return (self.first if first else self.second)(x)


def branches(rank: int) -> None:
    """Layers that the last piece leaves out have the gradients of those before, and none of the step before."""
    whole, module, x = Branches(), Branches(), torch.arange(8.0).view(2, 4)
    with open_mesh((1, 2, 1), CPU) as mesh:
        for part in (module.first, module.second, module):
            fully_shard(part, mesh=mesh.shards)
        engine = TorchEngine({"both": Part(module, trained=True)}, tiny_config(), mesh)
        for _ in range(2):
            engine.zero_grad()
            whole.zero_grad()
            for last in (False, True):
                engine.backward(module(x[rank : rank + 1], not last).sum(), last=last)
                (whole(x, not last).sum() / 2).backward()
            for name, parameter in module.named_parameters():
                torch.testing.assert_close(parameter.grad.full_tensor(), whole.get_parameter(name).grad)


def child(rank: int, world: int, folder: Path) -> None:
    for name, parallel in CASES[world].items():
        once, each = (train(name, parallel, folder, each=each) for each in (False, True))
        near = 2e-2 if name == "half" else 1e-5
        for figures, expected in zip(once["figures"], each["figures"], strict=True):
            assert figures == pytest.approx(expected, rel=near), name
        for weight, expected in zip(once["weights"], each["weights"], strict=True):
            torch.testing.assert_close(weight, expected, rtol=near, atol=1e-3 if name == "half" else near)
        if rank == 0:
            torch.save((once["units"], once["counts"], each["counts"]), folder / f"{world} {name}.pt")
    if world == 2:
        branches(rank)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("accumulation")
    for world in CASES:
        start(child, world, folder)
    return folder


@pytest.mark.parametrize(("world", "name"), [(world, name) for world, cases in CASES.items() for name in cases])
def test_gradients_are_reduced_once_a_step(folder, world, name):
    (units, once, each), parallel = torch.load(folder / f"{world} {name}.pt"), CASES[world][name]
    passes = PIECES if name == "stage 1" else 2 * PIECES  # of images and of clips
    if name == "stage 1":  # blocks see large and small crops in one pass: after the first what was left is reduced, then the rest
        assert units < once[REDUCE_SCATTER] <= 2 * units and each[REDUCE_SCATTER] == units * passes
    elif parallel.get("dp_shard", 1) > 1:
        assert once[REDUCE_SCATTER] == units and each[REDUCE_SCATTER] == units * passes
    if name == "hsdp":  # among the all-reduces of losses and norms
        assert each[ALL_REDUCE] - once[ALL_REDUCE] == units * (passes - 1)
    if name == "replicas":  # nothing is divided, and all gradients travel in one message when the step ends
        assert units == 0 and each == once and ALL_REDUCE in once
