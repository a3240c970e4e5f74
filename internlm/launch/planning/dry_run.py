"""One training step of one process of any mesh on fake tensors: real shapes, the real division, no memory and no other process.

torch's fake process group answers every collective at once, FakeTensorMode computes shapes alone. Nothing is learned about values
or time. Kernels are the CPU's, attention its fused one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from internlm.config.errors import ConfigError
from internlm.core.init import autocast
from internlm.core.mesh import Mesh, open_mesh
from internlm.monitor.live_memory import LiveMemory
from internlm.parallel.plan import local
from internlm.systems.base import System
from internlm.systems.egoagent import cost as flops
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.sequence import clip_layout, frame_layout
from internlm.systems.resolve import build_system
from internlm.train.engine import TorchEngine
from internlm.train.state import divide_system

CPU = torch.device("cpu")


@dataclass(frozen=True)
class DryRun:
    """What one process holds, in bytes: ``peak`` is of a whole step; ``shapes`` are its shards of the predictor's parameters."""

    rank: int
    parameters: int
    gradients: int
    optimizer: int
    observer: int
    peak: int
    shapes: dict[str, tuple[int, ...]]


def dry_run(config: Config, rank: int) -> DryRun:
    """Process ``rank`` of the config's mesh: a micro-step of each kind, the optimizer's step, the observer's.

    Minutes at the published sizes. ConfigError where this process belongs to a process group already.
    """
    if dist.is_initialized():
        raise ConfigError("a dry run opens a process group of its own, and this process belongs to one: run it alone")
    parallel = config.parallel
    shape = (parallel.dp_replicate, parallel.dp_shard, parallel.tp)
    _build_layouts(config)
    with _fake_world(rank, shape[0] * shape[1] * shape[2]), open_mesh(shape, CPU) as mesh:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _step(config, mesh, rank)


@contextmanager
def _fake_world(rank: int, size: int) -> Iterator[None]:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if size == 1:
        yield
        return
    dist.init_process_group("fake", rank=rank, world_size=size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def _build_layouts(config: Config) -> None:
    """Layouts are read on the host, which fake tensors refuse; they are built here and kept by their cache."""
    model, steps = config.model, config.data.clip.steps
    sides = {size // model.patch_size for size in (model.image_size, model.local_image_size)}
    layouts = [frame_layout(side * side, model.sequence) for side in sides]
    patches = (model.image_size // model.patch_size) ** 2
    layouts += [frame_layout(patches, model.sequence, steps), clip_layout(patches, steps, model.sequence, steps)]
    for layout in layouts:
        layout.mask(CPU)


def _step(config: Config, mesh: Mesh, rank: int) -> DryRun:
    dtype = torch.float32 if config.train.dtype == "float32" else torch.bfloat16
    with torch.device("meta"):
        system = build_system(config)
    for part in system.parts().values():
        _onto_fake(part.module)
    divide_system(system, CPU, dtype, mesh)
    agent = system.agent
    engine, values = TorchEngine(system.parts(), config, mesh), {n: at(0) for n, at in system.schedules().items()}

    def finish() -> None:
        engine.clipped_norm()
        engine.step(0, values)

    finish()  # of the step before: it leaves the optimizer's states
    trained = engine.parameters
    states = [tensor for state in engine.optimizer.state.values() for tensor in state.values() if tensor.ndim]
    pieces = config.train.accumulation
    if pieces == 1:
        engine.zero_grad()  # else those of the pieces before lie there
    with LiveMemory() as memory:
        memory.watch([*agent.parameters(), *states, *(p.grad for p in trained if p.grad is not None)])
        for run in _losses(system):
            with autocast(CPU, dtype):
                total = run()
            engine.backward(total, last=True)
            del total
        finish()
    return DryRun(
        rank,
        parameters=_bytes(agent.predictor.parameters()),
        gradients=_bytes(parameter.grad for parameter in trained),
        optimizer=_bytes(states),
        observer=_bytes(agent.observer.parameters()),
        peak=memory.peak,
        shapes={name: tuple(local(parameter).shape) for name, parameter in agent.predictor.named_parameters()},
    )


def _losses(system: System) -> Iterator:
    """The losses of a micro-step of each kind that the config trains on, to be called one after the other."""
    config, agent, loss = system.config, system.agent, system.loss
    model, crops, train = config.model, config.data.crops, config.train
    images, clips = train.image_batch // train.accumulation, train.clip_batch // train.accumulation
    if images:
        sizes = ((crops.global_crops, model.image_size), (crops.local_crops, model.local_image_size))
        views = [torch.empty(number, images, 3, size, size) for number, size in sizes if number]
        yield lambda: loss.image_loss(agent.predictor, agent.observer, views, 0.04).total
    if clips:
        frames, actions = flops.clip_inputs(config, clips)
        frames, *actions = (torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in (frames, *actions))
        yield lambda: loss.clip_loss(agent.predictor, agent.observer, frames, frames, tuple(actions), 0.04).total


def _onto_fake(root: nn.Module) -> None:
    """Give a module on the meta device fake tensors; ``to_empty`` cannot replace parameters by fake ones."""
    for module in root.modules():
        for name, old in module._parameters.items():
            if old is not None:
                new = torch.empty(old.shape, dtype=old.dtype)
                module._parameters[name] = nn.Parameter(new, requires_grad=old.requires_grad)
        for name, old in module._buffers.items():
            if old is not None:
                module._buffers[name] = torch.empty(old.shape, dtype=old.dtype)


def _bytes(tensors) -> int:
    return sum(local(tensor).nbytes for tensor in tensors)
