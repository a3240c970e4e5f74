"""A step of one process, measured on fake tensors: whole, or with few blocks and carried on to all of them.

Blocks of a trunk are alike, so that bytes and FLOPs are linear in their number. Shards of states are arithmetic, and what travels
over an axis of the mesh depends on its size as below: one step tells all sizes of the data-parallel axes.

With n processes in a group and a whole tensor of S bytes, a process sends (and receives)

    all-gather, reduce-scatter   S (n - 1) / n
    all-reduce                   2 S (n - 1) / n

Left out: what kernels and collectives allocate for themselves, and what a health reading or a checkpoint sends now and then.
"""

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import lcm

import torch
import torch.distributed as dist
from torch import Tensor

from internlm.config.schema import Config, ParallelConfig
from internlm.core.mesh import AXES, Mesh
from internlm.parallel.plan import local
from internlm.systems.base import System
from internlm.systems.resolve import build_system_on_meta
from internlm.train.engine import TorchEngine, trained_modules
from internlm.train.state import divide_system

from .fake import CPU, fake_mesh, onto_fake
from .meter import INNER, Meter

OF_SHARDS = "of shards"
FEW = (2, 3)  # blocks; the first and the last of a trunk behave as they do in a deep one
States = list[tuple[int, int]]  # (length of dim 0, bytes of a row) of tensors in shards; a whole one is a single row
Shape = dict[str, int]  # dp_replicate, dp_shard, tp


@dataclass(frozen=True)
class Measured:
    """One process: its states by kind, bytes above them by segment of a step, what a step sends and computes."""

    states: Mapping[str, States]
    held: Mapping[str, int]  # bytes of the states in this very process
    peaks: Mapping[tuple[int, str], tuple[int, int]]  # all bytes above the states, and those of weights' copies among them
    # Bytes of the whole tensors of all collectives of an optimizer step, by ``<axis> <collective>``; those of shards apart.
    whole: Mapping[str, float]
    flops: float  # of an optimizer step
    shape: Shape  # sizes of the mesh
    shapes: Mapping[str, tuple[int, ...]]  # of this process's parts of the trained parameters


@dataclass(frozen=True)
class Estimate:
    """One process of a mesh: bytes of memory by what they are for, bytes sent in a step by axis and collective, FLOPs of a step.

    ``memory``: the trained parts' ``parameters``, ``gradients`` and ``optimizer`` states, each other part by its name,
    ``working_copy`` (weights gathered or in the compute dtype at the worst moment) and ``activations`` (all else at that moment).
    """

    memory: dict[str, int]
    bytes_sent: dict[str, float]
    flops: float

    @property
    def total(self) -> int:
        """All bytes of memory at the worst moment."""
        return sum(self.memory.values())


@dataclass(frozen=True)
class DryRun:
    """What process ``rank`` of a mesh holds, in bytes, and the shapes of its parts of the trained parameters."""

    rank: int
    memory: dict[str, int]
    peak: int
    shapes: dict[str, tuple[int, ...]]


def estimate(config: Config, *, counts: Mapping[str, int] | None = None) -> Estimate:
    """The first process of a config's mesh. ``counts``: samples of a stream in a micro-step, in place of its share of the batch.

    Seconds at any size. ConfigError where this process belongs to a process group already.
    """
    depth, few = shallow(config, build_system_on_meta(config))
    return at([measure(each, counts=counts) for each in few], depth, shape_of(config.parallel))


def dry_run(config: Config, rank: int) -> DryRun:
    """Process ``rank`` of a config's mesh with all its blocks, on exactly this mesh; up to a minute at the published sizes."""
    shape = shape_of(config.parallel)
    system = build_system_on_meta(config)
    found = measure(_portable(config, system), rank=rank, mesh=tuple(shape.values()))
    above, copies = max(found.peaks.values())
    memory = {**found.held, "working_copy": copies, "activations": above - copies}
    return DryRun(rank, memory, sum(memory.values()), dict(found.shapes))


def shape_of(mesh: ParallelConfig) -> Shape:
    """Sizes of a mesh's axes."""
    return {axis: getattr(mesh, axis) for axis in AXES}


