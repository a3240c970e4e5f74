"""Batch normalisation whose statistics are those of all processes' samples: two collectives a layer, one each way."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from internlm.core.collectives import Group


class SyncedBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` over the samples of a group; torch's own SyncBatchNorm refuses the CPU.

    Every process must bring the same number of values. Names of parameters and buffers are those of ``nn.BatchNorm2d``.
    """

    group: Group

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            mean, variance = _statistics(x, self.group)
            count = x.numel() // x.shape[1] * self.group.size
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
        return _Normalise.apply(x, self.weight.float(), self.bias.float(), mean, variance, self.eps, self.group)


def _statistics(x: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, float32 [C], over a group whose processes have equally many values.

    The variance of all is the mean of the processes' variances and of their means' squared distances from the common mean
    (Chan, Golub, LeVeque 1979), which loses no digits, unlike mean(x²) − mean(x)².
    """
    mean, variance = torch.ops.aten.batch_norm_update_stats(x.float(), None, None, 0.0)
    if group.size == 1:
        return mean, variance
    means, variances = group.gathered(torch.stack((mean, variance))[None]).unbind(1)
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square().mean(0)


class _Normalise(torch.autograd.Function):
    """``(x − mean) / sqrt(variance + eps) · weight + bias``, the statistics being functions of all processes' x.

    The gradient of x is that of the sum of the processes' losses; those of weight and bias are this process's share.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, mean, variance, eps, group):
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps))
        ctx.group = group
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, mean, scale = ctx.saved_tensors
        wanted = [False, True, True]
        _, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, scale, True, 0.0, wanted
        )
        if not ctx.needs_input_grad[0]:
            return None, to_weight, to_bias, None, None, None, None
        sums = ctx.group.sum(torch.stack((to_weight, to_bias))) / (x.numel() // x.shape[1] * ctx.group.size)
        # weight·scale·(gradient − mean(gradient) − x̂·mean(gradient·x̂)), gathered by what multiplies gradient, x and 1.
        by_gradient = weight * scale
        by_x = -by_gradient * scale * sums[0]
        rest = -by_gradient * sums[1] - by_x * mean
        shaped = (part.to(x.dtype)[:, None, None] for part in (rest, by_x, by_gradient))
        rest, by_x, by_gradient = shaped
        return torch.addcmul(rest, x, by_x).addcmul_(gradient, by_gradient), to_weight, to_bias, None, None, None, None


def synchronise_batch_norms(network: nn.Module, group: Group) -> None:
    """Make every BatchNorm2d of a network measure the whole group's samples, in place."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__, module.group = SyncedBatchNorm, group
