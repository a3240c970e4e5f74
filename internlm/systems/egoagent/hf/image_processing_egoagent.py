"""The evaluation view of images as a Hugging Face image processor. Needs no torchvision."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers.image_processing_base import BatchFeature, ImageProcessingMixin

from internlm.data.view import describe_view, eval_transform, normalise

EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


class EgoAgentImageProcessor(ImageProcessingMixin):
    """Short side to ``size["shortest_edge"]`` (antialiased bicubic), central square, ImageNet mean and standard deviation.

    Args:
        crop_size: ``{"height": S, "width": S}``; the other numbers follow from S and are written down for readers.

    Raises ValueError for numbers that would be another view than the one the model is evaluated with.
    """

    model_input_names = ["pixel_values"]

    def __init__(self, crop_size: dict[str, int] | int = 224, **kwargs):
        side = crop_size["height"] if isinstance(crop_size, dict) else crop_size
        view = describe_view(side)
        for name, value in view.items():
            given = kwargs.pop(name, value) if name != "crop_size" else crop_size if isinstance(crop_size, dict) else value
            if given != value:
                raise ValueError(f"{name} is {given!r}; this model is evaluated with {value!r} and no other view is implemented")
        super().__init__(**kwargs)
        for name, value in view.items():
            setattr(self, name, value)

    def __call__(self, images, return_tensors: str | None = "pt") -> BatchFeature:
        """PIL images, uint8 arrays ``[H, W, 3]`` or uint8 tensors ``[3, H, W]``, one or a list -> ``[N, 3, S, S]``."""
        side = self.crop_size["height"]
        views = np.stack([eval_transform(_as_array(image), side) for image in _as_list(images)])
        pixels = normalise(torch.from_numpy(views))
        return BatchFeature({"pixel_values": pixels if return_tensors == "pt" else pixels.numpy()}, tensor_type=return_tensors)

    preprocess = __call__


def _as_list(images) -> list:
    if isinstance(images, np.ndarray | torch.Tensor):
        return list(images) if images.ndim == 4 else [images]
    images = list(images) if isinstance(images, Sequence) else [images]
    if not images:
        raise ValueError("no images were given")
    return images


def _as_array(image) -> np.ndarray:
    """Any of the accepted kinds as uint8 ``[H, W, 3]``."""
    if isinstance(image, torch.Tensor):
        image = image.cpu().movedim(0, -1).numpy()
    elif hasattr(image, "convert"):
        if image.mode not in EIGHT_BIT:
            raise ValueError(f"an image of mode {image.mode!r} has no 8-bit values; scale it to 0..255 and convert it to 'RGB'")
        image = np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"an image is {found}; give PIL images, uint8 arrays [H, W, 3] or uint8 tensors [3, H, W]")
    return image
