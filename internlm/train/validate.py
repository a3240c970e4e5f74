"""Held-out losses while training: those of a step, on batches of another split, after which everything is as before."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from internlm.config.schema import Config
from internlm.core.seed import rng_state, seed_process, set_rng_state
from internlm.data.contents import listed
from internlm.data.frames import DataError
from internlm.data.loader import TrainingBatches
from internlm.data.order import Source, Stream
from internlm.parallel.apply import free_gathered
from internlm.systems.resolve import build_system_on_meta

from .state import TrainState
from .step import add_losses, means

Read = Callable[[Mapping[str, Stream], range], TrainingBatches]  # this process's batches of some steps


def held_out_batches(config: Config, read: Read, trained_on: Mapping[str, Source]) -> list[dict[str, Any]]:
    """The batches of ``train.validate_batches`` first turns of each stream of ``data.validate_split``.

    DataError where there are no such samples, or where those of ``trained_on`` are among them.
    """
    train, data = config.train, config.data
    held_out = data.model_copy(update={"split": data.validate_split})
    streams = build_system_on_meta(config.model_copy(update={"data": held_out})).streams()
    way_out = f"train.validate_every is {train.validate_every}: name another split with data.validate_split, or set it to 0"
    try:
        batches = read(streams, range(train.validate_batches * max(stream.every for stream in streams.values())))
    except DataError as error:
        raise DataError(f"no data to validate on: {error}. {way_out}") from error
    for name, source in batches.sources.items():
        other = trained_on[name].contents() if name in trained_on else {}
        if shared := [unit for unit, about in source.contents().items() if other.get(unit) == about]:
            batches.close()
            same = f"has what is trained on, {listed(shared)} (a folder of images has no splits)"
            raise DataError(f"stream {name}: split {data.validate_split!r} {same}. {way_out}")
    return list(batches)


@torch.no_grad()
def held_out_losses(
    state: TrainState, batches: list[dict[str, Any]], values: Mapping[str, float], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The losses of a step by name, means over batches and processes, in evaluation mode; a collective.

    What is drawn in between is the same each time, and the process's generators go on as if nothing had been.
    """
    system, modules, device = state.system, state.modules().values(), state.device
    generators = rng_state(device)
    seed_process(system.config.seed, 0, state.mesh.data.rank)
    for module in modules:
        module.eval()
    found = defaultdict(list)
    for batch in batches:
        losses: dict[str, Tensor] = {}
        for piece in system.terms(batch, values, dtype=dtype):
            add_losses(losses, piece(), system.config.train.accumulation)
        for name, value in losses.items():
            found[name].append(value)
    for module in modules:
        free_gathered(module)
        module.train()
    set_rng_state(generators, device)
    return means({name: torch.stack(values).mean() for name, values in found.items()}, state.mesh.data)
