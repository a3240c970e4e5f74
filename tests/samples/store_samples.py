"""Tiny takes and what is found of a store on the disk."""

import hashlib
import io
import json
from pathlib import Path

import cv2
import numpy as np

from internlm.data.store import Camera, PoseTrack, TakeInfo

CAMERA = Camera("pinhole", 8, 8, (4, 4, 3.5, 3.5))


def jpeg(value: int) -> bytes:
    return cv2.imencode(".jpg", np.full((8, 8, 3), value, np.uint8))[1].tobytes()


def track(numbers) -> PoseTrack:
    numbers = np.asarray(numbers, np.int64)
    rng = np.random.default_rng(0)
    visible = rng.random((len(numbers), 17)) < 0.8
    joints = rng.normal(size=(len(numbers), 17, 3)).astype(np.float32) * visible[..., None]
    return PoseTrack(numbers, joints, visible, numbers, np.tile(np.eye(4), (len(numbers), 1, 1)))


def info(name="take", split="train", pose_space="world", **other) -> TakeInfo:
    return TakeInfo(name, f"uid-{name}", split, 30.0, CAMERA, pose_space, {"place": "kitchen"}, "test", **other)


FRAMES = [(number, jpeg(number)) for number in range(0, 50, 5)]
STAMPS = {"frames": np.arange(3), "timestamp_ns": np.array([1, 5, 9])}


def tree(path: Path) -> dict[str, str]:
    """Every file and folder below ``path``, hidden ones too, with a digest of its bytes."""
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
        for p in sorted(path.rglob("*"))
    }


def version(store: Path) -> int:
    return json.loads((store / "store.json").read_text())["version"]


def array_header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": shape})
    return file.getvalue()
