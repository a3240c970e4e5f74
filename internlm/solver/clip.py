"""Gradient clipping by the global norm."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients so that their joint L2 norm is at most ``max_norm``.

    Returns the norm before clipping as a scalar tensor on the device (no host synchronisation); a non-finite norm
    leaves non-finite gradients behind, so check it before the optimizer step.
    """
    gradients = [parameter for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in gradients])
    torch.nn.utils.clip_grads_with_norm_(gradients, max_norm, norm)
    return norm
