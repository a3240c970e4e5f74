"""What features of labelled images are compared with: an untrained network's and the pixels themselves."""

import torch
from torch import nn

from internlm.data.frames import ImageSource
from internlm.systems.base import Embeds

from ..encoders import Encoder
from ..features import DIGEST, Features, calibrate, encoder, extract
from ..options import Extraction
from ..ranks import from_first
from .checks import check_copies

FLOOR_SEED = 7  # of the untrained network; not a training seed of anyone
RANDOM, RANDOM_RAW = "random_weights", "random_weights_uncalibrated"


def untrained(system: Embeds, seed: int = FLOOR_SEED) -> nn.Module:
    """A branch of this system with random weights, whatever the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return system.fresh_branch().eval()


def random_encoders(system: Embeds, train: ImageSource, kind: str, how: Extraction) -> tuple[list[Encoder], int]:
    """The random-weights floor: with BatchNorm statistics of the training images, and as initialised where that differs."""
    calibrated = untrained(system)
    used = calibrate(system, calibrated, train, how)
    networks = {RANDOM: calibrated} | ({RANDOM_RAW: untrained(system)} if used else {})
    return [encoder(system, network, {name: kind}, how) for name, network in networks.items()], used


def both(
    train: ImageSource, test: ImageSource, encoders: list[Encoder], image_size: int, how: Extraction
) -> tuple[dict[str, Features], int]:
    """Features of the training and the test images, and how many test images are copies of a training image.

    EvalError when all are.
    """
    found = {part: extract(source, [*encoders, DIGEST], image_size, how) for part, source in (("train", train), ("test", test))}
    digests = [features.values.pop("digest") for features in found.values()]  # on all processes: what is left is scored
    return found, from_first(lambda: check_copies(*digests))
