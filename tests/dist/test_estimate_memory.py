"""What ``egoagent estimate`` says that a process needs, against the tensors that exist in a real step on the CPU, one by one.

Not counted on either side: what kernels and collectives allocate for themselves.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from case_samples import worked_through
from train_samples import both, clip_batch, image_batch, tiny_config

from internlm.core.mesh import open_mesh
from internlm.estimate.measure import estimate
from internlm.monitor.live_memory import LiveMemory
from internlm.parallel.plan import local
from internlm.train.state import build_state
from internlm.train.step import TrainStep

pytestmark = pytest.mark.timeout(900)  # of which the first test's fixture takes nearly all
CPU = torch.device("cpu")
TOLERANCE = 0.03  # pieces of a batch before this one leave buffers, and the whole batch is in memory
MODEL = dict(
    patch_size=4, hidden_size=64, num_layers=3, num_heads=4, mlp_multiple_of=32, head_hidden=64, head_bottleneck=32,
    prototypes=256, image_size=32, local_image_size=16,
)  # fmt: skip
FULL, SELECTIVE = ({"activation_checkpointing": kind} for kind in ("full", "selective"))
CASES = {
    1: {
        "stage 1": ("pretrain", {}, "float32"),
        "joint, full": ("joint", FULL, "float32"),
        "joint, half": ("joint", {}, "bfloat16"),
    },
    2: {
        "zero 3": ("joint", dict(dp_shard=2), "float32"),
        "zero 2, full": ("joint", dict(dp_shard=2, zero=2, **FULL), "float32"),
        "replicate, half": ("pretrain", dict(dp_replicate=2), "bfloat16"),
        "tp": ("joint", dict(tp=2), "float32"),
        "tp, plain": ("joint", dict(tp=2, sequence_parallel=False), "float32"),
        "tp, selective": ("joint", dict(tp=2, **SELECTIVE), "float32"),
    },
}


def larger(batch):
    """The toy's views at twice the size, so that tokens outweigh weights."""
    pixels = ("images", "global_crops", "local_crops")
    twice = {name: getattr(batch, name) for name in pixels if hasattr(batch, name)}
    return replace(batch, **{name: t.repeat_interleave(2, -1).repeat_interleave(2, -2) for name, t in twice.items()})


def configured(stage: str, parallel: dict, dtype: str):
    train = {"dtype": dtype, "image_batch": 8, "clip_batch": 8 * (stage == "joint"), "accumulation": 2}
    return tiny_config(stage=stage, parallel=parallel, model=MODEL, train=train)


def measure(config, folder: Path) -> dict[str, int]:
    """Bytes of the second step."""
    shape = tuple(getattr(config.parallel, axis) for axis in ("dp_replicate", "dp_shard", "tp"))
    batches = both(larger(image_batch(0, 8)), larger(clip_batch(0, 8)) if config.stage == "joint" else None)
    with open_mesh(shape, CPU) as mesh:
        mesh = replace(mesh, whole=False)  # as on GPUs, which estimates are for
        state = build_state(config, CPU, mesh)
        step = TrainStep(config, state, folder, getattr(torch, config.train.dtype))
        step(batches)
        state.engine.zero_grad()
        moments = [moment for moments in state.engine.optimizer.state.values() for moment in moments.values() if moment.ndim]
        memory = LiveMemory()
        memory.watch([*state.system.agent.parameters(), *moments])
        with memory:
            step(batches)
        return {
            "parameters": sum(local(p).nbytes for p in state.system.agent.predictor.parameters()),
            "observer": sum(local(p).nbytes for p in state.system.agent.observer.parameters()),
            # Whole until the last piece, but where no other process has other samples.
            "gradients": sum((local(p.grad) if mesh.data.size == 1 else p.grad).nbytes for p in state.engine.parameters),
            "optimizer": sum(local(moment).nbytes for moment in moments),
            "total": memory.peak,
        }


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(world, case) -> measured bytes of the first process."""
    folder = tmp_path_factory.mktemp("memory")
    return worked_through(CASES, lambda case: measure(configured(*case), folder), folder)


@pytest.mark.parametrize(("world", "name"), [(world, name) for world, cases in CASES.items() for name in cases])
def test_measured_bytes_are_those_of_the_estimate(found, world, name):
    predicted = estimate(configured(*CASES[world][name]))
    sizes = predicted.memory | {"total": predicted.total}
    for part, measured in found[world, name].items():
        print(f"{world} {name:<16} {part:<12} measured {measured:>9} predicted {sizes[part]:>9}  {sizes[part] / measured:.3f}")
    for part, measured in found[world, name].items():
        assert sizes[part] == pytest.approx(measured, rel=TOLERANCE if part == "total" else 0), part
