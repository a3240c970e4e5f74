"""Saving while training goes on: a thread copies to main memory during the next forward and backward pass, then writes."""

import copy
import threading
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from internlm.core.boxes import Piece, Share

from .manager import CheckpointManager
from .sums import CheckpointError
from .writing import Parts

Copy = tuple[Tensor, Tensor]  # target, source


class BackgroundSaver:
    """Gives a manager copies to save in a thread of its own, one save at a time.

    The manager's group must be used by nothing else: the thread exchanges messages over it at any time. The copies' memory, as
    much as this process saves, is kept for the next save; it is pinned where the tensors are on a CUDA device.
    """

    def __init__(self, manager: CheckpointManager) -> None:
        self.manager = manager
        self._thread: threading.Thread | None = None
        self._copied = threading.Event()
        self._copied.set()
        self._failures: list[Exception] = []
        self._memory: dict[tuple[str, str, int], Tensor] = {}

    def start(
        self, step: int, parts: Parts, meta: Mapping[str, Any], *, moving: Mapping[str, Collection[str]] | None = None
    ) -> None:
        """Begin to save what the tensors are now. Waits for an earlier save to end.

        ``moving``: by part, the tensors that may change at once and are copied before this returns; None are all. Nobody changes
        the others before calling ``before_change``.
        """
        self.wait()
        copies: dict[str, dict[str, Share]] = {}
        later: list[Copy] = []
        for part, tensors in parts.items():
            copies[part] = {}
            for name, held in tensors.items():
                share = held if isinstance(held, Share) else Share.whole(held)
                if share.saved:
                    pairs = [(self._place((part, name, i), piece.tensor), piece.tensor) for i, piece in enumerate(share.pieces)]
                    if moving is None or name in moving.get(part, ()):
                        _copy(pairs)
                    else:
                        later += pairs
                    targets = zip(share.pieces, pairs, strict=True)
                    copies[part][name] = Share(share.shape, tuple(Piece(piece.offset, pair[0]) for piece, pair in targets))
        self._copied.clear()
        arguments = (later, _now(later), step, copies, copy.deepcopy(dict(meta)))
        self._thread = threading.Thread(target=self._run, args=arguments, name="checkpoint", daemon=True)
        self._thread.start()

    def before_change(self) -> None:
        """Return when everything is copied and may change."""
        self._copied.wait()

    def wait(self) -> None:
        """Return when no save is under way."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def failure(self) -> CheckpointError | None:
        """A save that failed and was not told of yet. Anything but CheckpointError is a defect or a lost process: raised."""
        if not self._failures:
            return None
        error = self._failures.pop(0)
        if isinstance(error, CheckpointError):
            return error
        raise error

    def _run(self, later: list[Copy], ready: "torch.cuda.Event | None", step: int, parts: Parts, meta: Mapping[str, Any]) -> None:
        try:
            try:
                _copy(later, after=ready)
            finally:
                self._copied.set()
            self.manager.save(step, parts, meta)
        except Exception as error:
            self._failures.append(error)

    def _place(self, key: tuple[str, str, int], tensor: Tensor) -> Tensor:
        held = self._memory.get(key)
        if held is None or held.shape != tensor.shape or held.dtype != tensor.dtype:
            held = self._memory[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        return held


def _copy(pairs: list[Copy], *, after: "torch.cuda.Event | None" = None) -> None:
    """Copy to main memory and wait for it. ``after``: on a stream of its own, when the device has come that far."""
    stream = None
    if after is not None:
        stream = torch.cuda.Stream(pairs[0][1].device)
        stream.wait_event(after)
    with torch.cuda.stream(stream) if stream else nullcontext():
        for target, source in pairs:
            target.copy_(source, non_blocking=stream is not None)
    if stream:
        stream.synchronize()


def _now(pairs: list[Copy]) -> "torch.cuda.Event | None":
    """How far the device has come that the sources lie on; None where it is the CPU."""
    return torch.cuda.current_stream(pairs[0][1].device).record_event() if pairs and pairs[0][1].is_cuda else None
