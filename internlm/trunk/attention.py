"""Causal multi-head self-attention with a fused, biased QKV projection."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from internlm.core.roles import Division

from .rope import rotate

Attend = Callable[[Tensor, Tensor, Tensor, Any], Tensor]  # q, k, v [B, heads, L, d], mask -> [B, heads, L, d]


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention of ``[B, heads, L, d]``; ``mask`` bool ``[L, L]`` or ``[B, 1, L, L]`` (query, key), or None:
    plain causal."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)


class SelfAttention(nn.Module):
    """``[B, L, h] -> [B, L, h]``. ``mask`` is what ``attend`` takes: ``sdpa``, or what ``kernels.py`` puts in its place."""

    # Rows of the fused projection are queries, then keys, then values; each process takes its heads of all three.
    division = Division(columns={"qkv": 3}, rows=("out",))

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.head_size = hidden // heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.attend: Attend = sdpa

    def forward(self, x: Tensor, rotary: Tensor, mask: Any, attend: Attend | None = None) -> Tensor:
        """``attend``: for this call in place of the own, with its own kind of mask (a cache's layer)."""
        batch, length, _ = x.shape
        # The head count is read off the projection, which tensor parallelism may have narrowed.
        q, k, v = self.qkv(x).view(batch, length, 3, -1, self.head_size).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, rotary), rotate(k, rotary)
        mixed = (attend or self.attend)(q, k, v, mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
