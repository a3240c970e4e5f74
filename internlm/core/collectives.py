"""Sums over all processes; in a world of one each returns its argument unchanged.

Callers state what they mean (a mean of centres, a sum of counts) and never ask how many processes there are.
None of these carries a gradient: use them on statistics, counts and metrics.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """Index of this process; 0 writes the run's files."""
    return dist.get_rank() if _is_distributed() else 0


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Element-wise sum over processes; shape kept."""
    return _reduced(tensor, "SUM")


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Element-wise mean over processes; right only where every process contributes the same number of samples."""
    return _reduced(tensor, "SUM") / world_size() if world_size() > 1 else tensor


def all_reduce_max(tensor: Tensor) -> Tensor:
    """Element-wise maximum over processes; shape kept."""
    return _reduced(tensor, "MAX")


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _reduced(tensor: Tensor, operation: str) -> Tensor:
    if world_size() == 1:
        return tensor
    result = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result, op=getattr(dist.ReduceOp, operation))
    return result
