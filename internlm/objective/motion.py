"""L_act: masked L1 on 3D joints, and the visibility cross-entropy (spec §4.3); distances of a forecast's poses and steps."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from internlm.core.collectives import ALONE, Group


def pose_l1(predicted: Tensor, target: Tensor, visible: Tensor, count: Tensor | None = None, data: Group = ALONE) -> Tensor:
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


class Counts(NamedTuple):
    """Visible joints to divide by, as ``count`` and ``data`` of ``pose_l1``: of poses, and of steps between poses."""

    poses: Tensor
    steps: Tensor
    data: Group = ALONE

    @classmethod
    def of(cls, visible: Tensor, *, pieces: int = 1, data: Group = ALONE) -> "Counts":
        """Of a batch ``[B, O, J]`` that is trained on in so many equal pieces."""
        return cls(visible.sum() / pieces, _both_ends(visible).sum() / pieces, data)


def masked_mean(values: Tensor, mask: Tensor, count: Tensor, data: Group) -> Tensor:
    """Mean over the masked entries of a batch that others share in (``Counts``) -> scalar."""
    return (values * mask).sum() / data.mean(count.float()).clamp(min=1.0 / data.size)


def pose_distance(
    predicted: Tensor, target: Tensor, visible: Tensor, counts: Counts | None = None, *, speed_weight: float
) -> Tensor:
    """Mean joint distance plus ``speed_weight`` x the mean distance of the steps between poses, metres -> scalar.

    ``[B, O, J, 3]`` with ``[B, O, J]``; the first step begins at the last observed pose, which is known and so cancels.
    """
    counts = counts or Counts.of(visible)
    error = predicted.float() - target.float()
    steps = torch.diff(error, dim=1, prepend=torch.zeros_like(error[:, :1]))
    place, speed = (torch.sqrt(e.square().sum(-1) + 1e-12) for e in (error, steps))
    speed_error = masked_mean(speed, _both_ends(visible), counts.steps, counts.data)
    return masked_mean(place, visible, counts.poses, counts.data) + speed_weight * speed_error


def _both_ends(visible: Tensor) -> Tensor:
    """Where a step between poses counts, given where poses do ``[B, O, J]``."""
    return visible & torch.cat((visible[:, :1], visible[:, :-1]), dim=1)
