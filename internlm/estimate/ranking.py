"""What each mesh of so many GPUs would cost, the fastest that fits first.

Memory and bytes on the wire are measured (``measure.py``). Seconds are an estimate from three assumptions: the share of the
GPU's peak that computing reaches, the bandwidths of a data sheet, and that what ``fully_shard`` sends is hidden behind four
fifths of the computing, while tensor parallelism waits for every collective.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError

from internlm.config.schema import Config, ParallelConfig
from internlm.core.mesh import AXES
from internlm.monitor.gpus import Gpu
from internlm.systems.base import System
from internlm.systems.resolve import build_system_on_meta

from .measure import Estimate, Measured, at, measure, shallow, shape_of, telling

HIDDEN_SHARE = 0.8  # of the computing that weights and gradients travel behind
RESERVED = 0.10  # of the memory: CUDA's context, the allocator's slack, communication buffers
KINDS = ("none", "selective", "full")  # of activation checkpointing
SHOWN = ("dp_replicate", "dp_shard", "tp", "zero", "activation_checkpointing")


@dataclass(frozen=True)
class Row:
    """One mesh. ``reason`` says why it cannot run; None for one that can. Memory in bytes, times in seconds of a step."""

    parallel: dict[str, Any]
    memory: dict[str, int]
    bytes_sent: dict[str, float]
    compute_seconds: float
    communication_seconds: float
    step_seconds: float
    samples_per_second: float
    mfu: float
    reason: str | None = None


def rank_meshes(config: Config, gpu: Gpu, gpus: int, *, per_node: int = 8, efficiency: float = 0.4) -> list[Row]:
    """Every mesh of so many GPUs with every ZeRO level: those that fit by speed, then the others.

    Each with the first activation checkpointing of none, selective and full that fits, for it costs time and gives memory alone.
    """
    system = build_system_on_meta(config)
    samples = {name: stream.size / stream.every for name, stream in system.streams().items()}
    useful = system.cost().flops()
    work = sum(count * useful[name] for name, count in samples.items())
    rows, waiting = [], meshes(config.parallel, gpus)
    with closing(_Measurements(config, system)) as measurements:
        for kind in KINDS:
            tried, waiting = [mesh.model_copy(update={"activation_checkpointing": kind}) for mesh in waiting], []
            for mesh, found in zip(tried, measurements.of(tried, per_node), strict=True):
                row = _row(mesh, found, sum(samples.values()), work, gpu, per_node, efficiency)
                if row.reason is None or not row.memory or kind == KINDS[-1]:
                    rows.append(row)
                else:
                    waiting.append(mesh)
    return sorted(rows, key=_order)


def _order(row: Row) -> tuple:
    """Between meshes of one estimated speed: less checkpointing first, then less memory."""
    speed = float(f"{row.samples_per_second:.3g}")
    return row.reason is not None, -speed, KINDS.index(row.parallel["activation_checkpointing"]), sum(row.memory.values())


def meshes(base: ParallelConfig, gpus: int) -> list[ParallelConfig]:
    """All factorisations of ``gpus``; ZeRO's level matters only where something is sharded.

    Of the torch engine: DeepSpeed's memory and traffic are its own.
    """
    base = base.model_copy(update={"engine": "torch", "zero": max(base.zero, 2)})
    return [
        base.model_copy(update={"dp_replicate": gpus // tp // shard, "dp_shard": shard, "tp": tp, "zero": zero})
        for tp in _divisors(gpus)
        for shard in _divisors(gpus // tp)
        for zero in ((2, 3) if shard > 1 else (base.zero,))
    ]


def _divisors(number: int) -> list[int]:
    return [value for value in range(1, number + 1) if number % value == 0]


class _Measurements:
    """Estimates of a config's meshes; those that differ in the sizes of the data-parallel axes share a measurement."""

    def __init__(self, config: Config, system: System) -> None:
        self.config, self.depth, self.few = config, *shallow(config, system)
        self._found: dict[tuple, list[Measured] | str] = {}
        self._pool: ProcessPoolExecutor | None = None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def of(self, meshes: list[ParallelConfig], per_node: int) -> list[Estimate | str]:
        """An estimate of each mesh, or why the system cannot be divided so."""
        refused = [self._refused(mesh, per_node) for mesh in meshes]
        wanted = {_key(mesh): mesh for mesh, reason in zip(meshes, refused, strict=True) if reason is None}
        self._measure({key: mesh for key, mesh in wanted.items() if key not in self._found})
        found = (reason or self._found[_key(mesh)] for mesh, reason in zip(meshes, refused, strict=True))
        return [each if isinstance(each, str) else at(each, self.depth, shape_of(mesh)) for mesh, each in zip(meshes, found)]

    def _refused(self, mesh: ParallelConfig, per_node: int) -> str | None:
        if mesh.tp > per_node:
            return f"tp {mesh.tp} reaches over nodes of {per_node} GPUs"
        try:
            type(self.config).model_validate(self.config.model_dump() | {"parallel": mesh.model_dump()})
        except ValidationError as error:
            return "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())
        return None

    def _measure(self, meshes: dict[tuple, ParallelConfig]) -> None:
        jobs = [[config.model_copy(update={"parallel": mesh}) for config in self.few] for mesh in meshes.values()]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if self._pool is None and min(cores, len(jobs) // 2) > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(min(cores, len(jobs)), context, torch.set_num_threads, (1,))
        found = map(_measured, jobs) if self._pool is None else self._pool.map(_measured, jobs)
        self._found |= zip(meshes, found, strict=True)


def _key(mesh: ParallelConfig) -> tuple:
    return telling(shape_of(mesh)), mesh.zero, mesh.activation_checkpointing


def _measured(few: list[Config]) -> list[Measured] | str:
    try:
        return [measure(config) for config in few]
    except RuntimeError as error:  # shapes that do not fit
        return f"the system cannot be divided so: {str(error).splitlines()[0]}"


def _row(
    mesh: ParallelConfig, found: Estimate | str, samples: float, work: float, gpu: Gpu, per_node: int, efficiency: float
) -> Row:
    shown = {name: getattr(mesh, name) for name in SHOWN}
    if isinstance(found, str):
        return Row(shown, {}, {}, 0, 0, 0, 0, 0, found)
    peak = gpu.tflops * 1e12
    compute = found.flops / (peak * efficiency)
    slow = {axis: gpu.link if fits else gpu.network for axis, fits in _inside_a_node(mesh, per_node).items()}
    seconds = {name: size / (slow[name.split()[0]] * 1e9) for name, size in found.bytes_sent.items()}
    waits = sum(time for name, time in seconds.items() if name.startswith("tp "))
    hidden = sum(seconds.values()) - waits
    step = compute + waits + max(0.0, hidden - HIDDEN_SHARE * compute)
    usable = gpu.memory * 1e9 * (1 - RESERVED)
    reason = None if found.total <= usable else f"needs {found.total / 1e9:.1f} GB of memory, {usable / 1e9:.1f} are usable"
    speed = mesh.dp_replicate * mesh.dp_shard * samples / step
    return Row(shown, found.memory, found.bytes_sent, compute, waits + hidden, step, speed, work / mesh.tp / step / peak, reason)


def _inside_a_node(mesh: ParallelConfig, per_node: int) -> dict[str, bool]:
    """Whether the processes of each axis share a node; tp varies fastest, dp_replicate slowest."""
    size, inside = 1, {}
    for axis in reversed(AXES):
        size *= getattr(mesh, axis)
        inside[axis] = size <= per_node
    return inside | {"data": inside["dp_replicate"]}
