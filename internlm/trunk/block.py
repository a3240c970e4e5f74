"""One pre-norm transformer block: RMSNorm, attention, RMSNorm, SwiGLU."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from internlm.core.roles import Division

from .adaln import AdaLN, Condition, Modulation
from .attention import Attend, SelfAttention


class SwiGLU(nn.Module):
    """``down(silu(gate x) * up x)`` without biases (arXiv 2002.05202)."""

    division = Division(columns={"gate": 1, "up": 1}, rows=("down",))

    def __init__(self, hidden: int, inner: int):
        super().__init__()
        self.gate = nn.Linear(hidden, inner, bias=False)
        self.up = nn.Linear(hidden, inner, bias=False)
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """``[B, L, h] -> [B, L, h]``; ``mask`` and ``attend`` as in ``SelfAttention``. ``adaln``: with a table for conditions."""

    between = ("attention_norm", "mlp_norm")  # work on tokens one by one, so that a divided sequence divides their work

    def __init__(self, hidden: int, heads: int, inner: int, eps: float, adaln: AdaLN | None = None):
        super().__init__()
        self.attention_norm = nn.RMSNorm(hidden, eps=eps)
        self.attention = SelfAttention(hidden, heads)
        self.mlp_norm = nn.RMSNorm(hidden, eps=eps)
        self.mlp = SwiGLU(hidden, inner)
        self.modulation = None if adaln is None else Modulation(hidden, adaln)

    def forward(
        self, x: Tensor, rotary: Tensor, mask: Any, condition: Condition | None = None, attend: Attend | None = None
    ) -> Tensor:
        if condition is None:
            x = x + self.attention(self.attention_norm(x), rotary, mask, attend)
            return x + self.mlp(self.mlp_norm(x))
        assert self.modulation is not None, "the trunk refuses conditions where it has no adaln"
        scale, shift, gate, mlp_scale, mlp_shift, mlp_gate = self.modulation(condition).unbind(-2)
        x = x + gate * self.attention(self.attention_norm(x) * (1 + scale) + shift, rotary, mask, attend)
        return x + mlp_gate * self.mlp(self.mlp_norm(x) * (1 + mlp_scale) + mlp_shift)

    def init_weights(self, index: int, std: float) -> None:
        """Initialise as block ``index`` (from 0): the residual branches shrink with depth (spec §2.1, init row).

        The published ratios at std 0.006 are kept at any other ``std``: down-projection a quarter of it.
        """
        residual = std / (2 * (index + 1)) ** 0.5
        scales = {
            self.attention.qkv: std,
            self.attention.out: residual,
            self.mlp.gate: std,
            self.mlp.up: residual,
            self.mlp.down: std / 4,
        }
        for linear, scale in scales.items():
            nn.init.normal_(linear.weight, std=scale)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
