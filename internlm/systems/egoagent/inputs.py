"""From a batch of bytes to what the networks take: photometric changes and normalisation, on the device."""

from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from internlm.data.batch import ClipBatch, ImageBatch, to_device
from internlm.data.photometric import photometric
from internlm.data.view import normalise

from .config import EgoAgentConfig
from .streams import IMAGES

Batch = TypeVar("Batch", ImageBatch, ClipBatch)
ON_HOST = ("photometric", "global_photometric", "local_photometric", "sample_ids")
NEUTRAL = np.array([1, 1, 1, 0, 0, 0, 0, 0], np.float32)  # photometric parameters that change nothing
Actions = tuple[Tensor, Tensor, Tensor, Tensor]


def upload(batch: Batch, device: torch.device) -> Batch:
    """Copy a batch to a device. What is read on the host stays there: fetching it back would wait for the device."""
    return replace(to_device(batch, device), **{name: getattr(batch, name) for name in ON_HOST if hasattr(batch, name)})


def image_views(batch: ImageBatch) -> list[Tensor]:
    """Views by size, the global ones first: float32 ``[G, B, 3, S, S]`` and, where there are local crops, ``[L, B, 3, s, s]``."""
    pairs = [(batch.global_crops, batch.global_photometric), (batch.local_crops, batch.local_photometric)]
    return [_views(crops, parameters) for crops, parameters in pairs if crops.shape[1]]


def clip_inputs(batch: ClipBatch, *, jitter: bool) -> tuple[Tensor, Tensor, Actions]:
    """Predictor frames I_1..I_T, observer frames I_2..I_{T+1} (both ``[B, T, 3, S, S]``), and the actions.

    ``jitter`` applies the clip's photometric change to the predictor's frames; the observer always sees them as they are.
    """
    size = batch.images.shape[:2]
    plain = normalise(batch.images.flatten(0, 1)).unflatten(0, size)
    frames = plain[:, :-1]
    if jitter:
        steps = size[1] - 1
        parameters = batch.photometric.repeat_interleave(steps, dim=0)
        frames = photometric(batch.images[:, :-1].flatten(0, 1), parameters).unflatten(0, (size[0], steps))
    return frames, plain[:, 1:], (batch.poses, batch.visible, batch.past_poses, batch.past_visible)


def _views(crops: Tensor, parameters: Tensor) -> Tensor:
    """``[B, V, 3, S, S]`` and ``[B, V, 8]`` -> ``[V, B, 3, S, S]``."""
    crops, parameters = crops.transpose(0, 1), parameters.transpose(0, 1)
    return photometric(crops.flatten(0, 1), parameters.flatten(0, 1)).unflatten(0, crops.shape[:2])


def example(config: EgoAgentConfig, stream: str, count: int, device: torch.device) -> ImageBatch | ClipBatch:
    """A batch with real shapes, without photometric changes; everything is visible nowhere."""
    model, crops, steps = config.model, config.data.crops, config.data.clip.steps
    pixels = partial(torch.zeros, dtype=torch.uint8, device=device)
    ids = torch.from_numpy(np.arange(count))

    def neutral(*shape: int) -> Tensor:
        return torch.from_numpy(np.tile(NEUTRAL, (*shape, 1)))

    if stream == IMAGES:
        views, sides = (crops.global_crops, crops.local_crops), (model.image_size, model.local_image_size)
        images = (pixels((count, number, 3, side, side)) for number, side in zip(views, sides))
        return ImageBatch(*images, *(neutral(count, number) for number in views), ids)
    chunk = (count, steps, model.poses_per_step, model.num_joints)
    poses, visible = torch.zeros(*chunk, 3, device=device), torch.zeros(chunk, dtype=torch.bool, device=device)
    return ClipBatch(
        images=pixels((count, steps + 1, 3, model.image_size, model.image_size)),
        photometric=neutral(count),
        poses=poses,
        visible=visible,
        past_poses=poses,
        past_visible=visible,
        frame_numbers=torch.arange(steps + 1, device=device).expand(count, -1),
        takes=torch.zeros(count, dtype=torch.int64, device=device),
        sample_ids=ids,
    )
