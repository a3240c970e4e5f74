"""The one view of an image that evaluation and exported models share: resize, central crop, ImageNet's normalisation.

Nothing but numpy and torch, because an exported model carries this file along (``internlm.export.sources``).
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, RGB


def short_side(image_size: int) -> int:
    """Length that the short side is resized to before the central crop of ``image_size``: 256 for 224."""
    return round(image_size * 256 / 224)


def eval_transform(image: np.ndarray, image_size: int) -> np.ndarray:
    """The evaluation view: short side to round(image_size·256/224), central square; uint8 [H, W, 3] to uint8 [3, S, S].

    Of a picture more than 16 times as long as wide, the ends go first: resized whole, a line of pixels would fill the memory.
    """
    height, width = image.shape[:2]
    if max(height, width) > 16 * min(height, width):
        spare = max(height, width) - 16 * min(height, width)
        kept = slice(spare // 2, spare // 2 + 16 * min(height, width))
        image = image[kept] if height > width else image[:, kept]
        height, width = image.shape[:2]
    short = short_side(image_size)
    scale = short / min(height, width)
    new_height, new_width = (short, int(width * scale)) if height <= width else (int(height * scale), short)
    resized = image if (new_height, new_width) == (height, width) else resize(image, new_height, new_width)
    top, left = round((new_height - image_size) / 2), round((new_width - image_size) / 2)
    return np.ascontiguousarray(resized[top : top + image_size, left : left + image_size].transpose(2, 0, 1))


def normalise(images: Tensor) -> Tensor:
    """uint8 [..., 3, S, S] to float32 with ImageNet's mean and standard deviation."""
    mean, std = per_channel(images, MEAN), per_channel(images, STD)
    return images.float().sub_(mean * 255).div_(std * 255)


def describe_view(image_size: int) -> dict[str, Any]:
    """The view of a model of this image size in the keys of Hugging Face image processors."""
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": short_side(image_size)},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }


def per_channel(like: Tensor, values: tuple[float, ...]) -> Tensor:
    """One value per channel as float32 [C, 1, 1] on the device of ``like``."""
    return torch.tensor(values, device=like.device).view(-1, 1, 1)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bicubic of uint8 [H, W, 3]."""
    if image.strides[-1] != 1 or min(image.strides) < 0 or not image.flags.writeable:
        image = image.copy()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    return F.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
