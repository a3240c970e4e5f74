"""Evaluation on several processes: each runs whole batches, and process 0 gets them all back in order.

A batch is the same images whatever the number of processes, so that its features are the same to the last bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

from internlm.core.collectives import rank, world_size
from internlm.core.mesh import join, read_launch

from .errors import EvalError

Part = TypeVar("Part")


@contextmanager
def joined() -> Iterator[bool]:
    """Join the processes that torchrun or srun started, if one did; yields whether this is the one that reports.

    gloo, since features are gathered in main memory. A group that exists already is used and left as it is.
    """
    launch = read_launch()
    own = launch.world > 1 and not dist.is_initialized()
    if own:
        # Process 0 may search for long while others wait; all start at the same time, though.
        join(launch, "gloo", timedelta(hours=12), patience=timedelta(minutes=10))
    try:
        yield rank() == 0
        if own:
            dist.barrier()
    finally:
        if own:
            dist.destroy_process_group()


def own_share(batches: int) -> range:
    """Numbers of the batches that this process runs."""
    return range(rank(), batches, world_size())


def gathered(run: Callable[[], dict[int, dict[str, Tensor]]]) -> dict[int, dict[str, Tensor]]:
    """Run this process's share, {batch number: tensors by name}, and return all shares by rising number.

    Only process 0 gets the tensors, on the CPU; the others get an empty dict. An error on any process is raised on all, so that
    none waits for ever: its own where it happened, an EvalError with its text elsewhere.
    """
    error: Exception | None = None
    parts: list[tuple[int, dict[str, Tensor]]] = []
    try:
        parts = list(run().items())
    except Exception as caught:
        error = caught
    known: list = [None] * world_size()
    if world_size() > 1:
        dist.all_gather_object(known, (len(parts), None if error is None else f"{type(error).__name__}: {error}"))
    if error is not None:
        raise error
    if world_size() == 1:
        return dict(sorted(parts))
    failed = [f"process {number}: {text}" for number, (_, text) in enumerate(known) if text]
    if failed:
        raise EvalError("; ".join(failed))
    found: dict[int, dict[str, Tensor]] = {}
    for _ in range(max(count for count, _ in known)):  # batch by batch: nobody holds all features of a process twice
        box: list | None = None if rank() else [None] * world_size()
        dist.gather_object([parts.pop()] if parts else [], box)
        for piece in box or ():
            found |= piece
    return dict(sorted(found.items()))


def from_first(compute: Callable[[], Part]) -> Part:
    """What process 0 computes, on all of them; its error is raised on all."""
    if world_size() == 1:
        return compute()
    box: list = [None, None]
    caught: Exception | None = None
    if rank() == 0:
        try:
            box[0] = compute()
        except Exception as error:
            caught, box[1] = error, f"process 0: {type(error).__name__}: {error}"
    dist.broadcast_object_list(box, src=0)
    if caught is not None:
        raise caught
    if box[1] is not None:
        raise EvalError(box[1])
    return box[0]
