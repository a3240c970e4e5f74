"""Adaptive layer norm: what a network is conditioned on scales, shifts and gates every block (DiT, arXiv 2212.09748).

One map is shared by all blocks and each has a table of its own (PixArt-alpha, arXiv 2310.00426), so that depth costs 6h a block.
Everything starts at constants: a network with it is built from the same random numbers as one without.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AdaLN = Literal["zero", "one"]  # gates at the start: every block an identity, or every block as without conditions


class Condition(NamedTuple):
    """``vectors`` [B, C, h], and of which of these C each token takes its own: ``rows`` int64 [L] or [B, L]."""

    vectors: Tensor
    rows: Tensor

    def to_tokens(self, vectors: Tensor) -> Tensor:
        """``[B, C, ...] -> [B, L, ...]``."""
        if self.rows.ndim == 1:
            return vectors[:, self.rows]
        return vectors[torch.arange(len(vectors), device=vectors.device)[:, None], self.rows]


class ZeroLinear(nn.Linear):
    """A linear layer that starts at zero without drawing a random number."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Conditioning(nn.Module):
    """What the blocks share: conditions [B, C, h] -> six vectors for the blocks [B, C, 6, h], and two for the final norm."""

    def __init__(self, hidden: int):
        super().__init__()
        self.blocks, self.final = ZeroLinear(hidden, 6 * hidden), ZeroLinear(hidden, 2 * hidden)

    def forward(self, condition: Condition) -> tuple[Condition, Tensor, Tensor]:
        """The condition that blocks take, and the tokens' scale and shift of the final norm [B, L, h]."""
        active = F.silu(condition.vectors)
        blocks = Condition(self.blocks(active).unflatten(-1, (6, -1)), condition.rows)
        scale, shift = condition.to_tokens(self.final(active)).chunk(2, dim=-1)
        return blocks, scale, shift


class Modulation(nn.Module):
    """One block's table, added to what is shared: -> [B, L, 6, h], scale, shift and gate of attention, then of the MLP."""

    def __init__(self, hidden: int, start: AdaLN):
        super().__init__()
        gate = torch.tensor([0.0, 0.0, float(start == "one")]).repeat(2)
        self.table = nn.Parameter(gate[:, None].repeat(1, hidden))

    def forward(self, condition: Condition) -> Tensor:
        return condition.to_tokens(condition.vectors + self.table)
