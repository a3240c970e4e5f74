"""Batch normalisation whose statistics are those of all processes' samples."""

import torch
from torch import Tensor, nn

from internlm.core import regions
from internlm.core.collectives import Group


class SyncedBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` over the samples of a group; torch's own SyncBatchNorm refuses the CPU.

    Every process must bring the same number of values. Names of parameters and buffers are those of ``nn.BatchNorm2d``.
    """

    group: Group

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()
        mean = regions.pooled(values.mean((0, 2, 3)), self.group) / self.group.size
        centred = values - mean[:, None, None]
        # Two passes: the squares of centred values lose no digits, unlike mean(x²) − mean(x)².
        variance = regions.pooled(centred.square().mean((0, 2, 3)), self.group) / self.group.size
        self._follow(mean.detach(), variance.detach(), values.numel() // values.shape[1] * self.group.size)
        scale = self.weight.float() * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias.float()[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)


def synchronise_batch_norms(network: nn.Module, group: Group) -> None:
    """Make every BatchNorm2d of a network measure the whole group's samples, in place."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__, module.group = SyncedBatchNorm, group
