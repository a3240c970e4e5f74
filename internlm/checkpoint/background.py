"""Saving while training goes on: only the copy to main memory waits, a thread does the rest."""

import copy
import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from internlm.core.boxes import Piece, Share

from .manager import CheckpointManager, Parts
from .sums import CheckpointError


class BackgroundSaver:
    """Gives a manager copies to save in a thread of its own, one save at a time.

    The manager's group must be used by nothing else: the thread exchanges messages over it at any time. The copies' memory, as
    much as this process saves, is kept for the next save; it is pinned where the tensors are on a CUDA device.
    """

    def __init__(self, manager: CheckpointManager) -> None:
        self.manager = manager
        self._thread: threading.Thread | None = None
        self._failures: list[Exception] = []
        self._copies: dict[tuple[str, str, int], Tensor] = {}

    def start(self, step: int, parts: Parts, meta: Mapping[str, Any]) -> None:
        """Copy what this process saves and return; the tensors may change from then on. Waits for an earlier save to end."""
        self.wait()
        copies, meta = self._copied(parts), copy.deepcopy(dict(meta))
        self._thread = threading.Thread(target=self._save, args=(step, copies, meta), name="checkpoint", daemon=True)
        self._thread.start()

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

    def _save(self, step: int, parts: Parts, meta: Mapping[str, Any]) -> None:
        try:
            self.manager.save(step, parts, meta)
        except Exception as error:
            self._failures.append(error)

    def _copied(self, parts: Parts) -> Parts:
        copied: dict[str, dict[str, Share]] = {}
        devices: set[torch.device] = set()
        for part, tensors in parts.items():
            copied[part] = {}
            for name, held in tensors.items():
                share = held if isinstance(held, Share) else Share.whole(held)
                if share.saved:
                    pieces = tuple(
                        Piece(piece.offset, self._copy((part, name, number), piece.tensor))
                        for number, piece in enumerate(share.pieces)
                    )
                    copied[part][name] = Share(share.shape, pieces)
                    devices |= {piece.tensor.device for piece in share.pieces}
        for device in devices:
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
        return copied

    def _copy(self, key: tuple[str, str, int], tensor: Tensor) -> Tensor:
        held = self._copies.get(key)
        if held is None or held.shape != tensor.shape or held.dtype != tensor.dtype:
            held = self._copies[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        return held.copy_(tensor, non_blocking=True)
