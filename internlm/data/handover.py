"""How a data worker's batch comes to the main process: in shared memory, or as bytes where that has no room."""

import pickle
import shutil
from dataclasses import fields
from multiprocessing.reduction import ForkingPickler
from typing import NamedTuple

import numpy as np
import torch

from .batch import ClipBatch, ImageBatch


class StepResult(NamedTuple):
    """The batches of a step, and what reading them met."""

    images: ImageBatch | None
    clips: ClipBatch | None
    reads: int
    broken: list[tuple[str, str]]
    failure: str | None
    unshared: str | None = None  # why a worker's batch did not come in shared memory


class Packed(NamedTuple):
    """A worker's batch, pickled by the worker itself: what fails in the queue's own thread is lost without a word."""

    content: bytes

    def open(self) -> StepResult:
        """The batch; asks the worker for the descriptors of its memory."""
        result = pickle.loads(self.content)
        images, clips = (batch and _tensors(*batch) if type(batch) is tuple else batch for batch in (result.images, result.clips))
        return result._replace(images=images, clips=clips)

    def pin_memory(self) -> StepResult:
        """The batch in page-locked memory; torch's pinning thread calls it."""
        result = self.open()
        images, clips = (batch and batch.pin_memory() for batch in (result.images, result.clips))
        return result._replace(images=images, clips=clips)


def pack(result: StepResult) -> Packed:
    """A worker's batch with its tensors in shared memory or, where that is full or refused, as bytes through the queue."""
    try:
        # All of it first: a descriptor that is offered and never fetched would hold its memory for ever.
        for batch in filter(None, (result.images, result.clips)):
            for field in fields(batch):
                getattr(batch, field.name).share_memory_()
        return Packed(bytes(ForkingPickler.dumps(result)))
    except (RuntimeError, OSError) as error:
        images, clips = (batch and (type(batch), _arrays(batch)) for batch in (result.images, result.clips))
        return Packed(pickle.dumps(result._replace(images=images, clips=clips, unshared=str(error)), protocol=5))


def _arrays(batch: ImageBatch | ClipBatch) -> dict[str, np.ndarray]:
    return {field.name: getattr(batch, field.name).numpy() for field in fields(batch)}


def _tensors(kind, arrays: dict[str, np.ndarray]) -> ImageBatch | ClipBatch:
    return kind(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def shared_memory() -> str:
    """Room in /dev/shm, in words."""
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError as error:
        return str(error)
    return f"{usage.free / 1e6:,.0f} of {usage.total / 1e6:,.0f} MB free"
