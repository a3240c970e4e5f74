"""Rotary position embedding over the full head size (RoFormer, arXiv 2104.09864), sequential positions."""

import torch
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """Cosine and sine tables for ``head_size``, grown on demand and kept in float32 outside the state dict."""

    def __init__(self, head_size: int, base: float = 10_000.0):
        super().__init__()
        self.head_size, self.base = head_size, base
        self.register_buffer("table", torch.empty(0, 2, head_size // 2), persistent=False)

    def forward(self, length: int, device: torch.device) -> Tensor:
        """Return ``[L, 2, head_size/2]`` (cosine, sine) for positions 0..L-1."""
        if self.table.shape[0] < length or self.table.device != device:
            inverse = self.base ** -(torch.arange(0, self.head_size, 2, device=device, dtype=torch.float32) / self.head_size)
            angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * inverse
            self.table = torch.stack((angles.cos(), angles.sin()), dim=1)
        return self.table[:length]


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate ``x`` ``[B, heads, L, d]`` by the angles of ``table`` ``[L, 2, d/2]``; halves are the pairs' two components."""
    cos, sin = table[:, 0].to(x.dtype), table[:, 1].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
