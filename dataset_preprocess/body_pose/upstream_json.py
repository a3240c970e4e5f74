"""The pose fragments of EgoAgent's first release: written as it wrote them, and read into the store.

    <split>/<take_uid>_<first>-<last>.json
        {"<frame>": {"pose": 17 x [x, y, z], "confidence": 17 x 0|1, "trajectory": [x, y, z]}, ...}

A pose is in the camera of its own frame, the landscape sensor's; a missing joint is [-1, -1, -1]. ``trajectory`` is the last
column of world-to-camera, which is not where the camera was. Fragments count available frames: gaps are invisible in the
file name and visible in the keys. The last fragment runs to the end, up to 199 frames and the overlap.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dataset_preprocess.body_pose.annotations import AUTOMATIC, Annotation, frame_number, is_number
from dataset_preprocess.body_pose.camera_pose import CameraPoses
from dataset_preprocess.errors import RecordingError
from dataset_preprocess.json_input import read_json
from internlm.core.files import write_text
from internlm.data.camera import UPRIGHT_FROM_LANDSCAPE
from internlm.data.geometry import transform_points
from internlm.data.store import COCO_JOINTS

LENGTH, OVERLAP = 100, 5
SHORTEST = 7  # frames that a training take must exceed
_NAME = re.compile(r"(.+)_(\d+)-(\d+)\.json")


def slices(count: int) -> list[slice]:
    """Positions of each fragment among ``count`` available frames; fewer than 100 frames give none."""
    fragments = count // LENGTH
    starts = [max(0, LENGTH * i - OVERLAP) for i in range(fragments)]
    stops = [LENGTH * (i + 1) for i in range(fragments - 1)] + [count]
    return [slice(start, stop) for start, stop in zip(starts, stops)]


def fragments(annotation: Annotation, cameras: CameraPoses) -> Iterator[tuple[str, dict[str, Any]]]:
    """("<first>-<last>", content) of each fragment of a take, from files in their own order."""
    row_of = {int(frame): row for row, frame in enumerate(cameras.frames)}
    kept = np.array([row for row, frame in enumerate(annotation.frames.tolist()) if frame in row_of], int)
    frames = annotation.frames[kept]
    transforms = cameras.landscape_from_world[[row_of[frame] for frame in frames.tolist()]].reshape(-1, 4, 4)
    visible = annotation.visible[kept]
    poses = np.where(visible[..., None], transform_points(transforms, annotation.joints[kept]), -1.0)
    for part in slices(len(frames)):
        content = {
            str(frame): {"pose": pose, "confidence": seen, "trajectory": shift}
            for frame, pose, seen, shift in zip(
                frames[part].tolist(), poses[part].tolist(), visible[part].astype(int).tolist(), transforms[part, :3, 3].tolist()
            )
        }
        yield f"{frames[part][0]}-{frames[part][-1]}", content


def write_fragments(folder: Path, uid: str, annotation: Annotation, cameras: CameraPoses) -> int:
    """All fragments of a take below <folder>, each complete or absent; what an earlier run wrote of it goes. Their number."""
    folder.mkdir(parents=True, exist_ok=True)
    written = set()
    for span, content in fragments(annotation, cameras):
        path = folder / f"{uid}_{span}.json"
        write_text(path, json.dumps(content))
        written.add(path.name)
    for old in folder.glob(f"{uid}_*-*.json"):
        if old.name not in written and _NAME.fullmatch(old.name)[1] == uid:
            old.unlink(missing_ok=True)
    return len(written)


def find_fragments(root: Path) -> dict[tuple[str, str], list[Path]]:
    """(split, take uid) -> its fragment files, below ``root`` with the folders train, val and test."""
    found: dict[tuple[str, str], list[Path]] = {}
    for split in ("train", "val", "test"):
        for path in sorted((root / split).glob("*.json")):
            if (match := _NAME.fullmatch(path.name)) and path.name[0] != ".":
                found.setdefault((split, match[1]), []).append(path)
    if not found:
        raise RecordingError(f"{root}: has no fragments <split>/<take_uid>_<first>-<last>.json")
    return found


def read_fragments(paths: list[Path]) -> Annotation:
    """One take from its fragments, frames rising, joints in the *upright* camera of their own frame.

    Frames that two fragments share must agree. Raises RecordingError naming file and frame.
    """
    poses: dict[int, np.ndarray] = {}
    for path in paths:
        for key, value in read_json(path, dict).items():
            frame, pose = frame_number(key, path), _pose(value, f"{path}: frame {key}")
            if frame in poses and np.abs(poses[frame] - pose).max() > 1e-6:
                raise RecordingError(f"{path}: frame {frame} differs from another fragment of the take")
            poses[frame] = pose
    if not poses:
        raise RecordingError(f"{paths[0]}: has no frames")
    frames = np.array(sorted(poses), np.int64)
    table = np.array([poses[int(frame)] for frame in frames])
    visible = table[..., 3] > 0
    joints = np.where(visible[..., None], table[..., :3] @ UPRIGHT_FROM_LANDSCAPE[:3, :3].T, 0.0)
    return Annotation(frames, joints, visible, np.zeros(visible.shape, np.uint8), np.full(len(frames), AUTOMATIC, np.uint8))


def _pose(value: Any, where: str) -> np.ndarray:
    """[17, 4]: position and confidence."""
    value = value if isinstance(value, dict) else {}
    pose, seen = value.get("pose"), value.get("confidence")
    good = isinstance(pose, list) and isinstance(seen, list) and len(pose) == len(seen) == len(COCO_JOINTS)
    good = good and all(isinstance(p, list) and len(p) == 3 and all(is_number(v) and abs(v) < 1e5 for v in p) for p in pose)
    if not good or not all(flag in (0, 1) for flag in seen):
        raise RecordingError(f"{where}: needs a pose of {len(COCO_JOINTS)} points and as many confidences 0 or 1")
    return np.concatenate([np.array(pose, float), np.array(seen, float)[:, None]], 1)
