"""Rectangular pieces of tensors: what a process holds of a tensor that several share, whoever divided it and however.

Saving reads the pieces and loading fills them, so that the layout on disk knows neither data nor tensor parallelism.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """A box of a whole tensor. ``tensor`` is a view of the memory that the process works on."""

    offset: tuple[int, ...]  # of its first element in the whole tensor
    tensor: Tensor


@dataclass(frozen=True)
class Share:
    """What a process holds of a tensor of ``shape``: pieces that do not overlap, or none.

    ``saved``: this process writes them; False where another one holds the same. The saved pieces of all processes cover the
    tensor exactly once.
    """

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    saved: bool = True

    @classmethod
    def whole(cls, tensor: Tensor, *, saved: bool = True) -> "Share":
        """All of a tensor."""
        tensor = tensor.detach()
        return cls(tuple(tensor.shape), (Piece((0,) * tensor.ndim, tensor),), saved)


def overlap(
    offset: Sequence[int], shape: Sequence[int], other_offset: Sequence[int], other_shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """Where two boxes meet, as slices of the first and of the second; None where they do not."""
    first, second = [], []
    for a, m, b, n in zip(offset, shape, other_offset, other_shape, strict=True):
        start, stop = max(a, b), min(a + m, b + n)
        if start >= stop:
            return None
        first.append(slice(start - a, stop - a))
        second.append(slice(start - b, stop - b))
    return tuple(first), tuple(second)
