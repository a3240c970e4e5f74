"""Views of images: crops drawn and cut per sample on the CPU in uint8, photometric changes in one batched pass on the device.

Resampling is PIL's antialiased bicubic (torch's uint8 kernel, at most 2/255 apart), for training and evaluation alike.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from internlm.config.schema import ClipConfig, CropConfig

from .view import MEAN, STD, per_channel, resize

LUMA = (0.2989, 0.587, 0.114)
ASPECT = (3 / 4, 4 / 3)
BLUR_SIGMA = (0.1, 2.0)  # pixels at 224; scaled with the image size
BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAY, BLUR, SOLARIZE, ORDER = range(8)
Box = tuple[int, int, int, int]  # top, left, height, width
_ATTEMPTS = 10
# All orders of the four jitter steps; ORDER indexes this table.
_ORDERS = np.array([[a, b, c, 6 - a - b - c] for a in range(4) for b in range(4) for c in range(4) if len({a, b, c}) == 3])


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


def clip_photometric(rng: np.random.Generator | None, clip: ClipConfig, crops: CropConfig) -> np.ndarray:
    """Photometric parameters float32 [8] shared by a clip's frames: jitter only, in the strengths of ``crops``."""
    params = identity_photometric(1)
    if rng is not None:
        _draw_jitter(rng, params, crops, clip.color_jitter)
    return params[0]


def identity_photometric(count: int) -> np.ndarray:
    """Parameters [count, 8] that change nothing."""
    params = np.zeros((count, 8), np.float32)
    params[:, :GRAY] = (1, 1, 1, 0)
    return params


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
    params = _view_photometric(rng, crops, image_size)
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


def photometric(images: Tensor, params: Tensor) -> Tensor:
    """Apply parameters float [N, 8] to images uint8 [N, 3, S, S] and normalise: float32, on the images' device.

    Jitter has torchvision's meaning and order per sample (brightness and saturation blend with black and grey, contrast
    with the mean grey, hue turns in HSV); then grey, Gaussian blur, solarize at 0.5. Each step touches only the samples that
    need it; ``params`` is read on the host (one synchronisation when it lies on an accelerator).
    """
    host = params.detach().cpu().numpy()
    x = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    _jitter(x, host)
    _apply_to(x, host[:, GRAY] > 0, lambda part, _: _grey(part).expand_as(part))
    _apply_to(x, host[:, BLUR] > 0, lambda part, rows: _blur(part, host[rows, BLUR]))
    _apply_to(x, host[:, SOLARIZE] > 0, lambda part, _: torch.where(part >= 0.5, 1 - part, part))
    return x.sub_(per_channel(x, MEAN)).div_(per_channel(x, STD))


def _jitter(x: Tensor, host: np.ndarray) -> None:
    neutral = (1, 1, 1, 0)
    steps = (_brightness, _contrast, _saturation, _hue)
    order = _ORDERS[host[:, ORDER].astype(np.int64)]
    for place in range(4):
        for column, step in enumerate(steps):
            chosen = (order[:, place] == column) & (host[:, column] != neutral[column])
            _apply_to(x, chosen, lambda part, rows, c=column, s=step: s(part, _like(part, host[rows, c])))


def _apply_to(x: Tensor, chosen: np.ndarray, change) -> None:
    """Replace the chosen samples of x by change(samples, rows)."""
    rows = np.flatnonzero(chosen)
    if len(rows) == len(x) and len(rows):
        x.copy_(change(x, rows))
    elif len(rows):
        index = torch.from_numpy(rows).to(x.device)
        x[index] = change(x[index], rows)


def _like(x: Tensor, values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(x.device).view(-1, 1, 1, 1)


def _grey(x: Tensor) -> Tensor:
    return (x * per_channel(x, LUMA)).sum(1, keepdim=True)


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).clamp_(0, 1)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = _grey(x).mean((1, 2, 3), keepdim=True)
    return (mean + (x - mean) * factor).clamp_(0, 1)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_grey(x).expand_as(x), x, factor).clamp_(0, 1)


def _hue(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue in HSV; value and saturation stay. The dearest step on a CPU: a config may do without (hue 0)."""
    value = x.amax(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    inverse = (chroma + (chroma == 0)).reciprocal_()
    red, green, blue = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    otherwise = torch.where(value == green, (blue - red) * inverse + 2, (red - green) * inverse + 4)
    sixth = torch.where(value == red, (green - blue) * inverse, otherwise).add_(6 * turns)
    k = sixth + torch.tensor((5.0, 3.0, 1.0), device=x.device).view(3, 1, 1)
    k.sub_((k * (1 / 6)).floor_().mul_(6))  # k modulo 6; torch.remainder is slower
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)


def _blur(x: Tensor, sigma: np.ndarray) -> Tensor:
    """Separable Gaussian with one sigma [N] per sample, cut at 3 sigma, as a depthwise convolution; edges reflect."""
    count, channels, height, width = x.shape
    reach = np.minimum(np.ceil(3 * sigma), min(height, width) - 1)
    radius = int(reach.max())
    taps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (taps / sigma[:, None]) ** 2) * (np.abs(taps) <= reach[:, None])
    weights = (weights / weights.sum(1, keepdims=True)).repeat(channels, 0)
    kernel = torch.from_numpy(weights.astype(np.float32)).to(x.device)
    groups = count * channels
    flat = F.pad(x, (radius,) * 4, mode="reflect").view(1, groups, height + 2 * radius, width + 2 * radius)
    flat = F.conv2d(flat, kernel.view(groups, 1, 1, -1), groups=groups)
    return F.conv2d(flat, kernel.view(groups, 1, -1, 1), groups=groups).view(count, channels, height, width)


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


def _draw_jitter(rng: np.random.Generator, params: np.ndarray, crops: CropConfig, probability: float) -> None:
    views = len(params)
    applied = rng.random(views) < probability
    strengths = np.array([crops.brightness, crops.contrast, crops.saturation, crops.hue])
    jitter = rng.uniform(-1, 1, (views, 4)) * strengths
    jitter[:, :HUE] = np.maximum(0, 1 + jitter[:, :HUE])
    params[:, ORDER] = rng.integers(0, len(_ORDERS), views)
    params[applied, : HUE + 1] = jitter[applied]


def _view_photometric(rng: np.random.Generator, crops: CropConfig, image_size: int) -> np.ndarray:
    """Parameters [G + L, 8]: jitter, grey, blur as likely as the kind of crop says, solarize on the second global crop."""
    globals_, locals_ = crops.global_crops, crops.local_crops
    params = identity_photometric(globals_ + locals_)
    _draw_jitter(rng, params, crops, crops.color_jitter)
    draws = rng.random((3, globals_ + locals_))
    blur = np.array([crops.blur_global[0]] + [crops.blur_global[1]] * (globals_ - 1) + [crops.blur_local] * locals_)
    sigma = rng.uniform(*BLUR_SIGMA, globals_ + locals_) * image_size / 224
    params[:, GRAY] = draws[0] < crops.gray
    params[:, BLUR] = np.where(draws[1] < blur, sigma, 0)
    if globals_ > 1:
        params[1, SOLARIZE] = draws[2, 1] < crops.solarize
    return params
