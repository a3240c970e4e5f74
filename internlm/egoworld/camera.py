"""The head camera that EgoWorld simulates: a wide pinhole, or the fisheye of a typical Project Aria device."""

from typing import Literal

import numpy as np

from internlm.data.camera import ARIA_SIZE, pinhole_camera
from internlm.data.store import Camera

# A typical Project Aria RGB calibration (k0..k5, p0, p1, s0..s3), upright, at 1408 pixels of a side.
ARIA_FOCAL = 608.0
ARIA_DISTORTION = (0.405, -0.493, 0.206, 1.064, -1.638, 0.630, 2.0e-4, -4.0e-4, -3.0e-4, 3.0e-5, -2.0e-4, -6.0e-5)


def default_camera(kind: Literal["pinhole", "fisheye624"], size: int) -> Camera:
    """A square head camera of ``size`` pixels: a 98 degree pinhole (diagonal more), or an Aria-like fisheye."""
    if kind == "pinhole":
        return pinhole_camera(size, size / (2 * np.tan(np.radians(98) / 2)))
    if kind == "fisheye624":
        centre = (size - 1) / 2
        return Camera("fisheye624", size, size, (ARIA_FOCAL * size / ARIA_SIZE, centre, centre, *ARIA_DISTORTION))
    raise ValueError(f"unknown camera model {kind!r}: choose 'pinhole' or 'fisheye624'")
