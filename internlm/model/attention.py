"""Causal multi-head self-attention with a fused, biased QKV projection."""

import torch.nn.functional as F
from torch import Tensor, nn

from .rope import rotate


class SelfAttention(nn.Module):
    """``[B, L, h] -> [B, L, h]``. ``mask`` is a bool ``[L, L]`` (query, key), or None for plain causal attention."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.head_size = hidden // heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, _ = x.shape
        # The head count is read off the projection, which tensor parallelism may have narrowed.
        q, k, v = self.qkv(x).view(batch, length, 3, -1, self.head_size).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, rotary), rotate(k, rotary)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
