"""Features of images: one decode pass, any number of encoders, in the source's order."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from internlm.core.init import autocast
from internlm.data.augment import normalise
from internlm.data.frames import DataError, ImageSource
from internlm.data.loader import evaluation_images
from internlm.model.egoagent import EgoNetwork

from .errors import EvalError

KINDS = ("state", "patch", "bottleneck")
PIXEL_SIDE = 32

Encoder = Callable[[Tensor], Tensor]  # uint8 [N, 3, S, S] -> float [N, D]


@dataclass(frozen=True)
class Features:
    """Features of a source's readable images, on the CPU."""

    values: dict[str, Tensor]  # by encoder: float32 [N, D]
    labels: Tensor  # int64 [N], -1 without a label
    classes: tuple[str, ...]
    rows: Tensor  # int64 [N], index in the source
    unreadable: int  # images that were left out


def encoder(
    network: EgoNetwork, kind: str = "state", *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Encoder:
    """A branch in eval mode as a function of uint8 images.

    ``state`` = hidden at the state query (kNN protocol), ``patch`` = mean of the patches' hidden, ``bottleneck`` = the
    head's unit vector.
    """
    if kind not in KINDS:
        raise EvalError(f"feature {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    device = torch.device(device)
    network = network.to(device).eval()

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        with autocast(device, dtype):
            patches, state = network.tokens(normalise(images.to(device, non_blocking=True)))
            if kind == "bottleneck":
                return network.head.bottleneck(state).float()
            return (state if kind == "state" else patches.mean(1)).float()

    return encode


def pixels(images: Tensor) -> Tensor:
    """The pixel floor's features: uint8 [N, 3, S, S] as the network gets them -> float32 [N, 3072].

    Area-averaged to 32×32 and centred per image, so that the cosine compares patterns rather than brightness.
    """
    small = F.interpolate(images.float(), size=(PIXEL_SIDE, PIXEL_SIDE), mode="area").flatten(1)
    return small - small.mean(1, keepdim=True)


def extract(
    source: ImageSource, encoders: dict[str, Encoder], image_size: int, *, batch_size: int = 128, limit: int | None = None
) -> Features:
    """Features of a source's images (at most ``limit``, spread evenly), each decoded once, by every encoder.

    Images that cannot be read are left out and counted. Raises DataError when none can be read.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in encoders}
    labels, rows = [], []
    wanted = sample_rows(source, limit)
    for batch in evaluation_images(source, image_size, batch_size, rows=wanted):
        rows.append(batch.rows)
        labels.append(torch.full_like(batch.rows, -1) if batch.labels is None else batch.labels)
        for name, encode in encoders.items():
            parts[name].append(encode(batch.images).cpu())
    if not rows:
        raise DataError(f"none of the {len(source)} images can be read, the first is {source.name(0)}")
    return Features(
        values={name: torch.cat(part) for name, part in parts.items()},
        labels=torch.cat(labels),
        classes=tuple(source.classes),
        rows=torch.cat(rows),
        unreadable=len(wanted) - sum(len(part) for part in rows),
        )


def sample_rows(source: ImageSource, limit: int | None) -> np.ndarray:
    """At most ``limit`` rows, spread evenly over the source; None = all. int64, rising."""
    count = len(source) if limit is None else min(limit, len(source))
    return np.linspace(0, len(source) - 1, count).round().astype(np.int64)