def shallow(config: Config, system: System) -> tuple[int, list[Config]]:
    """The blocks of a config's system, and the configs to measure in its place: with few blocks, or itself."""
    if system.depth <= max(FEW):
        return system.depth, [_portable(config, system)]
    return system.depth, [system.shallow(blocks) for blocks in FEW]


def _portable(config: Config, system: System) -> Config:
    """With all its blocks, by kernels that this machine has."""
    return system.shallow(system.depth) if system.depth else config


def at(few: list[Measured], depth: int, shape: Shape) -> Estimate:
    """From what was measured (whole: one; or with ``FEW`` blocks: two) to a depth and to sizes of the data-parallel axes."""
    states = {kind: _line([_held(each.states[kind], shape["dp_shard"]) for each in few], depth) for kind in few[0].states}
    peaks = [
        [_line([each.peaks[segment][which] for each in few], depth) for which in (0, 1)]
        for segment in few[0].peaks
        if len(few) == 1 or segment[1] != INNER
    ]
    above, copies = max(peaks)
    sent: dict[str, float] = {}
    for name in few[0].whole:
        axis, collective, *of_shards = name.split()
        size, before = ({**each, "data": each["dp_replicate"] * each["dp_shard"]}.get(axis, 1) for each in (shape, few[0].shape))
        whole = _line([each.whole[name] for each in few], depth)
        if axis == "data" and collective != "all-reduce":
            whole *= size / before  # each process brings its own samples
        if of_shards:
            whole *= few[0].shape["dp_shard"] / shape["dp_shard"]
        if size > 1:
            name = f"{axis} {collective}"
            sent[name] = sent.get(name, 0) + (2 if collective == "all-reduce" else 1) * whole * (size - 1) / size
    memory = {**states, "working_copy": copies, "activations": above - copies}
    return Estimate({kind: round(size) for kind, size in memory.items()}, sent, _line([each.flops for each in few], depth))


def _line(values: list[float], depth: int) -> float:
    """The value at a depth on the line through those at ``FEW`` blocks."""
    if len(values) == 1:
        return values[0]
    return values[0] + (depth - FEW[0]) * (values[1] - values[0]) / (FEW[1] - FEW[0])


