"""Frames: a convolutional stem in place of a patch embedding ("early convolutions", arXiv 2106.14881), and the DINO head."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internlm.core.roles import PROTOTYPES, Division


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of ``[N, C, H, W]``: free of the batch, for tiny batches and streaming use."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class ConvStem(nn.Module):
    """``[N, 3, S, S] -> [N, (S/patch)^2, h]``, row-major patches.

    One 3x3 stride-2 convolution per factor two of the patch size, each doubling the width up to h, each with a norm and a
    ReLU; then a 1x1 projection. Any S that is a multiple of the patch size is accepted (local crops are smaller).
    """

    def __init__(self, hidden: int, patch_size: int, norm: str = "batch"):
        super().__init__()
        halvings = patch_size.bit_length() - 1
        widths = [3] + [hidden >> (halvings - 1 - i) for i in range(halvings)]
        layers: list[nn.Module] = []
        for wide_in, wide_out in pairwise(widths):
            layers += [
                nn.Conv2d(wide_in, wide_out, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wide_out) if norm == "batch" else ChannelNorm(wide_out),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(hidden, hidden, 1))
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] % self.patch_size or images.shape[-2] % self.patch_size:
            size = tuple(images.shape[-2:])
            raise ValueError(f"images of {size} pixels are not a multiple of the patch size {self.patch_size}")
        return self.layers(images.contiguous(memory_format=torch.channels_last)).flatten(2).transpose(1, 2)


class DinoHead(nn.Module):
    """MLP_i: ``h -> 2048 -> 2048 -> 256``, L2-normalised, then cosine similarity to K prototypes (arXiv 2104.14294).

    The prototypes' rows are normalised in the forward pass, which is weight normalisation with the gain frozen at 1.
    """

    called = ("bottleneck", "similarity")
    roles = {"prototypes": PROTOTYPES}
    division = Division(columns={"layers.0": 1, "prototypes": 1}, rows=("layers.2",), enter="layers.0", methods=("similarity",))

    def __init__(self, hidden: int, inner: int, bottleneck: int, prototypes: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, inner), nn.GELU(), nn.Linear(inner, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def bottleneck(self, hidden: Tensor) -> Tensor:
        """``[..., h] -> [..., bottleneck]``, unit length, float32."""
        return F.normalize(self.layers(hidden).float(), dim=-1, eps=1e-6)

    def similarity(self, bottleneck: Tensor) -> Tensor:
        """Cosine similarity of unit vectors ``[..., bottleneck]`` to the prototypes, ``[..., K]``."""
        return F.linear(bottleneck, F.normalize(self.prototypes.float(), dim=-1, eps=1e-12))

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., h] -> [..., K]`` cosine similarities."""
        # Called on the class: sharding wraps an instance's methods for calls from outside, and this one is inside already.
        return type(self).similarity(self, type(self).bottleneck(self, hidden))
