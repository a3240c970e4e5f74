"""Small stores and folders that the data tests share."""

import argparse

import cv2
import numpy as np

from internlm.commands import data as command
from internlm.data.store import Camera, PoseTrack, StoreWriter, TakeInfo


def data_command(*words) -> int:
    """``egoagent data`` in this process: its exit code."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


def data_command_here(*words) -> int:
    """The same without worker processes, whose start takes longer than most test takes; how they work is tested elsewhere."""
    return data_command(*words, *(("--workers", 0) if words[0] in ("egoexo", "undistort", "poses", "mocap") else ()))


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def picture(seed: int, height: int = 48, width: int = 48) -> np.ndarray:
    """A smooth random picture, so that JPEG keeps it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def turning_camera(numbers: np.ndarray) -> np.ndarray:
    """A camera 1.6 m up that walks 0.02 m a frame along +x and turns left by 0.01 rad a frame; looks along +x at 0."""
    angle = 0.01 * np.asarray(numbers, float)
    transforms = np.tile(np.eye(4), (len(angle), 1, 1))
    transforms[:, :3, 2] = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)  # forward
    transforms[:, :3, 0] = np.stack([np.sin(angle), -np.cos(angle), 0 * angle], 1)  # right
    transforms[:, :3, 1] = (0, 0, -1)  # down
    transforms[:, :3, 3] = np.stack([0.02 * np.asarray(numbers, float), 0 * angle, 1.6 + 0 * angle], 1)
    return transforms


def body(numbers: np.ndarray) -> np.ndarray:
    """World joints [N, 17, 3]: joint j of frame n at (0.02 n + 0.1 j, 0.3, 1 + 0.01 j)."""
    numbers, joints = np.asarray(numbers, float)[:, None], np.arange(17.0)
    return np.stack(np.broadcast_arrays(0.02 * numbers + 0.1 * joints, 0.3, 1 + 0.01 * joints), -1).astype(np.float32)


def write_take(
    path,
    name="take",
    *,
    images=range(0, 60, 5),
    poses=range(60),
    cameras=range(60),
    split="train",
    size=48,
    pose_space="world",
    place="hall",
):
    images, poses, cameras = (np.asarray(list(numbers), np.int64) for numbers in (images, poses, cameras))
    visible = np.ones((len(poses), 17), bool)
    visible[:, 4] = False
    track = PoseTrack(poses, body(poses), visible, cameras, turning_camera(cameras))
    seed = sum(name.encode()) * 1000
    StoreWriter(path).add_take(
        TakeInfo(name, name, split, 30.0, Camera("pinhole", size, size, (20, 20, 23.5, 23.5)), pose_space, {"place": place}),
        ((int(number), jpeg(picture(seed + int(number), size, size))) for number in images),
        track,
    )
    return path