def _held(states: States, shards: int) -> int:
    """Bytes of the first process, which has a full share where rows do not divide evenly."""
    return sum(-(-length // shards) * row if length > 1 else row for length, row in states)


def measure(
    config: Config, *, counts: Mapping[str, int] | None = None, rank: int = 0, mesh: tuple[int, int, int] | None = None
) -> Measured:
    """Process ``rank`` of a mesh: all of an optimizer step. States exist from the step before.

    ``mesh``: exact sizes, else those that tell the most about the config's: axes that differ in who belongs to them.
    """
    train, parallel, shape = config.train, config.parallel, mesh or telling(shape_of(config.parallel))
    micro = {"train": train.model_copy(update={"accumulation": 1}), "parallel": parallel.model_copy(update={"compile": False})}
    with warnings.catch_warnings(), fake_mesh(shape, rank) as processes:
        warnings.simplefilter("ignore")  # torch's about its own calls
        system = build_system_on_meta(config.model_copy(update=micro))
        for part in system.parts().values():
            onto_fake(part.module)
        dtype = torch.float32 if train.dtype == "float32" else torch.bfloat16
        divide_system(system, CPU, dtype, processes)
        return _step(system, processes, dtype, train.accumulation, counts or {}, dict(zip(AXES, shape, strict=True)))


def telling(shape: Shape) -> tuple[int, int, int]:
    """The sizes at which a mesh is measured, the same for all that differ in the data-parallel axes alone."""
    data = shape["dp_replicate"] * shape["dp_shard"]
    shards = next((size for size in range(min(data, 8), 1, -1) if data % size == 0), data)
    return (1 if data == 1 else 2, shards, shape["tp"])


def _step(system: System, mesh: Mesh, dtype: torch.dtype, pieces: int, counts: Mapping[str, int], shape: Shape) -> Measured:
    parts, streams = system.parts(), {name: stream for name, stream in system.streams().items() if stream.size}
    config = system.config.model_copy(update={"train": system.config.train.model_copy(update={"accumulation": pieces})})
    engine, values = TorchEngine(parts, config, mesh), {name: at(0) for name, at in system.schedules().items()}
    meter = Meter(_axes(mesh))

    def finish() -> None:
        engine.clipped_norm()
        engine.step(0, values)
        system.after_step(values)

    finish()  # of the step before: it leaves the optimizer's states
    for part in parts.values():
        meter.follow(part.module)
    states = _states(engine, parts)
    meter.watch(tensor for tensors in states.values() for tensor in tensors)
    held = {kind: sum(local(tensor).nbytes for tensor in tensors) for kind, tensors in states.items()}
    rows = {kind: [_rows(tensor) for tensor in tensors] for kind, tensors in states.items()}
    period = lcm(*(stream.every for stream in streams.values()))
    if engine.accumulating:
        rows["gradients"] = [(1, gradient.nbytes) for gradient in states.pop("gradients")]
        held["gradients"] = sum(size for _, size in rows["gradients"])
    forth, flops = Counter(), 0.0
    with meter:
        for turn in range(period):
            if engine.accumulating:
                engine.zero_grad()
            # Of a step's pieces all but the last are alike.
            for times, last in ((pieces - 1, False), (1, True))[pieces == 1 :]:
                sent, done = meter.whole.copy(), meter.flops
                batches = {
                    name: system.example(name, counts.get(name) or stream.size // pieces, CPU)
                    for name, stream in streams.items()
                    if turn % stream.every == stream.turn
                }
                terms = system.terms(batches, values, dtype=dtype)
                for number, term in enumerate(terms, start=1):
                    engine.backward(term().total / pieces, last=last and number == len(terms))
                del batches, terms, term
                flops += times * (meter.flops - done) / period
                for name, size in meter.whole.items():
                    forth[name] += times * (size - sent[name]) / period
        before = meter.whole.copy()
        finish()
    whole = Counter()
    for name, size in meter.whole.items():
        whole[name if not name.startswith("dp_replicate") else f"{name} {OF_SHARDS}"] += forth[name]
        whole[f"{name} {OF_SHARDS}"] += size - before[name]  # gradients, when a step ends
    peaks = {segment: (live - sum(held.values()), copies) for segment, (live, copies) in meter.peaks.items()}
    named = (pair for module in trained_modules(parts).values() for pair in module.named_parameters())
    shapes = {name: tuple(local(parameter).shape) for name, parameter in named}
    return Measured(rows, held, peaks, whole, flops, shape, shapes)


def _states(engine: TorchEngine, parts: Mapping) -> dict[str, list[Tensor]]:
    """What lives from step to step. Gradients count as if they always did, as they do between the passes of a step."""
    moments = [tensor for state in engine.optimizer.state.values() for tensor in state.values() if tensor.ndim]
    others = {name: list(part.module.parameters()) for name, part in parts.items() if not part.trained}
    trained = trained_modules(parts).values()
    return {
        "parameters": [parameter for module in trained for parameter in module.parameters()],
        "gradients": [parameter.grad for parameter in engine.parameters],
        "optimizer": moments,
        **{name: tensors for name, tensors in others.items() if tensors},
    }


def _rows(tensor: Tensor) -> tuple[int, int]:
    if not hasattr(tensor, "to_local") or tensor.ndim == 0:
        return 1, tensor.nbytes
    return tensor.shape[0], tensor.nbytes // tensor.shape[0]


def _axes(mesh: Mesh) -> dict[tuple[int, ...], str]:
    """The name of each axis by the ranks of this process's group on it."""
    groups = {"data": mesh.data.handle, "tp": mesh.tp.handle}
    if mesh.shards is not None:
        groups |= {name: mesh.shards[name].get_group() for name in mesh.shards.mesh_dim_names}
    return {tuple(dist.get_process_group_ranks(group)): name for name, group in groups.items() if group is not None}
