"""What the loader hands to a training step or an evaluation: plain tensors with named axes, samples first.

Axes: B samples, T steps, P poses per step, J joints, G global crops, L local crops, S pixels of a side.
Photometric parameters are 8 floats a view, drawn by the sampler and applied on the device in one batched pass
(``photometric.py``): brightness, contrast and saturation factors, hue shift (turns), gray (0/1), blur sigma (pixels,
0 = none), solarize (0/1), order seed of the jitter.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageBatch:
    """Multi-crop views of B images."""

    global_crops: Tensor  # uint8 [B, G, 3, S, S], RGB
    local_crops: Tensor  # uint8 [B, L, 3, s, s], RGB
    global_photometric: Tensor  # float32 [B, G, 8]
    local_photometric: Tensor  # float32 [B, L, 8]
    sample_ids: Tensor  # int64 [B], position in the run's sample order


@dataclass(frozen=True)
class ClipBatch:
    """B clips of T steps: T+1 frames, T pose chunks, and the poses observed just before each chunk."""

    images: Tensor  # uint8 [B, T+1, 3, S, S], RGB
    photometric: Tensor  # float32 [B, 8], one change shared by the predictor's frames of a clip
    poses: Tensor  # float32 [B, T, P, J, 3], metres; 0 where not visible
    visible: Tensor  # bool [B, T, P, J]
    past_poses: Tensor  # float32 [B, T, P, J, 3], the P poses before chunk t in chunk t's coordinates; 0 where not visible
    past_visible: Tensor  # bool [B, T, P, J]
    frame_numbers: Tensor  # int64 [B, T+1]
    takes: Tensor  # int64 [B], row in the dataset's take table
    sample_ids: Tensor  # int64 [B]


def to_device(batch, device: torch.device):
    """Copy every tensor of a batch to a device, asynchronously when the source is pinned."""
    return type(batch)(**{f.name: getattr(batch, f.name).to(device, non_blocking=True) for f in fields(batch)})


def split(batch, parts: int):
    """Yield ``parts`` equal pieces of a batch along the sample axis (gradient accumulation)."""
    pieces = {f.name: getattr(batch, f.name).chunk(parts) for f in fields(batch)}
    for part in range(parts):
        yield type(batch)(**{name: chunks[part] for name, chunks in pieces.items()})
