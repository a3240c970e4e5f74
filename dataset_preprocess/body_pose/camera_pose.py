"""Camera-pose files of Ego-Exo4D: where the wearer's Aria was, by frame number.

    {"metadata": {"take_name", "take_uid"}, "aria01": {"camera_intrinsics", "camera_extrinsics": {"<frame>": 3x4}}, "cam01": ...}

Extrinsics map world to camera coordinates; the camera is the sensor as it is mounted, lying on its side (up is -x). Their last
column is therefore not the camera's position, which is -R^T t. Frames without extrinsics occur and stay gaps.
"""

from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import numpy as np

from dataset_preprocess.body_pose.annotations import frame_number, is_number
from dataset_preprocess.errors import RecordingError
from dataset_preprocess.json_input import read_json
from internlm.data.camera import UPRIGHT_FROM_LANDSCAPE
from internlm.data.geometry import invert_rigid
from internlm.data.store.contract import is_rigid


@dataclass(frozen=True)
class CameraPoses:
    """M camera poses in the order of the file. missing: frames that the file lists without a pose."""

    camera: str
    take_name: str | None
    frames: np.ndarray  # int64 [M]
    landscape_from_world: np.ndarray  # float64 [M, 4, 4]
    missing: int

    def in_order(self) -> "CameraPoses":
        """Frames rising."""
        order = np.argsort(self.frames, kind="stable")
        return CameraPoses(self.camera, self.take_name, self.frames[order], self.landscape_from_world[order], self.missing)

    def world_from_camera(self) -> np.ndarray:
        """[M, 4, 4] of the upright camera, as the store wants it; the last column is the camera's position."""
        return invert_rigid(UPRIGHT_FROM_LANDSCAPE @ self.landscape_from_world)


def read_camera_poses(path: Path, wearers: tuple[str, ...] = ()) -> CameraPoses:
    """The poses of one Aria: the first of ``wearers`` that the file has, or without those the first Aria that it names.

    Raises RecordingError naming file and frame when the file is damaged, has no such camera, or a pose is no rigid transform.
    """
    content = read_json(path, dict)
    name = next((key for key in wearers or content if key in content and "aria" in key), None)
    if name is None:
        wanted = " or ".join(wearers) or "whose name contains aria"
        raise RecordingError(f"{path}: has no camera {wanted}; it has {', '.join(sorted(content))[:200]}")
    camera = content[name]
    extrinsics = camera.get("camera_extrinsics") if isinstance(camera, dict) else None
    if not isinstance(extrinsics, dict):
        raise RecordingError(f"{path}: {name} has no object camera_extrinsics by frame; a head camera moves")
    _check_intrinsics(camera.get("camera_intrinsics"), f"{path}: {name}")
    numbers, matrices, missing = [], [], 0
    for key, value in extrinsics.items():
        frame = frame_number(key, path)
        if value is None or value == []:
            missing += 1
            continue
        numbers.append(frame)
        matrices.append(_matrix(value, f"{path}: {name}: frame {key}"))
    frames = np.array(numbers, np.int64)
    if len(np.unique(frames)) != len(frames):
        raise RecordingError(f"{path}: {name}: gives a frame twice")
    poses = np.array(matrices, np.float64).reshape(-1, 4, 4)
    _check_rigid(frames, poses, f"{path}: {name}")
    about = content.get("metadata")
    take_name = about.get("take_name") if isinstance(about, dict) else None
    return CameraPoses(name, take_name if isinstance(take_name, str) else None, frames, poses, missing)


def _matrix(value: Any, where: str) -> list[list[float]]:
    rows = value if isinstance(value, list) else []
    good = len(rows) in (3, 4) and all(isinstance(row, list) and len(row) == 4 and all(map(is_number, row)) for row in rows)
    if not good:
        raise RecordingError(f"{where}: extrinsics are {shown(value)}, expected 3 rows of 4 numbers")
    return [*rows[:3], [0.0, 0.0, 0.0, 1.0]]


def _check_rigid(frames: np.ndarray, poses: np.ndarray, where: str) -> None:
    sound = is_rigid(poses) & (np.abs(poses[:, :3, 3]).max(1, initial=0) < 1e5)
    if not sound.all():
        raise RecordingError(f"{where}: the extrinsics of frame {frames[~sound][0]} are no rotation and shift in metres")


def _check_intrinsics(value: Any, where: str) -> None:
    """The 512-pixel pinhole of the 2D annotations: not used, but a broken one tells of a broken file."""
    if value is None:
        return
    good = isinstance(value, list) and len(value) == 3
    good = good and all(isinstance(row, list) and len(row) == 3 and all(map(is_number, row)) for row in value)
    if not good or value[0][0] <= 0 or value[1][1] <= 0 or value[2] != [0, 0, 1]:
        raise RecordingError(f"{where}: camera_intrinsics are {shown(value)}, expected 3x3 with positive focal lengths")
