"""What EgoAgent reads: multi-crop views of single images, and clips of frames and poses."""

from functools import partial

import numpy as np

from internlm.data.augment import sample_views
from internlm.data.batch import ClipBatch, ImageBatch
from internlm.data.clips import ClipDataset
from internlm.data.contents import Contents
from internlm.data.frames import open_images
from internlm.data.order import Stream

from .config import EgoAgentConfig

IMAGES, CLIPS = "image", "clip"
_FULL_DECODE = 512  # pixels; JPEGs this small gain nothing from a reduced decode


class ImageViews:
    """The images of a run's data as samples of an ``ImageBatch``."""

    def __init__(self, config: EgoAgentConfig):
        data = config.data
        self.images = open_images(data.images, data.split, data.frame_stride)
        self.files, self._crops, self._model = len(self.images), data.crops, config.model
        self._min_side = max(_FULL_DECODE, 2 * config.model.image_size)

    def __len__(self) -> int:
        return len(self.images)

    def contents(self) -> Contents:
        """That of the images."""
        return self.images.contents()

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Views of one image. Raises BrokenFile."""
        image = self.images.read(index, self._min_side)
        return sample_views(rng, image, self._crops, self._model.image_size, self._model.local_image_size)


def open_clips(config: EgoAgentConfig) -> ClipDataset:
    """The clips of a run's data."""
    data, model = config.data, config.model
    return ClipDataset(data.clips, data.split, data.clip, model.poses_per_step, model.num_joints, model.image_size, data.crops)


def streams(config: EgoAgentConfig) -> dict[str, Stream]:
    """Images, then clips: together in every step, or (``train.mixing`` alternate) images in even steps and clips in odd ones."""
    train = config.train
    every = 2 if train.mixing == "alternate" and train.image_batch and train.clip_batch else 1
    return {
        IMAGES: Stream(partial(ImageViews, config), ImageBatch, train.image_batch, number=0, every=every),
        CLIPS: Stream(partial(open_clips, config), ClipBatch, train.clip_batch, number=1, every=every, turn=every - 1),
    }
