"""Body and camera poses of an Aria Digital Twin sequence: real recordings whose wearer was followed by motion capture.

    aria_trajectory.csv                device pose, 30 Hz, microseconds
    skeleton_aria_association.json     which skeleton is the wearer
    Skeleton_<x>.json                  51 joints, 120 Hz, nanoseconds; the fields read here are in device time

World coordinates there have y up; the store's have z up.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset_preprocess.aria.calibration import rotation
from dataset_preprocess.errors import RecordingError
from dataset_preprocess.json_input import read_json
from internlm.data.camera import UPRIGHT_FROM_LANDSCAPE
from internlm.data.geometry import invert_rigid
from internlm.data.store import COCO_JOINTS, PoseTrack

JOINTS = 51
# COCO joint -> joint of the motion-capture skeleton, which has no face. A bone's joint is where it begins.
ADT_JOINTS = {
    "left-shoulder": 6, "right-shoulder": 25, "left-elbow": 7, "right-elbow": 26, "left-wrist": 8, "right-wrist": 27,
    "left-hip": 43, "right-hip": 47, "left-knee": 44, "right-knee": 48, "left-ankle": 45, "right-ankle": 49,
}  # fmt: skip
Z_UP_FROM_Y_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
MAX_GAP_NS = 100_000_000  # no pose is interpolated across more than 0.1 s
MAX_HOLD_NS = 10_000_000  # before the first and after the last sample, that sample stands for 0.01 s


@dataclass(frozen=True)
class AdtFiles:
    """The files of one sequence."""

    trajectory: Path
    skeleton: Path


def find_adt(folder: Path) -> AdtFiles:
    """Trajectory and the wearer's skeleton in a folder; RecordingError when one is missing."""
    table = read_json(folder / "skeleton_aria_association.json", dict).get("SkeletonMetadata")
    names = [row.get("SkeletonName") for row in table if isinstance(row, dict)] if isinstance(table, list) else []
    names = [name for name in names if isinstance(name, str) and name.replace("_", "").isalnum()]
    if len(names) != 1:
        raise RecordingError(f"{folder}: its sequence has {len(names)} skeletons that wear an Aria, expected one")
    files = AdtFiles(folder / "aria_trajectory.csv", folder / f"{names[0]}.json")
    for path in (files.trajectory, files.skeleton):
        if not path.is_file():
            raise RecordingError(f"{path}: does not exist; --adt needs the sequence's ground truth beside the recording")
    return files


def read_adt_poses(files: AdtFiles, numbers: np.ndarray, stamps_ns: np.ndarray, device_from_camera: np.ndarray) -> PoseTrack:
    """Poses at the frames of a recording: numbers [F], their device times [F], and the landscape camera in the device.

    Joints and device poses are interpolated to each frame's time; a frame too far from any sample has none.
    """
    times, joints = read_skeleton(files.skeleton)
    seen, values = _interpolate(times, joints.reshape(len(joints), -1), stamps_ns)
    joints = values.reshape(-1, JOINTS, 3)[:, [ADT_JOINTS.get(name, 0) for name in COCO_JOINTS]] @ Z_UP_FROM_Y_UP.T
    visible = np.tile([name in ADT_JOINTS for name in COCO_JOINTS], (len(joints), 1))
    times, world_from_device = read_trajectory(files.trajectory)
    tracked, world_from_device = _interpolate_poses(times, world_from_device, stamps_ns)
    world_from_camera = world_from_device @ device_from_camera @ invert_rigid(UPRIGHT_FROM_LANDSCAPE)
    world_from_camera[:, :3] = Z_UP_FROM_Y_UP @ world_from_camera[:, :3]
    if not seen.any() or not tracked.any():
        raise RecordingError(f"{files.skeleton}: no sample within 0.1 s of any frame; do the files belong to one sequence?")
    return PoseTrack(numbers[seen], joints.astype(np.float32), visible, numbers[tracked], world_from_camera)


def read_skeleton(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times int64 [N] in ns, rising, and joints float64 [N, 51, 3] in metres of the sequence's own (y up) world."""
    frames = read_json(path, dict).get("frames")
    if not isinstance(frames, list) or not frames:
        raise RecordingError(f"{path}: has no frames")
    times, joints = [], []
    for row, frame in enumerate(frames):
        try:
            times.append(int(frame["timestamp_ns"]))
            joints.append(np.array(frame["joints"], np.float64))
        except (TypeError, KeyError, ValueError, OverflowError):
            raise RecordingError(f"{path}: frame {row} lacks timestamp_ns or joints") from None
        if joints[-1].shape != (JOINTS, 3) or not np.isfinite(joints[-1]).all():
            raise RecordingError(f"{path}: frame {row} has joints {list(joints[-1].shape)}, expected finite [{JOINTS}, 3]")
    return _rising(times, path), np.stack(joints)


def read_trajectory(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times int64 [M] in ns, rising, and world_from_device float64 [M, 4, 4] of an MPS-type trajectory CSV."""
    times, poses = [], []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                pose = np.eye(4)
                w, x, y, z = (float(row[f"q{axis}_world_device"]) for axis in "wxyz")
                pose[:3, :3] = rotation(w, x, y, z)
                pose[:3, 3] = [float(row[f"t{axis}_world_device"]) for axis in "xyz"]
                if not np.isfinite(pose).all():
                    raise ValueError("a pose is not finite")
                times.append(1000 * int(row["tracking_timestamp_us"]))
                poses.append(pose)
    except (OSError, KeyError, TypeError, ValueError, ArithmeticError, csv.Error) as error:
        raise RecordingError(f"{path}: row {len(poses) + 1} is no device pose: {error!r}") from None
    if not poses:
        raise RecordingError(f"{path}: has no poses")
    return _rising(times, path), np.stack(poses)


def _rising(times: list[int], path: Path) -> np.ndarray:
    if max(map(abs, times)) >= 2**62:
        raise RecordingError(f"{path}: a time stamp is out of range")
    array = np.array(times, np.int64)
    if (np.diff(array) <= 0).any():
        raise RecordingError(f"{path}: time stamps do not rise at row {int(np.flatnonzero(np.diff(array) <= 0)[0]) + 2}")
    return array


def _neighbours(times: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which wanted times [F] have samples close enough, and for those the sample before, the one after, and the weight."""
    after = np.clip(np.searchsorted(times, wanted), 0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    between = (times[before] <= wanted) & (wanted <= times[after]) & (times[after] - times[before] <= MAX_GAP_NS)
    nearest = np.where(np.abs(times[before] - wanted) < np.abs(times[after] - wanted), before, after)
    held = ~between & (np.abs(times[nearest] - wanted) <= MAX_HOLD_NS)
    before, after = np.where(held, nearest, before), np.where(held, nearest, after)
    inside = between | held
    before, after, wanted = before[inside], after[inside], wanted[inside]
    weight = np.clip((wanted - times[before]) / np.maximum(times[after] - times[before], 1), 0, 1)
    return inside, before, after, weight


def _interpolate(times: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inside, before, after, weight = _neighbours(times, wanted)
    return inside, values[before] + weight[:, None] * (values[after] - values[before])


def _interpolate_poses(times: np.ndarray, poses: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Translations linearly; rotations too, made orthonormal again: within 0.1 s that is slerp to rounding."""
    inside, flat = _interpolate(times, poses.reshape(-1, 16), wanted)
    result: Any = flat.reshape(-1, 4, 4)
    left, _, right = np.linalg.svd(result[:, :3, :3])
    result[:, :3, :3] = left @ right
    return inside, result
