"""Tensor and sequence parallelism of the trunk, the pose head and the DINO head (Megatron-LM, arXiv 1909.08053, 2205.05198).

The first of two linear layers keeps a share of its outputs, the second the matching share of its inputs; the partial results are
summed once. Parameters are cut to plain local tensors, which ``fully_shard`` then divides over the data-parallel processes.
DTensor styles are not used: they cut the rows of the fused QKV projection across queries, keys and values, and they take a
sequence to be divisible (197 tokens are not).

With sequence parallelism the residual stream between the layers holds this process's tokens only. The last process's tokens may
be padding, which nothing reads.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internlm.core import regions
from internlm.core.boxes import Piece
from internlm.core.collectives import Group
from internlm.modality.frames import DinoHead
from internlm.systems.egoagent.network import EgoNetwork
from internlm.trunk.block import Block

TOKENS = 1  # dimension of [B, L, h]


@dataclass(frozen=True)
class Cut:
    """How a tensor is cut over a tensor-parallel group: ``sections`` equal parts of ``dim``, each cut evenly."""

    dim: int
    sections: int = 1

    def share(self, tensor: Tensor, group: Group) -> Tensor:
        """This process's part of the whole tensor."""
        parts = tensor.unflatten(self.dim, (self.sections, -1))
        return parts.chunk(group.size, self.dim + 1)[group.rank].flatten(self.dim, self.dim + 1).contiguous()

    def pieces(self, local: Tensor, offset: Sequence[int], length: int, group: Group) -> Iterator[Piece]:
        """Where the whole tensor has what lies here: ``local`` begins at ``offset`` of this process's part, which has a size of
        ``length`` along ``dim``."""
        width, begin = length // self.sections, offset[self.dim]
        for section in range(self.sections):
            start, stop = max(begin, section * width), min(begin + local.shape[self.dim], (section + 1) * width)
            if start < stop:
                place = list(offset)
                place[self.dim] = start + (section * (group.size - 1) + group.rank) * width
                yield Piece(tuple(place), local.narrow(self.dim, start - begin, stop - start))


# Rows of the fused projection are queries, then keys, then values; each process takes its heads of all three.
PLAN = {
    r"backbone\.blocks\.\d+\.attention\.qkv\.(weight|bias)": Cut(0, 3),
    r"backbone\.blocks\.\d+\.attention\.out\.weight": Cut(1),
    r"backbone\.blocks\.\d+\.mlp\.(gate|up)\.weight": Cut(0),
    r"backbone\.blocks\.\d+\.mlp\.down\.weight": Cut(1),
    r"(head|pose_head)\.layers\.0\.(weight|bias)": Cut(0),
    r"(head|pose_head)\.layers\.2\.weight": Cut(1),
    r"head\.prototypes": Cut(0),
    r"(rep|pred)_targets\.center": Cut(0),
}
# Used on this process's tokens only where the sequence is divided, so that their gradients are partial sums.
PARTIAL = r"backbone\.blocks\.\d+\.((attention|mlp)_norm\.weight|attention\.out\.bias)"


def cut_of(name: str) -> Cut | None:
    """How the parameter or buffer of a network or of the loss is cut; None where every process holds all of it."""
    return next((cut for pattern, cut in PLAN.items() if re.fullmatch(pattern, name)), None)


def is_partial(name: str) -> bool:
    """Whether sequence parallelism leaves a parameter's gradient a partial sum."""
    return re.fullmatch(PARTIAL, name) is not None


def divide(network: EgoNetwork, tp: Group, *, sequence: bool) -> None:
    """Cut a network's layers over a tensor-parallel group, in place; names stay. Every process holds it whole before."""
    backbone = network.backbone
    for block in backbone.blocks:
        _divide_block(block, tp, sequence)
    if sequence:
        backbone.blocks[0].register_forward_pre_hook(partial(_to_shares, tp))
        backbone.norm.register_forward_pre_hook(partial(_to_whole, tp))
        backbone.register_forward_hook(_without_padding)
    heads = [head for head in (getattr(network, "head", None), getattr(network, "pose_head", None)) if head is not None]
    for head in heads:
        _keep_outputs(head.layers[0], tp)
        head.layers[2] = _SummedLinear(head.layers[2], tp, sequence=False)
        head.layers[0].register_forward_pre_hook(partial(_enter, tp))
        if isinstance(head, DinoHead):
            _divide_prototypes(head, tp)


