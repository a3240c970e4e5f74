"""One precomputed map from an Aria picture to the stored one: rotation, undistortion and size in a single resampling."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dataset_preprocess.aria.calibration import CROP, RAW_SIZE, AriaCalibration
from dataset_preprocess.errors import RecordingError
from internlm.data.camera import ARIA_VALID_RADIUS, pinhole_camera, project, scale_camera, turn_clockwise, unproject
from internlm.data.store import Camera

Orientation = Literal["landscape", "upright"]
Lens = Literal["pinhole", "fisheye", "upstream"]
_OUTSIDE = -9.0  # a place outside every picture, where cv2.remap paints black
_ALIASES = 1.3  # pixels of the source per stored pixel from which on bilinear resampling alone would skip some


@dataclass(frozen=True)
class PictureMap:
    """How a recording's pictures become stored ones: ``apply`` to each. camera: of the result; None where it has no true one."""

    camera: Camera | None
    source: tuple[int, int]  # width and height of the pictures that go in
    crop: int  # pixels cut off each of their sides
    shrink: tuple[int, int] | None  # size to average down to beforehand, against aliasing
    columns: np.ndarray  # float32 [H, W], where in the shrunk picture each stored pixel lies
    rows: np.ndarray
    valid: np.ndarray  # bool [H, W], pixels that carry light; the others are black

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Picture uint8 [h, w, C] to the stored one uint8 [H, W, C]; C = 4 takes half the time of C = 3.

        Raises RecordingError when the size is another than ``source``.
        """
        import cv2

        height, width = image.shape[:2]
        if (width, height) != self.source:
            raise RecordingError(f"a picture of {width}x{height} among pictures of {self.source[0]}x{self.source[1]}")
        if self.crop:
            image = image[self.crop : -self.crop, self.crop : -self.crop]
        if self.shrink:
            image = cv2.resize(image, self.shrink, interpolation=cv2.INTER_AREA)
        # Float maps: the fixed-point ones are faster still but off by up to three grey levels.
        return cv2.remap(image, self.columns, self.rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def picture_map(
    calibration: AriaCalibration,
    source: tuple[int, int],
    *,
    orientation: Orientation,
    size: int,
    lens: Lens = "pinhole",
    focal: float | None = None,
    name: str = "picture",
) -> PictureMap:
    """The map from pictures of ``source`` (width, height) in the given orientation to upright ones of ``size`` pixels.

    lens: "pinhole" undistorts to straight lines, with ``focal`` in stored pixels (None: the lens's own, a view of 98 degrees);
    "fisheye" turns and resizes only; "upstream" makes the pictures of EgoAgent's first release, whose geometry is wrong.
    Raises RecordingError, naming ``name``, for a picture size that no Aria has, or one smaller than ``size``.
    """
    landscape, crop = calibration.picture(*source, name)
    if size > landscape.width:
        raise RecordingError(f"{name}: cannot store {size} pixels of pictures that have {landscape.width}; lower the size")
    if lens == "upstream":
        return _upstream_map(calibration, source, size, name)
    turned = turn_clockwise(landscape)
    if lens == "fisheye":
        target = scale_camera(turned, size)
    else:
        target = pinhole_camera(size, focal or turned.params[0] * size / turned.width)
    step = turned.params[0] / target.params[0]
    shrink = None
    if step > _ALIASES:
        side = round(turned.width / step)
        shrink, landscape, turned = (side, side), scale_camera(landscape, side), scale_camera(turned, side)
    if lens == "fisheye":
        columns, rows = np.meshgrid(np.arange(size, dtype=np.float64), np.arange(size, dtype=np.float64))
        valid = np.concatenate([unproject(target, block)[1] for block in _blocks(np.stack([columns, rows], -1))])
        places = (np.stack([columns, rows], -1) + 0.5) * (turned.width / size) - 0.5
    else:
        places, valid = _project(turned, rays_of_pinhole(target))
    if orientation == "landscape":
        # The upright picture's pixel (u, v) is the landscape picture's (v, H - 1 - u): turned back by 90 degrees.
        places = np.stack([places[..., 1], landscape.height - 1 - places[..., 0]], -1)
    painted = np.ones_like(valid) if lens == "fisheye" else valid
    return _assemble(target, source, crop, shrink, places, painted, valid)


def rays_of_pinhole(camera: Camera) -> np.ndarray:
    """Viewing directions float64 [H, W, 3] at depth 1 of a pinhole's pixels."""
    fx, fy, cx, cy = camera.params
    columns, rows = np.meshgrid((np.arange(camera.width) - cx) / fx, (np.arange(camera.height) - cy) / fy)
    return np.stack([columns, rows, np.ones_like(columns)], -1)


def _upstream_map(calibration: AriaCalibration, source: tuple[int, int], size: int, name: str) -> PictureMap:
    """The released picture: the raw sensor's calibration scaled by 448/2880, and no turn between it and the upright video."""
    if source[0] != size:
        raise RecordingError(f"{name}: the upstream picture is as large as the video, {source[0]} pixels; ask for that size")
    f, cx, cy, *rest = calibration.sensor.params
    scale = size / RAW_SIZE
    centre = [(2 * c + CROP + 1) * scale - 0.5 for c in (cx, cy)]
    wrong = Camera("fisheye624", size, size, (2 * f * scale, *centre, *rest))
    target = pinhole_camera(size, wrong.params[0])
    places, valid = _project(wrong, rays_of_pinhole(target))
    radius = 2 * ARIA_VALID_RADIUS * scale  # of the raw picture, less than that of a 1408 picture of this width
    valid &= ((places - wrong.params[1:3]) ** 2).sum(-1) <= radius**2
    return _assemble(None, source, 0, None, places, valid, valid)


def _project(camera: Camera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``project`` of points [H, W, 3], some rows at a time: intermediate arrays stay in the processor's cache."""
    places, valid = zip(*(project(camera, block) for block in _blocks(points)), strict=True)
    return np.concatenate(places), np.concatenate(valid)


def _blocks(array: np.ndarray) -> list[np.ndarray]:
    return np.array_split(array, max(1, array[..., 0].size // 16384))


def _assemble(camera, source, crop, shrink, places, painted, valid) -> PictureMap:
    places = np.where(painted[..., None], places, _OUTSIDE).astype(np.float32)
    columns, rows = (np.ascontiguousarray(places[..., axis]) for axis in (0, 1))
    return PictureMap(camera, tuple(source), crop, shrink, columns, rows, valid)
