"""Rotary position embedding over the full head size (RoFormer, arXiv 2104.09864); given positions have one axis or three."""

import torch
from torch import Tensor, nn

from internlm.core.errors import ConfigError

AXES = {1: (8,), 3: (2, 3, 3)}  # eighths of the head size that each axis turns: time, row, column


class RotaryEmbedding(nn.Module):
    """Cosine and sine tables for ``head_size``, grown on demand and kept in float32 outside the state dict.

    ``axes`` is the number of coordinates of a given position. Three divide the head 1/4, 3/8, 3/8 over time, row and column;
    ConfigError where the shares are not even numbers.
    """

    table: Tensor

    def __init__(self, head_size: int, base: float = 10_000.0, axes: int = 1):
        super().__init__()
        if axes not in AXES:
            raise ConfigError(f"positions of {axes} axes are unknown; choose from {', '.join(map(str, AXES))}")
        if axes > 1 and head_size % 16:
            raise ConfigError(
                f"heads of {head_size} channels cannot be divided 1/4, 3/8, 3/8 over three axes; use a multiple of 16 channels"
            )
        self.head_size, self.base, self.axes = head_size, base, axes
        self.register_buffer("table", torch.empty(0, 2, head_size // 2), persistent=False)

    def forward(self, length: int, device: torch.device, start: int = 0) -> Tensor:
        """Return ``[L, 2, head_size/2]`` (cosine, sine) for positions start..start+L-1, whatever ``axes`` is."""
        if start:  # a stream's: a table of it would grow for ever
            return self._table(torch.arange(start, start + length, device=device))
        if self.table.shape[0] < length or self.table.device != device:
            self.table = self._table(torch.arange(length, device=device))
        return self.table[:length]

    def at(self, positions: Tensor) -> Tensor:
        """Positions ``[L]`` or ``[B, L]``, with three axes ``[L, 3]`` or ``[B, L, 3]`` -> ``[L, 2, d/2]`` or ``[L, B, 2, d/2]``.

        Any number type; half precision would blur positions and is better not used.
        """
        places = positions.unsqueeze(-1) if self.axes == 1 else positions
        shares = [self.head_size * eighths // 8 for eighths in AXES[self.axes]]
        angles = torch.cat([self._angles(places[..., axis], share) for axis, share in enumerate(shares)], dim=-1)
        table = torch.stack((angles.cos(), angles.sin()), dim=-2)
        # Tokens first in every case: what sequence parallelism and ``rotate`` count is the length of the table.
        return table.transpose(0, 1) if table.ndim == 4 else table

    def _table(self, index: Tensor) -> Tensor:
        angles = self._angles(index, self.head_size)
        return torch.stack((angles.cos(), angles.sin()), dim=1)

    def _angles(self, positions: Tensor, share: int) -> Tensor:
        """``[...] -> [..., share/2]``: each position times the frequencies of ``share`` channels."""
        inverse = self.base ** -(torch.arange(0, share, 2, device=positions.device, dtype=torch.float32) / share)
        return positions.to(torch.float32)[..., None] * inverse


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate ``x`` ``[B, heads, L, d]`` by the angles of ``table`` ``[L, 2, d/2]``, or ``[L, B, 2, d/2]`` where samples differ.

    Halves are the pairs' two components.
    """
    cos, sin = table[..., 0, :].to(x.dtype), table[..., 1, :].to(x.dtype)
    if table.ndim == 4:
        cos, sin = cos.transpose(0, 1).unsqueeze(1), sin.transpose(0, 1).unsqueeze(1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
