"""What ``egoagent estimate`` says that a step sends, against the collectives that a real step on gloo calls.

The counter sees every call of a collective below autograd and ``fully_shard``: its tensors and its process group.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from case_samples import worked_through
from torch.utils._python_dispatch import TorchDispatchMode
from train_samples import both, clip_batch, image_batch, tiny_config

from internlm.core.mesh import open_mesh
from internlm.estimate.measure import estimate
from internlm.train.state import build_state
from internlm.train.step import TrainStep

pytestmark = pytest.mark.timeout(900)  # of which the first test's fixture takes nearly all
CPU = torch.device("cpu")
TOLERANCE = 0.01  # rows of small tensors are padded to the shards that were measured
SCALARS = 200  # bytes of losses, norms and counts, which the step on fake tensors does not exchange
MODEL = dict(
    patch_size=4, hidden_size=64, num_layers=2, num_heads=4, mlp_multiple_of=32, head_hidden=32, head_bottleneck=16, prototypes=64
)
SINKHORN = {"targets": "sinkhorn", "koleo_weight": 0.1, "row_chunk": 5}
CASES = {
    2: {
        "zero 3": ("joint", dict(dp_shard=2), {}),
        "zero 2": ("joint", dict(dp_shard=2, zero=2), {}),
        "replicate": ("joint", dict(dp_replicate=2), {}),
        "stage 1": ("pretrain", dict(dp_shard=2), {}),
        "half": ("joint", dict(dp_shard=2), {"train": {"dtype": "bfloat16", "accumulation": 2}}),
        "chunks": ("joint", dict(dp_shard=2), {"loss": SINKHORN}),
        "chunks, zero 2": ("joint", dict(dp_shard=2, zero=2), {"loss": SINKHORN}),
        "tp": ("joint", dict(tp=2, sequence_parallel=False), {}),
        "tp, sequence": ("joint", dict(tp=2), {}),
        "tp, sequence, full": ("joint", dict(tp=2, activation_checkpointing="full"), {}),
        "tp, half": ("joint", dict(tp=2), {"train": {"dtype": "bfloat16"}}),
        "tp, plain, half": ("joint", dict(tp=2, sequence_parallel=False), {"train": {"dtype": "bfloat16"}}),
        "tp, chunks": ("joint", dict(tp=2), {"loss": SINKHORN}),
    },
    4: {
        "dp": ("joint", dict(dp_shard=4), {}),
        "hsdp": ("joint", dict(dp_replicate=2, dp_shard=2), {}),
        "dp × tp": ("joint", dict(dp_shard=2, tp=2), {}),
        "dp × tp, zero 2": ("joint", dict(dp_shard=2, tp=2, zero=2, sequence_parallel=False), {}),
        "dp × tp, stage 1": ("pretrain", dict(dp_replicate=2, tp=2), {}),
    },
}
KIND = {
    "allreduce_": "all-reduce",
    "_allgather_base_": "all-gather",
    "allgather_": "all-gather",
    "_reduce_scatter_base_": "reduce-scatter",
}


class Counter(TorchDispatchMode):
    """Bytes that this process sends, by (ranks of the group, collective)."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: dict[tuple[tuple[int, ...], str], float] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "c10d":
            kind = KIND[function._schema.name.removeprefix("c10d::")]
            group = dist.ProcessGroup.unbox(next(arg for arg in args if isinstance(arg, torch.ScriptObject)))
            ranks = tuple(dist.get_process_group_ranks(group))
            whole = max(_size(argument) for argument in args[:2])  # of output and input, the one that is not divided
            add(self.sent, ranks, kind, (2 if kind == "all-reduce" else 1) * whole * (len(ranks) - 1) / len(ranks))
        return function(*args, **(kwargs or {}))


def add(totals: dict, ranks: tuple[int, ...], kind: str, size: float) -> None:
    totals[ranks, kind] = totals.get((ranks, kind), 0) + size


def _size(argument) -> int:
    if isinstance(argument, torch.Tensor):
        return argument.numel() * argument.element_size()
    return sum(_size(item) for item in argument) if isinstance(argument, list | tuple) else 0


def configured(stage: str, parallel: dict, sections: dict):
    train = {"dtype": "float32", "image_batch": 4, "clip_batch": 4 * (stage == "joint")} | sections.get("train", {})
    return tiny_config(stage=stage, parallel=parallel, model=MODEL, **sections | {"train": train})


def count(config, folder: Path) -> tuple[dict, dict]:
    """Bytes of a step by (ranks of the group, collective), and the ranks of each axis."""
    shape = tuple(getattr(config.parallel, axis) for axis in ("dp_replicate", "dp_shard", "tp"))
    with open_mesh(shape, CPU) as mesh:
        mesh = replace(mesh, whole=False)  # as on GPUs, which estimates are for
        dtype = torch.bfloat16 if config.train.dtype == "bfloat16" else torch.float32
        step = TrainStep(config, build_state(config, CPU, mesh), folder, dtype)
        with Counter() as counter:
            step(both(image_batch(0), clip_batch(0) if config.stage == "joint" else None))
        axes = {name: mesh.shards[name].get_group() for name in mesh.shards.mesh_dim_names}
        axes |= {"data": mesh.data.handle, "tp": mesh.tp.handle}
        return counter.sent, {name: tuple(dist.get_process_group_ranks(group)) for name, group in axes.items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(world, case) -> counted bytes of the first process, and the ranks of each axis."""
    folder = tmp_path_factory.mktemp("bytes")
    return worked_through(CASES, lambda case: count(configured(*case), folder), folder)


@pytest.mark.parametrize(("world", "name"), [(world, name) for world, cases in CASES.items() for name in cases])
def test_counted_bytes_are_those_of_the_estimate(found, world, name):
    counted, ranks = found[world, name]
    predicted: dict = {}
    for kind, size in estimate(configured(*CASES[world][name])).bytes_sent.items():
        axis, collective = kind.split()
        add(predicted, ranks[axis], collective, size)
    for key in sorted(counted.keys() | predicted.keys()):
        print(f"{world} {name:<20} {key!s:<36} counted {counted.get(key, 0):>10.0f} predicted {predicted.get(key, 0):>10.0f}")
    assert predicted
    for key in counted.keys() | predicted.keys():
        assert counted.get(key, 0) == pytest.approx(predicted.get(key, 0), rel=TOLERANCE, abs=SCALARS), key
