"""L_act: masked L1 on 3D joints, and the visibility cross-entropy (spec §4.3)."""

import torch.nn.functional as F
from torch import Tensor

from internlm.core.collectives import ALONE, Group


def pose_l1(
    predicted: Tensor, target: Tensor, visible: Tensor, count: Tensor | None = None, data: Group = ALONE
) -> Tensor:
    """Mean absolute error in metres over the coordinates of visible joints, ``[..., J, 3]`` with ``[..., J]`` -> scalar.

    Normalised by the mean visible count over the ``data`` group, so that the mean of the ranks' losses is the loss of all: a rank
    without a visible joint contributes zero, not NaN.
    ``count`` is the visible count to divide by instead of this call's own: the mean over the pieces of an accumulated batch,
    so that the mean of the pieces' losses is the mean over all visible joints.
    """
    mask = visible.unsqueeze(-1).float()
    count = mask.sum() if count is None else count.float()
    error = ((predicted.float() - target.float()).abs() * mask).sum()
    # The floor is of the sum over ranks: a lone visible joint weighs the same on any number of them.
    return error / (3 * data.mean(count)).clamp(min=1.0 / data.size)


def visibility_bce(logits: Tensor, visible: Tensor) -> Tensor:
    """Binary cross-entropy of the visibility logits, ``[..., J]`` -> scalar."""
    return F.binary_cross_entropy_with_logits(logits.float(), visible.float())
