"""The trunk: a stack of blocks with a final norm. It knows tokens and layouts, no modality."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .adaln import AdaLN, Condition, Conditioning
from .attention import Attend
from .block import Block
from .cache import KVCache
from .layout import Layout
from .rope import RotaryEmbedding


def ffn_width(hidden: int, ratio: float, multiple_of: int) -> int:
    """Inner width of the SwiGLU: int(hidden·ratio) rounded up to a multiple (2816 for 1024, 5632 for 2048)."""
    return -(-int(hidden * ratio) // multiple_of) * multiple_of


def build_trunk(config: Any) -> "Backbone":
    """The trunk that a config's ``hidden_size``, ``num_layers``, ``num_heads``, ``mlp_ratio``, ``mlp_multiple_of``, ``norm_eps``,
    ``rope_base`` and ``init_std`` say."""
    hidden, inner = config.hidden_size, ffn_width(config.hidden_size, config.mlp_ratio, config.mlp_multiple_of)
    numbers = {"eps": config.norm_eps, "rope_base": config.rope_base, "init_std": config.init_std}
    return Backbone(hidden=hidden, layers=config.num_layers, heads=config.num_heads, inner=inner, **numbers)


class Backbone(nn.Module):
    """``[B, L, h] -> [B, L, h]``, final norm applied.

    ``axes``: coordinates of a given position (1, or 3: time, row, column). ``adaln``: takes conditions, its gates starting at
    zero or one.
    """

    def __init__(
        self,
        *,
        hidden: int,
        layers: int,
        heads: int,
        inner: int,
        eps: float,
        rope_base: float,
        init_std: float,
        axes: int = 1,
        adaln: AdaLN | None = None,
    ):
        super().__init__()
        self.rotary = RotaryEmbedding(hidden // heads, rope_base, axes)
        blocks = [Block(hidden, heads, inner, eps, adaln) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.RMSNorm(hidden, eps=eps)
        self.conditioning = None if adaln is None else Conditioning(hidden)
        self.mask_of: Callable[[Layout, torch.device], Any] = Layout.mask  # in the form that the blocks' attention takes
        for index, block in enumerate(blocks):
            block.init_weights(index, init_std)

    def forward(
        self,
        tokens: Tensor,
        layout: Layout,
        positions: Tensor | None = None,
        *,
        condition: Condition | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Hidden states of ``tokens``, whose labels are ``layout``.

        ``positions`` ``[L]`` or ``[B, L]`` (three axes: ``[L, 3]`` or ``[B, L, 3]``); None: the running index, over all axes'
        channels. ``condition``: what modulates the blocks; None: nothing does. ``cache``: what earlier calls left there is seen
        as if it stood before the tokens, and they are left there too; in eval mode, without gradients, with ``sdpa``.
        """
        if tokens.shape[1] != len(layout):
            raise ValueError(f"{tokens.shape[1]} tokens do not fit a layout of {len(layout)}")
        if layout.batch not in (None, tokens.shape[0]):
            raise ValueError(f"a batch of {tokens.shape[0]} does not fit a layout of {layout.batch} samples")
        rotary = self._rotary(tokens, positions, 0 if cache is None else cache.seen)
        if condition is not None:
            if self.conditioning is None:
                raise ValueError("this trunk takes no conditions: it was built without adaln")
            condition, scale, shift = self.conditioning(condition)
        attends: list[Attend | None] = [None] * len(self.blocks)
        if cache is None:
            mask = self.mask_of(layout, tokens.device)
        else:
            if self.training or torch.is_grad_enabled():
                raise RuntimeError("a cache keeps no gradients: call eval() on the network and work under torch.no_grad()")
            mask = cache.open(tokens.shape[0], layout, tokens.device)
            attends = [partial(cache.attend, index) for index in range(len(self.blocks))]
        for block, attend in zip(self.blocks, attends, strict=True):
            tokens = block(tokens, rotary, mask, condition, attend)
        if cache is not None:
            cache.close(layout)
        hidden = self.norm(tokens)
        # Sequence parallelism leaves padding behind the tokens until the call ends.
        return hidden if condition is None else hidden[:, : len(layout)] * (1 + scale) + shift

    def _rotary(self, tokens: Tensor, positions: Tensor | None, start: int) -> Tensor:
        batch, length = tokens.shape[:2]
        if positions is None:
            return self.rotary(length, tokens.device, start)
        place = () if self.rotary.axes == 1 else (self.rotary.axes,)
        if tuple(positions.shape) not in ((length, *place), (batch, length, *place)):
            wanted = ", ".join(("L", *map(str, place)))
            raise ValueError(
                f"positions of shape {tuple(positions.shape)} do not fit {batch} x {length} tokens: [{wanted}] or [B, {wanted}]"
            )
        return self.rotary.at(positions.to(tokens.device))
