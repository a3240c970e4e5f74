"""Diffusion policy, transformer variant (Chi et al., RSS 2023): future poses denoised step by step, given past poses.

Training: DDPM on a squared-cosine schedule, the network estimating the clean motion (Ramesh et al. 2022, as in human motion
diffusion, Tevet et al. 2023): a noise estimate would be divided by almost nothing at the first of few sampling steps.
Sampling: DDIM without noise. Written from the papers.
"""

import math

import torch
from torch import Tensor, nn

from internlm.objective.motion import Counts, masked_mean

from .config import ForecasterRunConfig
from .streams import WindowBatch

LIMIT = 5.0  # offsets beyond so many units of scale are none that a body makes


class DiffusionPolicy(nn.Module):
    """Predicts the offsets of ``future`` poses from the last observed one, in units of ``scale`` metres.

    Self-attention among the noisy poses is causal, cross-attention sees the past poses and the noise level.
    """

    noise_steps, scale = 100, 0.15

    def __init__(self, size: int, past: int, future: int, *, hidden: int = 128, layers: int = 4, heads: int = 4):
        super().__init__()
        self.past, self.future = past, future
        self.read_past, self.read_noisy = nn.Linear(size, hidden), nn.Linear(size, hidden)
        self.level = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.Mish(), nn.Linear(4 * hidden, hidden))
        self.past_position = nn.Parameter(torch.randn(past + 1, hidden) * 0.02)
        self.position = nn.Parameter(torch.randn(future, hidden) * 0.02)
        layer = nn.TransformerDecoderLayer(hidden, heads, 4 * hidden, 0.1, "gelu", batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoder(layer, layers, nn.LayerNorm(hidden))
        self.read_out = nn.Linear(hidden, size)
        self.register_buffer("kept", signal_share(self.noise_steps), persistent=False)
        self.register_buffer("mask", torch.ones(future, future).triu(1).bool(), persistent=False)

    def forward(self, noisy: Tensor, level: Tensor, past: Tensor) -> Tensor:
        """Clean offsets ``[B, O, D]`` of noisy ones ``[B, O, D]`` at ``level`` int64 [B], given ``past`` ``[B, I, D]``."""
        condition = torch.cat((self.level(sinusoids(level, self.position.shape[1]))[:, None], self.read_past(past)), dim=1)
        target, memory = self.read_noisy(noisy) + self.position, condition + self.past_position
        hidden = self.decoder(target, memory, tgt_mask=self.mask, tgt_is_causal=True)
        return self.read_out(hidden)

    def sample(self, past: Tensor, *, steps: int = 10, samples: int = 1, seed: int = 0) -> Tensor:
        """``[B, I, D]`` -> ``[B, O, D]``: the mean of ``samples`` draws."""
        total, generator = 0, torch.Generator().manual_seed(seed)
        for _ in range(samples):
            x = torch.randn(len(past), self.future, past.shape[-1], generator=generator).to(past.device)
            levels = torch.linspace(self.noise_steps - 1, 0, steps).round().long().tolist()
            for now, later in zip(levels, [*levels[1:], None]):
                kept = self.kept[now]
                clean = self(x, torch.full((len(x),), now, device=x.device), past).clamp(-LIMIT, LIMIT)
                noise = (x - kept.sqrt() * clean) / (1 - kept).sqrt()
                next_kept = self.kept[later] if later is not None else torch.ones_like(kept)
                x = next_kept.sqrt() * clean + (1 - next_kept).sqrt() * noise
            total = total + x
        return past[:, -1:] + self.scale * total / samples


def signal_share(steps: int) -> Tensor:
    """Squared-cosine schedule: the share of signal variance left at each of ``steps`` noise levels, float32 [steps]."""
    at = torch.arange(steps + 1, dtype=torch.float64) / steps
    curve = torch.cos((at + 0.008) / 1.008 * math.pi / 2).square()
    beta = (1 - curve[1:] / curve[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - beta, 0).float()


def sinusoids(level: Tensor, size: int) -> Tensor:
    """int64 [B] -> [B, size] sine and cosine features."""
    frequency = torch.exp(-math.log(10_000.0) * torch.arange(size // 2, device=level.device) / (size // 2 - 1))
    angle = level[:, None].float() * frequency
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def build(config: ForecasterRunConfig) -> DiffusionPolicy:
    return DiffusionPolicy(3 * config.model.num_joints, config.forecaster.past, config.forecaster.future)


def forecast(network: DiffusionPolicy, past: Tensor, poses: int, samples: int) -> Tensor:
    return network.sample(past.flatten(2), samples=samples).unflatten(2, (-1, 3))


def loss(network: DiffusionPolicy, batch: WindowBatch, counts: Counts, speed_weight: float) -> Tensor:
    """Mean squared error of the clean offsets of visible joints."""
    clean = (batch.future - batch.past[:, -1:]).flatten(2) / network.scale
    level = (batch.level * network.noise_steps).long()
    kept = network.kept[level][:, None, None]
    estimate = network(kept.sqrt() * clean + (1 - kept).sqrt() * batch.noise.flatten(2), level, batch.past.flatten(2))
    error = (estimate.float() - clean).square().unflatten(2, (-1, 3)).mean(-1)
    return masked_mean(error, batch.visible, counts.poses, counts.data)
