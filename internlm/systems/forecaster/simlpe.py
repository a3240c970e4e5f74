"""siMLPe: an MLP over time in the frequency domain (Guo et al., "Back to MLP", WACV 2023), written from the paper's description.

Poses of L frames -> DCT over time -> linear map over joints -> blocks of [linear map over time, LayerNorm over joints,
residual] -> linear map over joints -> inverse DCT -> added to the last observed pose. No activation function anywhere.
"""

import math

import torch
from torch import Tensor, nn

from internlm.objective.motion import Counts, pose_distance

from .config import ForecasterRunConfig
from .streams import WindowBatch


def dct_matrix(length: int) -> Tensor:
    """Orthonormal DCT-II, float32 [L, L]: rows are frequencies. Its inverse is its transpose."""
    k = torch.arange(length, dtype=torch.float64)[:, None]
    n = torch.arange(length, dtype=torch.float64)[None]
    basis = torch.cos(math.pi * (n + 0.5) * k / length) * math.sqrt(2 / length)
    basis[0] /= math.sqrt(2)
    return basis.float()


class TemporalBlock(nn.Module):
    """``[L, B, D] -> [L, B, D]``: x + LayerNorm_D(W x + b), W over time and shared by all coordinates.

    Time first makes W one matrix product and the norm's axis the contiguous one. W starts so small that the norm's epsilon
    rules: every block begins as the identity.
    """

    def __init__(self, size: int, length: int):
        super().__init__()
        self.mix = nn.Linear(length, length)
        self.norm = nn.LayerNorm(size)
        nn.init.xavier_uniform_(self.mix.weight, gain=1e-4)
        nn.init.zeros_(self.mix.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(torch.addmm(self.mix.bias[:, None], self.mix.weight, x.flatten(1)).view_as(x))


class SiMLPe(nn.Module):
    """``[B, I, D]`` past coordinates (metres) -> ``[B, O, D]``. At its published size (I 50, D 66, 48 blocks) it has 137,580
    parameters. The last map starts at zero, i.e. as the zero-velocity baseline."""

    def __init__(self, size: int, past: int, future: int, blocks: int = 48):
        super().__init__()
        self.past, self.future, length = past, future, max(past, future)
        self.read_in, self.read_out = nn.Linear(size, size), nn.Linear(size, size)
        self.blocks = nn.Sequential(*(TemporalBlock(size, length) for _ in range(blocks)))
        self.register_buffer("dct", dct_matrix(length), persistent=False)
        nn.init.zeros_(self.read_out.weight)
        nn.init.zeros_(self.read_out.bias)

    def forward(self, past: Tensor) -> Tensor:
        missing = len(self.dct) - self.past
        padded = torch.cat((past[:, :1].expand(-1, missing, -1), past), dim=1) if missing else past
        hidden = self.blocks(self.read_in(self.dct @ padded).transpose(0, 1).contiguous())
        return past[:, -1:] + (self.dct.T @ self.read_out(hidden.transpose(0, 1)))[:, : self.future]


def build(config: ForecasterRunConfig) -> SiMLPe:
    return SiMLPe(3 * config.model.num_joints, config.forecaster.past, config.forecaster.future)


def forecast(network: SiMLPe, past: Tensor, poses: int, samples: int) -> Tensor:
    return network(past.flatten(2)).unflatten(2, (-1, 3))


def loss(network: SiMLPe, batch: WindowBatch, counts: Counts, speed_weight: float) -> Tensor:
    predicted = forecast(network, batch.past, batch.future.shape[1], 1)
    return pose_distance(predicted, batch.future, batch.visible, counts, speed_weight=speed_weight)
