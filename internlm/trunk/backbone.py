"""The trunk: a stack of blocks with a final norm. It knows tokens and layouts, no modality."""

from torch import Tensor, nn

from .block import Block
from .layout import Layout
from .rope import RotaryEmbedding


def ffn_width(hidden: int, ratio: float, multiple_of: int) -> int:
    """Inner width of the SwiGLU: int(hidden·ratio) rounded up to a multiple (2816 for 1024, 5632 for 2048)."""
    return -(-int(hidden * ratio) // multiple_of) * multiple_of


class Backbone(nn.Module):
    """``[B, L, h] -> [B, L, h]``, final norm applied."""

    def __init__(self, *, hidden: int, layers: int, heads: int, inner: int, eps: float, rope_base: float, init_std: float):
        super().__init__()
        self.rotary = RotaryEmbedding(hidden // heads, rope_base)
        self.blocks = nn.ModuleList(Block(hidden, heads, inner, eps) for _ in range(layers))
        self.norm = nn.RMSNorm(hidden, eps=eps)
        self.mask_of = Layout.mask  # in the form that the blocks' attention takes
        for index, block in enumerate(self.blocks):
            block.init_weights(index, init_std)

    def forward(self, tokens: Tensor, layout: Layout) -> Tensor:
        if tokens.shape[1] != len(layout):
            raise ValueError(f"{tokens.shape[1]} tokens do not fit a layout of {len(layout)}")
        rotary = self.rotary(len(layout), tokens.device)
        mask = self.mask_of(layout, tokens.device)
        for block in self.blocks:
            tokens = block(tokens, rotary, mask)
        return self.norm(tokens)
