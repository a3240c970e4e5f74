"""Tensor and sequence parallelism of a network (Megatron-LM, arXiv 1909.08053, 2205.05198), by what its modules declare.

A module with a ``division`` (``core/roles.py``) has two linear layers: the first keeps a share of its outputs, the second the
matching share of its inputs; the partial results are summed once. Parameters are cut to plain local tensors, which
``fully_shard`` then divides over the data-parallel processes. DTensor styles are not used: they cut the rows of the fused QKV
projection across queries, keys and values, and they take a sequence to be divisible (197 tokens are not).

With sequence parallelism the trunk's residual stream between the layers holds this process's tokens only. The last process's
tokens may be padding, which nothing reads.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internlm.core import regions
from internlm.core.boxes import Piece
from internlm.core.collectives import Group
from internlm.core.roles import Division
from internlm.trunk.backbone import Backbone
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


def cuts(module: nn.Module) -> dict[str, Cut]:
    """How a module's parameters and buffers are cut, by name; every process holds all of those that are not named."""
    found: dict[str, Cut] = {}
    for prefix, division, owner in _divisions(module):
        for name, sections in division.columns.items():
            part = _member(owner, name)
            if isinstance(part, nn.Module):
                found |= {f"{prefix}{name}.{own}": Cut(0, sections) for own, _ in part.named_parameters()}
            else:
                found[f"{prefix}{name}"] = Cut(0, sections)
        found |= {f"{prefix}{name}.weight": Cut(1) for name in division.rows}
    return found


def partial_names(module: nn.Module) -> set[str]:
    """Parameters that work on this process's tokens only where the sequence is divided: their gradients are partial sums."""
    found = set()
    for prefix, block in module.named_modules():
        if isinstance(block, Block):
            found |= {f"{prefix}.{name}.{own}" for name in block.between for own, _ in _member(block, name).named_parameters()}
            for inner, division, owner in _divisions(block):
                found |= {f"{prefix}.{inner}{name}.bias" for name in division.rows if _member(owner, name).bias is not None}
    return found


def divide(network: nn.Module, tp: Group, *, sequence: bool) -> None:
    """Cut a network's layers over a tensor-parallel group, in place; names stay. Every process holds it whole before.

    ``sequence`` divides the tokens between the layers of its trunks as well.
    """
    trunks = [module for module in network.modules() if isinstance(module, Backbone)]
    inside = {id(owner) for trunk in trunks for _, _, owner in _divisions(trunk)}
    for _, division, owner in _divisions(network):
        _divide_module(owner, division, tp, sequence=sequence and id(owner) in inside)
    if sequence:
        for trunk in trunks:
            trunk.blocks[0].register_forward_pre_hook(partial(_to_shares, tp))
            trunk.norm.register_forward_pre_hook(partial(_to_whole, tp))
            trunk.register_forward_hook(_without_padding)
            for block in trunk.blocks:
                if block.modulation is not None:
                    block.modulation.register_forward_hook(partial(_own_tokens, tp))


def _divisions(module: nn.Module) -> list[tuple[str, Division, nn.Module]]:
    """(prefix of names, declaration, module) of everything in a module that declares how it is divided."""
    return [
        (f"{name}." if name else "", part.division, part) for name, part in module.named_modules() if hasattr(part, "division")
    ]


def _member(module: nn.Module, name: str) -> nn.Module | Tensor:
    owner, _, last = name.rpartition(".")
    return getattr(module.get_submodule(owner), last)


def _divide_module(module: nn.Module, division: Division, tp: Group, *, sequence: bool) -> None:
    for name, sections in division.columns.items():
        part = _member(module, name)
        if isinstance(part, nn.Linear):
            _keep_outputs(part, tp, sections)
        else:
            setattr(module, name, _shared(part, Cut(0, sections), tp))
    for name in division.rows:
        owner, _, last = name.rpartition(".")
        setattr(module.get_submodule(owner), last, _SummedLinear(_member(module, name), tp, sequence=sequence))
    entered = module.get_submodule(division.enter)
    entered.register_forward_pre_hook(partial(_enter_tokens if sequence else _enter, tp))
    if division.methods:
        kind = type(module)
        module.__class__ = type(kind.__name__, (kind,), {name: _entering(kind, name, tp) for name in division.methods})


def _entering(kind: type[nn.Module], name: str, tp: Group) -> Callable[[nn.Module, Tensor], Tensor]:
    """A method whose argument enters a divided parameter."""

    def method(self: nn.Module, x: Tensor) -> Tensor:
        return getattr(kind, name)(self, regions.copy(x, tp))

    return method


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


def _keep_outputs(linear: nn.Linear, tp: Group, sections: int) -> None:
    linear.out_features //= tp.size
    linear.weight = _shared(linear.weight, Cut(0, sections), tp)
    if linear.bias is not None:
        linear.bias = _shared(linear.bias, Cut(0, sections), tp)


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
def sum_partial(parameters: Iterable[nn.Parameter], tp: Group) -> None:
    """Complete gradients that sequence parallelism left partial (``partial_names``): one sum over the group for all of them."""
    gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    if gradients:
        summed = tp.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, piece in zip(gradients, summed.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(piece.view_as(gradient))


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor that ``fully_shard`` divided; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
