"""Photometric changes of views: colour jitter, grey, blur and solarize, drawn per sample and applied to a batch.

On a CPU each picture passes through OpenCV's 8-bit kernels, on an accelerator the whole batch through float32 ones. Both mean the
same; the 8-bit way rounds after every step (on average by half a level of 255, hue by up to 1/512 of a turn) and takes a ninth of
the time.
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from internlm.config.schema import ClipConfig, CropConfig

from .view import MEAN, STD, normalise, per_channel

LUMA = (0.2989, 0.587, 0.114)
BLUR_SIGMA = (0.1, 2.0)  # pixels at 224; scaled with the image size
BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAY, BLUR, SOLARIZE, ORDER = range(8)
NEUTRAL = (1, 1, 1, 0)  # the jitter that changes nothing
# All orders of the four jitter steps; ORDER indexes this table.
_ORDERS = np.array([[a, b, c, 6 - a - b - c] for a in range(4) for b in range(4) for c in range(4) if len({a, b, c}) == 3])
_LEVELS = np.arange(256, dtype=np.float32)
_SOLARIZED = np.where(_LEVELS >= 128, 255 - _LEVELS, _LEVELS).astype(np.uint8)
_GREY = np.tile(np.array(LUMA, np.float32), (3, 1))
_NORMALISED = normalise(torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)).numpy()  # a float32 for each level, by channel


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


def view_photometric(rng: np.random.Generator, crops: CropConfig, image_size: int) -> np.ndarray:
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


def _draw_jitter(rng: np.random.Generator, params: np.ndarray, crops: CropConfig, probability: float) -> None:
    views = len(params)
    applied = rng.random(views) < probability
    strengths = np.array([crops.brightness, crops.contrast, crops.saturation, crops.hue])
    jitter = rng.uniform(-1, 1, (views, 4)) * strengths
    jitter[:, :HUE] = np.maximum(0, 1 + jitter[:, :HUE])
    params[:, ORDER] = rng.integers(0, len(_ORDERS), views)
    params[applied, : HUE + 1] = jitter[applied]


def photometric(images: Tensor, params: Tensor) -> Tensor:
    """Apply parameters float [N, 8] to images uint8 [N, 3, S, S] and normalise: float32, on the images' device.

    Jitter has torchvision's meaning and order per sample (brightness and saturation blend with black and grey, contrast
    with the mean grey, hue turns in HSV); then grey, Gaussian blur, solarize at 0.5. ``params`` is read on the host (one
    synchronisation when it lies on an accelerator).
    """
    host = params.detach().cpu().numpy()
    if images.device.type != "cpu" or type(images) is not Tensor:  # an estimate's fake tensors stand for those of a device
        return _on_device(images, host)
    changed = (host[:, : HUE + 1] != NEUTRAL).any(1) | (host[:, GRAY : SOLARIZE + 1] > 0).any(1)
    x = np.empty(images.shape, np.float32)
    for planes, out, params, differs in zip(images.numpy(), x, host, changed):
        for plane, table, into in zip(cv2.split(change(cv2.merge(planes), params)) if differs else planes, _NORMALISED, out):
            cv2.LUT(plane, table, into)
    return torch.from_numpy(x)


def change(picture: np.ndarray, params: np.ndarray) -> np.ndarray:
    """One picture uint8 [H, W, 3] by parameters [8]: uint8 of the same shape, which may be the picture itself."""
    for step in _ORDERS[int(params[ORDER])]:
        value = float(params[step])
        if value == NEUTRAL[step]:
            continue
        if step == BRIGHTNESS:
            picture = cv2.LUT(picture, _level(_LEVELS * value))
        elif step == CONTRAST:
            mean = float(np.dot(cv2.mean(picture)[:3], LUMA))
            picture = cv2.LUT(picture, _level(mean + (_LEVELS - mean) * value))
        elif step == SATURATION:
            picture = cv2.transform(picture, value * np.eye(3, dtype=np.float32) + (1 - value) * _GREY)
        else:
            turned = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL)
            turned[..., 0] += np.uint8(round(256 * value) % 256)  # the hue of 8 bits wraps around by itself
            picture = cv2.cvtColor(turned, cv2.COLOR_HSV2RGB_FULL)
    if params[GRAY] > 0:
        picture = cv2.transform(picture, _GREY)
    if params[BLUR] > 0:
        reach = min(int(np.ceil(3 * params[BLUR])), min(picture.shape[:2]) - 1)
        picture = cv2.GaussianBlur(picture, (2 * reach + 1,) * 2, float(params[BLUR]), borderType=cv2.BORDER_REFLECT_101)
    return cv2.LUT(picture, _SOLARIZED) if params[SOLARIZE] > 0 else picture


def _level(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _on_device(images: Tensor, host: np.ndarray) -> Tensor:
    """Each step touches only the samples that need it."""
    x = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    _jitter(x, host)
    _apply_to(x, host[:, GRAY] > 0, lambda part, _: _grey(part).expand_as(part))
    _apply_to(x, host[:, BLUR] > 0, lambda part, rows: _blur(part, host[rows, BLUR]))
    _apply_to(x, host[:, SOLARIZE] > 0, lambda part, _: torch.where(part >= 0.5, 1 - part, part))
    return x.sub_(per_channel(x, MEAN)).div_(per_channel(x, STD))


def _jitter(x: Tensor, host: np.ndarray) -> None:
    steps = (_brightness, _contrast, _saturation, _hue)
    order = _ORDERS[host[:, ORDER].astype(np.int64)]
    for place in range(4):
        for column, step in enumerate(steps):
            chosen = (order[:, place] == column) & (host[:, column] != NEUTRAL[column])
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
    """Turn the hue in HSV; value and saturation stay."""
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
