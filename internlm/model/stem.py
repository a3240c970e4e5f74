"""Image tokenizer: a convolutional stem in place of a patch embedding ("early convolutions", arXiv 2106.14881)."""

from itertools import pairwise

import torch
from torch import Tensor, nn


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
