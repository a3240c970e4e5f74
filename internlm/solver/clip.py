"""Gradient clipping by the global norm, of whole and of divided parameters."""

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from internlm.core.collectives import ALONE, Group


@torch.no_grad()
def clip_grad_norm(
    parameters: Iterable[nn.Parameter], max_norm: float, *, divided: Collection[nn.Parameter] = (), tp: Group = ALONE
) -> Tensor:
    """Scale all gradients so that their joint L2 norm is at most ``max_norm``.

    ``divided`` parameters are those of which each process of ``tp`` holds a part: their squares are summed over the group, those
    of the others are the same on all of it. Shards of ``fully_shard`` are seen to by their own type.
    Returns the norm before clipping as a scalar tensor on the device (no host synchronisation); a non-finite norm
    leaves non-finite gradients behind, so check it before the optimizer step.
    """
    held = [parameter for parameter in parameters if parameter.grad is not None]
    if not held:
        return torch.zeros(())
    if tp.size == 1:
        norm = _norm(held)
    else:
        cut = set(divided)
        parts, common = [p for p in held if p in cut], [p for p in held if p not in cut]
        norm = (tp.sum(_norm(parts).square()) + _norm(common).square()).sqrt()
    torch.nn.utils.clip_grads_with_norm_(held, max_norm, norm)
    return norm


def _norm(parameters: list[nn.Parameter]) -> Tensor:
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
