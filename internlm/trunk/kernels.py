"""Other kernels for the same attention: FlexAttention and flash-attn. ``sdpa`` is the reference, and what evaluation uses.

A kernel is chosen for training (``model.attention``); weights do not depend on it.
"""

from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from internlm.core.errors import ConfigError

from .attention import Attend, SelfAttention
from .backbone import Backbone
from .layout import Layout

Attention = Literal["sdpa", "flex", "flash"]
SMALLEST_HEAD = 16  # FlexAttention's kernels take no smaller ones
LARGEST_HEAD = 256  # flash-attn's take no larger ones


def use_attention(backbone: Backbone, kind: Attention, device: torch.device, dtype: torch.dtype) -> None:
    """Let a trunk attend with a kernel, in place. ``dtype``: the compute dtype of its training on ``device``.

    Raises ConfigError, naming what is missing, where the kernel cannot train this trunk there.
    """
    if kind == "sdpa":
        return
    if problem := missing(kind, backbone.rotary.head_size, device, dtype):
        raise ConfigError(f"model.attention is {kind!r}, {problem}; set model.attention=sdpa")
    attend: Attend = Flex() if kind == "flex" else flash
    backbone.mask_of = Layout.block_mask if kind == "flex" else _no_mask
    for module in backbone.modules():
        if isinstance(module, SelfAttention):
            module.attend = attend


def missing(kind: Attention, head: int, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a kernel cannot train heads of size ``head`` here, as the end of a sentence; None where it can."""
    if kind == "flex":
        if device.type != "cuda":
            return f"whose backward pass PyTorch has for CUDA only, and this run is on {device.type}"
        if head < SMALLEST_HEAD:
            return f"which takes heads of at least {SMALLEST_HEAD} channels, and these have {head}"
    if kind == "flash":
        if device.type != "cuda":
            return f"which needs a CUDA GPU, and this run is on {device.type}"
        if find_spec("flash_attn") is None:
            return "which needs the package flash-attn (pip install 'egoagent[flash]' with nvcc at hand), and it is not installed"
        if dtype not in (torch.bfloat16, torch.float16):
            return f"which computes in bfloat16 or float16, and train.dtype gives {str(dtype).removeprefix('torch.')}"
        if head > LARGEST_HEAD or head % 8:
            return f"which takes heads of a multiple of 8 and at most {LARGEST_HEAD} channels, and these have {head}"
    return None


class Flex:
    """FlexAttention of ``[B, heads, L, d]`` under a ``BlockMask``, compiled once for each layout."""

    def __init__(self) -> None:
        from torch.nn.attention.flex_attention import flex_attention

        self._compiled = torch.compile(flex_attention, dynamic=False)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
        return self._compiled(q.contiguous(), k.contiguous(), v.contiguous(), block_mask=mask)


def flash(q: Tensor, k: Tensor, v: Tensor, mask: None) -> Tensor:
    """flash-attn's causal attention of ``[B, heads, L, d]``. It knows no mask: ValueError for one."""
    from flash_attn import flash_attn_func

    if mask is not None:
        raise ValueError("flash-attn is strictly causal here and was given a mask; use flex or sdpa")
    mixed = flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), causal=True)
    return mixed.transpose(1, 2)


def _no_mask(layout: Layout, device: torch.device) -> None:
    if not layout.is_causal:
        raise ConfigError("model.attention is 'flash', which is strictly causal, and this sequence is not; use flex or sdpa")
