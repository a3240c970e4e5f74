"""The RGB camera of one Project Aria device: read from its calibration JSON or from a VRS recording, fitted to a picture's size.

Three picture sizes belong to one calibration. The sensor has 2880 x 2880 pixels and lies on its side: the picture's left edge is
the wearer's top. A recording of 1408 x 1408 is the sensor less 32 pixels on every side, halved. Ego-Exo4D's small videos
are those 1408 pixels resized to 448. All videos (but no recording) are turned upright.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset_preprocess.aria.recording import RGB, calibration_text, check_device, open_vrs
from dataset_preprocess.errors import RecordingError
from dataset_preprocess.json_input import parse_json, read_json
from internlm.data.camera import ARIA_SIZE, FISHEYE_MAX_ANGLE, rises_to, scale_camera
from internlm.data.store import Camera

RAW_SIZE = 2880
CROP = 32  # pixels of the raw picture that the 1408 picture lacks on each side
VIDEO_SIZE = 448
MODEL = "FisheyeRadTanThinPrism"  # what the JSON calls FISHEYE624
_MAX_JSON = 16 << 20


@dataclass(frozen=True)
class AriaCalibration:
    """One device's RGB camera. sensor: fisheye624 of the landscape picture of 1408 pixels; synthetic: of a simulated device."""

    sensor: Camera
    serial: str
    device_from_camera: np.ndarray  # float64 [4, 4], of the landscape sensor
    synthetic: bool = False

    def picture(self, width: int, height: int, name: str) -> tuple[Camera, int]:
        """Camera of a landscape picture of this size, and how many pixels to cut from each of its sides beforehand.

        Raises RecordingError, naming ``name``, for a size that no picture of this device has.
        """
        if width == height == RAW_SIZE:
            return scale_camera(self.sensor, RAW_SIZE - 2 * CROP), CROP
        if width == height and (width in (ARIA_SIZE, VIDEO_SIZE) or self.synthetic):
            return scale_camera(self.sensor, width), 0
        raise RecordingError(
            f"{name}: pictures of {width}x{height} belong to no known Aria format "
            f"({RAW_SIZE}, {ARIA_SIZE} or {VIDEO_SIZE} pixels square), so the calibration cannot be fitted to them"
        )


def read_calibration(path: Path) -> AriaCalibration:
    """The calibration in a JSON file or, by its suffix, in a VRS recording (with or without image streams).

    Raises RecordingError when the file is missing or damaged, has no RGB camera, or describes no plausible Aria.
    """
    if path.suffix.lower() == ".vrs":
        return parse_calibration(parse_json(calibration_text(open_vrs(path), path), dict, f"{path}: its calibration"), str(path))
    return parse_calibration(read_json(path, dict, max_bytes=_MAX_JSON), str(path))


def parse_calibration(content: dict[str, Any], name: str) -> AriaCalibration:
    """An Aria calibration JSON; messages call it ``name``."""
    check_device(content, name)
    cameras = content.get("CameraCalibrations")
    found = [c for c in cameras if isinstance(c, dict) and c.get("Label") == RGB] if isinstance(cameras, list) else []
    if len(found) != 1:
        raise RecordingError(f"{name}: describes {len(found)} cameras called {RGB}, expected one; is it an Aria calibration?")
    projection = found[0].get("Projection")
    model = projection.get("Name") if isinstance(projection, dict) else None
    if model != MODEL:
        raise RecordingError(f"{name}: {RGB} has the model {model!r}, expected {MODEL} (Project Aria, first generation)")
    params = _numbers(projection.get("Params"), 15, f"{name}: {RGB} Params")
    synthetic = content.get("CalibrationSource") == "Synthetic"
    serial = found[0].get("SerialNumber")
    return AriaCalibration(
        _sensor(params, name), serial if isinstance(serial, str) else "", _device_from_camera(found[0], name), synthetic
    )


def _sensor(params: np.ndarray, name: str) -> Camera:
    """The landscape camera at 1408 pixels of params at 2880 or at 1408; which of them, the principal point tells."""
    focal, centre = params[0], params[1:3]
    for size in (RAW_SIZE, ARIA_SIZE):
        if np.abs(centre - size / 2).max() < 0.1 * size and 0.3 < focal / size < 0.6:
            break
    else:
        raise RecordingError(
            f"{name}: focal length {focal:g} and principal point ({centre[0]:g}, {centre[1]:g}) fit "
            f"neither {RAW_SIZE} nor {ARIA_SIZE} pixels, those of first-generation Aria; is it another device's calibration?"
        )
    if size == RAW_SIZE:
        focal, centre = focal / 2, (centre - 0.5 - CROP) / 2
    camera = Camera("fisheye624", ARIA_SIZE, ARIA_SIZE, (focal, *centre, *params[3:]))
    if np.abs(params[9:]).max() > 0.1 or not rises_to(camera, FISHEYE_MAX_ANGLE):
        raise RecordingError(f"{name}: the distortion of {RGB} folds the picture; the calibration is damaged")
    return camera


def _device_from_camera(camera: dict[str, Any], name: str) -> np.ndarray:
    pose = camera.get("T_Device_Camera")
    quaternion = pose.get("UnitQuaternion") if isinstance(pose, dict) else None
    if not (isinstance(quaternion, list) and len(quaternion) == 2 and isinstance(quaternion[1], list)):
        raise RecordingError(f"{name}: {RGB} has no T_Device_Camera with Translation and UnitQuaternion [w, [x, y, z]]")
    transform = np.eye(4)
    try:
        transform[:3, :3] = rotation(*_numbers([quaternion[0], *quaternion[1]], 4, f"{name}: {RGB} UnitQuaternion"))
    except ZeroDivisionError:
        raise RecordingError(f"{name}: {RGB} UnitQuaternion {quaternion} is no rotation") from None
    transform[:3, 3] = _numbers(pose.get("Translation"), 3, f"{name}: {RGB} Translation")
    return transform


def rotation(w: float, x: float, y: float, z: float) -> np.ndarray:
    """Rotation matrix [3, 3] of a quaternion, which is normalised first; ZeroDivisionError when it is zero."""
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = (float(v) / norm for v in (w, x, y, z))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _numbers(values: Any, count: int, name: str) -> np.ndarray:
    """float64 [count] of a JSON list. Booleans are no numbers, and no camera has any beyond 1e9."""
    good = isinstance(values, list) and len(values) == count
    good = good and all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e9 for v in values)
    if not good:
        raise RecordingError(f"{name}: expected {count} finite numbers, got {str(values)[:80]}")
    return np.array(values, np.float64)
