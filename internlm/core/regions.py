"""Collectives with a gradient: how tensors pass between computing alike on a group's processes and computing in shares.

Each is the transpose of another (Megatron-LM, arXiv 1909.08053 §3 and 2205.05198 §4.2.2), so that a loss that every process of a
tensor-parallel group computes alike gives every process the gradient of its share:

| forward | backward | where |
|---|---|---|
| ``copy`` (identity) | sum | whole activations enter a layer whose outputs are divided |
| ``total`` (sum) | identity | partial results leave a layer whose inputs are divided |
| ``shares`` (own slice) | gather | whole sequence -> this process's tokens |
| ``whole`` (gather) | own slice | tokens -> whole sequence that all process alike |
| ``gather`` | sum, own slice | tokens -> whole sequence that enters a divided layer |
| ``scatter`` (sum, own slice) | gather | partial results -> this process's tokens |

Tensors that are cut have a length that is a multiple of the group's size (``padded``).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .collectives import Group

_Map = Callable[[Tensor, Group, int], Tensor]


def copy(x: Tensor, group: Group) -> Tensor:
    """Identity whose gradient is summed over the group."""
    return _Linear.apply(x, group, _same, _sum, 0)


def total(x: Tensor, group: Group) -> Tensor:
    """Sum over the group; each process gets the gradient as it is."""
    return _Linear.apply(x, group, _sum, _same, 0)


def shares(x: Tensor, group: Group, dim: int) -> Tensor:
    """This process's slice along ``dim``."""
    return _Linear.apply(x, group, _slice, _join, dim)


def whole(x: Tensor, group: Group, dim: int) -> Tensor:
    """All slices joined, for what every process then computes alike."""
    return _Linear.apply(x, group, _join, _slice, dim)


def gather(x: Tensor, group: Group, dim: int) -> Tensor:
    """All slices joined, for what the processes then compute in shares."""
    return _Linear.apply(x, group, _join, _sum_slice, dim)


def scatter(x: Tensor, group: Group, dim: int) -> Tensor:
    """This process's slice of the sum."""
    return _Linear.apply(x, group, _sum_slice, _join, dim)


def padded(x: Tensor, group: Group, dim: int) -> Tensor:
    """``x`` with zeros at the end of ``dim`` (counted from the front) up to a multiple of the group's size."""
    missing = -x.shape[dim] % group.size
    return F.pad(x, (0, 0) * (x.ndim - 1 - dim) + (0, missing)) if missing else x


class _Linear(torch.autograd.Function):
    """A linear map over processes and its transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, forward: _Map, backward: _Map, dim: int) -> Tensor:
        ctx.arguments = (group, forward, backward, dim)
        return forward(x, group, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        group, _, backward, dim = ctx.arguments
        return backward(gradient, group, dim), None, None, None, None


def _same(x: Tensor, group: Group, dim: int) -> Tensor:
    return x.view_as(x)


def _sum(x: Tensor, group: Group, dim: int) -> Tensor:
    return group.sum(x) if group.size > 1 else x.view_as(x)


def _slice(x: Tensor, group: Group, dim: int) -> Tensor:
    return x.chunk(group.size, dim)[group.rank].contiguous()


def _join(x: Tensor, group: Group, dim: int) -> Tensor:
    return group.gathered(x, dim)


def _sum_slice(x: Tensor, group: Group, dim: int) -> Tensor:
    if group.size == 1:
        return x.view_as(x)
    pieces = torch.cat([piece.contiguous().flatten() for piece in x.chunk(group.size, dim)])
    shape = list(x.shape)
    shape[dim] //= group.size
    result = x.new_empty(shape)
    dist.reduce_scatter_tensor(result.view(-1), pieces, group=group.handle)
    return result