class _SummedLinear(nn.Linear):
    """A linear layer with a share of its inputs: partial results are summed over the group before the bias is added."""

    def __init__(self, linear: nn.Linear, tp: Group, *, sequence: bool):
        super().__init__(linear.in_features // tp.size, linear.out_features, bias=False, device="meta")
        self.tp, self.sequence = tp, sequence
        self.weight = _shared(linear.weight, Cut(1), tp)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        partial_sum = F.linear(x, self.weight)
        if self.sequence:
            y = regions.scatter(regions.padded(partial_sum, self.tp, TOKENS), self.tp, TOKENS)
        else:
            y = regions.total(partial_sum, self.tp)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def _divide_block(block: Block, tp: Group, sequence: bool) -> None:
    _keep_outputs(block.attention.qkv, tp, sections=3)
    _keep_outputs(block.mlp.gate, tp)
    _keep_outputs(block.mlp.up, tp)
    block.attention.out = _SummedLinear(block.attention.out, tp, sequence=sequence)
    block.mlp.down = _SummedLinear(block.mlp.down, tp, sequence=sequence)
    for part in (block.attention, block.mlp):
        part.register_forward_pre_hook(partial(_enter_tokens if sequence else _enter, tp))
    if sequence and block.modulation is not None:
        block.modulation.register_forward_hook(partial(_own_tokens, tp))


def _keep_outputs(linear: nn.Linear, tp: Group, sections: int = 1) -> None:
    linear.out_features //= tp.size
    linear.weight = _shared(linear.weight, Cut(0, sections), tp)
    if linear.bias is not None:
        linear.bias = _shared(linear.bias, Cut(0, sections), tp)


def _divide_prototypes(head: DinoHead, tp: Group) -> None:
    head.prototypes = _shared(head.prototypes, Cut(0), tp)
    head.__class__, head.tp = _DividedPrototypes, tp


class _DividedPrototypes(DinoHead):
    """A DINO head whose logits are this process's columns; the loss takes the softmax over the group."""

    tp: Group

    def similarity(self, bottleneck: Tensor) -> Tensor:
        return super().similarity(regions.copy(bottleneck, self.tp))


def _shared(parameter: nn.Parameter, cut: Cut, tp: Group) -> nn.Parameter:
    return nn.Parameter(cut.share(parameter.detach(), tp).clone(), requires_grad=parameter.requires_grad)


def _enter(tp: Group, module: nn.Module, arguments: tuple) -> tuple:
    return regions.copy(_as_computed(arguments[0]), tp), *arguments[1:]


def _as_computed(x: Tensor) -> Tensor:
    """In the layer's own dtype, which autocast would give it anyway: on CUDA norms leave float32, twice the bytes to send."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _enter_tokens(tp: Group, module: nn.Module, arguments: tuple) -> tuple:
    tokens = regions.gather(_as_computed(arguments[0]), tp, TOKENS)
    if len(arguments) > 1:  # attention takes the positions as well, and must not see the padding
        tokens = tokens[:, : len(arguments[1])]
    return tokens, *arguments[1:]


def _to_shares(tp: Group, module: nn.Module, arguments: tuple) -> tuple:
    return regions.shares(regions.padded(arguments[0], tp, TOKENS), tp, TOKENS), *arguments[1:]


def _own_tokens(tp: Group, module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
    return regions.shares(regions.padded(output, tp, TOKENS), tp, TOKENS)


def _to_whole(tp: Group, module: nn.Module, arguments: tuple) -> tuple:
    return (regions.whole(arguments[0], tp, TOKENS),)


def _without_padding(module: nn.Module, arguments: tuple, hidden: Tensor) -> Tensor:
    return hidden[:, : len(arguments[1])]


@torch.no_grad()
def sum_partial(named: list[tuple[str, nn.Parameter]], tp: Group) -> None:
    """Complete the gradients that sequence parallelism left partial: one sum over the group for all of them."""
    gradients = [local(parameter.grad) for name, parameter in named if parameter.grad is not None and is_partial(name)]
    if gradients:
        summed = tp.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, piece in zip(gradients, summed.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(piece.view_as(gradient))


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor that ``fully_shard`` divided; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
