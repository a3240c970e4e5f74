"""Views of images: crops drawn and cut per sample in uint8; what changes their colours is in ``photometric.py``.

Resampling is PIL's antialiased bicubic (torch's uint8 kernel, at most 2/255 apart), for training and evaluation alike.
"""

import math
from dataclasses import dataclass

import numpy as np

from internlm.config.schema import ClipConfig, CropConfig

from .photometric import view_photometric
from .view import resize

ASPECT = (3 / 4, 4 / 3)
Box = tuple[int, int, int, int]  # top, left, height, width
_ATTEMPTS = 10


@dataclass(frozen=True)
class ClipCrop:
    """One square crop for all frames of a clip: side and place as shares of what the image allows."""

    side: float
    top: float
    left: float

    def box(self, height: int, width: int) -> Box:
        """(top, left, height, width) in an image of this size."""
        side = max(1, round(self.side * min(height, width)))
        return round(self.top * (height - side)), round(self.left * (width - side)), side, side


def clip_crop(rng: np.random.Generator | None, clip: ClipConfig) -> ClipCrop:
    """Draw a clip's shared crop; rng None = the central square."""
    if rng is None:
        return ClipCrop(1.0, 0.5, 0.5)
    area, top, left = rng.random(3)
    if clip.crop_scale == (1.0, 1.0):
        return ClipCrop(1.0, 0.5, 0.5)
    low, high = clip.crop_scale
    return ClipCrop(float(np.sqrt(low + area * (high - low))), float(top), float(left))


def sample_views(
    rng: np.random.Generator, image: np.ndarray, crops: CropConfig, image_size: int, local_image_size: int
) -> dict[str, np.ndarray]:
    """Multi-crop views of one image uint8 [H, W, 3].

    Returns global_crops uint8 [G, 3, S, S], local_crops [L, 3, s, s] and their photometric parameters [G, 8], [L, 8].
    Random areas and aspect ratios as in torchvision's RandomResizedCrop; with ``init_scale`` all views lie in one first crop.
    """
    height, width = image.shape[:2]
    region = (0, 0, height, width)
    if crops.init_scale is not None:
        region = _random_boxes(rng, region, [crops.init_scale])[0]
    count_global, count_local = crops.global_crops, crops.local_crops
    boxes = _random_boxes(rng, region, [crops.global_scale] * count_global + [crops.local_scale] * count_local)
    flips = rng.random(count_global + count_local) < crops.flip
    params = view_photometric(rng, crops, image_size)
    views_global = np.empty((count_global, 3, image_size, image_size), np.uint8)
    views_local = np.empty((count_local, 3, local_image_size, local_image_size), np.uint8)
    for box, flip, out in zip(boxes, flips.tolist(), [*views_global, *views_local]):
        resize_crop(image, box, out, flip=flip)
    return {
        "global_crops": views_global,
        "local_crops": views_local,
        "global_photometric": params[:count_global],
        "local_photometric": params[count_global:],
    }


def resize_crop(image: np.ndarray, box: Box, out: np.ndarray, *, flip: bool = False) -> None:
    """Cut (top, left, height, width) from uint8 [H, W, 3] and resample it into ``out`` uint8 [3, S, S]."""
    top, left, height, width = box
    crop = image[top : top + height, left : left + width]
    if crop.shape[:2] != out.shape[1:]:
        crop = resize(crop, out.shape[1], out.shape[2])
    out[...] = (crop[:, ::-1] if flip else crop).transpose(2, 0, 1)


def _random_boxes(rng: np.random.Generator, region: Box, scales: list[tuple[float, float]]) -> list[Box]:
    """One box per area share (low, high) inside a region, RandomResizedCrop's way: the first attempt that fits counts.

    If none fits it is the largest box of legal aspect. Plain floats: for a handful of boxes numpy's calls cost more.
    """
    top, left, height, width = region
    boxes = []
    for (low, high), draws in zip(scales, rng.random((len(scales), 2 * _ATTEMPTS + 2)).tolist()):
        for attempt in range(_ATTEMPTS):
            area = height * width * (low + draws[2 * attempt] * (high - low))
            ratio = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** draws[2 * attempt + 1]
            box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 1 <= box_width <= width and 1 <= box_height <= height:
                break
        else:
            box_width, box_height = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
        box_top = top + int(draws[-2] * (height - box_height + 1))
        boxes.append((box_top, left + int(draws[-1] * (width - box_width + 1)), box_height, box_width))
    return boxes
