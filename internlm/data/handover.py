"""How a data worker's batch comes to the main process: in shared memory, or as bytes where that has no room."""

import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class StepResult:
    """The batches of a step by stream, and what reading them met."""

    batches: dict[str, Any]  # dataclasses of tensors
    reads: int
    broken: list[tuple[str, str]]
    failure: str | None
    unshared: str | None = None  # why a worker's batches did not come in shared memory

    def changed(self, change: Callable[[Any], Any]) -> "StepResult":
        """The same with every batch changed."""
        return replace(self, batches={name: change(batch) for name, batch in self.batches.items()})

    def pin_memory(self) -> "StepResult":
        """The batches in page-locked memory, from which copies to an accelerator run asynchronously. DataLoader calls it."""
        return self.changed(lambda batch: _each(batch, Tensor.pin_memory))


@dataclass(frozen=True)
class Packed:
    """A worker's batch, pickled by the worker itself: what fails in the queue's own thread is lost without a word."""

    content: bytes

    def open(self) -> StepResult:
        """The batches; asks the worker for the descriptors of their memory."""
        result = pickle.loads(self.content)
        return result.changed(lambda batch: _tensors(*batch) if type(batch) is tuple else batch)

    def pin_memory(self) -> StepResult:
        """Opened, in page-locked memory."""
        return self.open().pin_memory()


def pack(result: StepResult) -> Packed:
    """A worker's batch with its tensors in shared memory or, where that is full or refused, as bytes through the queue."""
    try:
        # All of it first: a descriptor that is offered and never fetched would hold its memory for ever.
        for batch in result.batches.values():
            _each(batch, Tensor.share_memory_)
        return Packed(bytes(ForkingPickler.dumps(result)))
    except (RuntimeError, OSError) as error:
        plain = result.changed(lambda batch: (type(batch), _arrays(batch)))
        return Packed(pickle.dumps(replace(plain, unshared=str(error)), protocol=5))


def _each(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return type(batch)(**{field.name: change(getattr(batch, field.name)) for field in fields(batch)})


def _arrays(batch: Any) -> dict[str, np.ndarray]:
    return {field.name: getattr(batch, field.name).numpy() for field in fields(batch)}


def _tensors(kind, arrays: dict[str, np.ndarray]) -> Any:
    return kind(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def shared_memory() -> str:
    """Room in /dev/shm, in words."""
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError as error:
        return str(error)
    return f"{usage.free / 1e6:,.0f} of {usage.total / 1e6:,.0f} MB free"
