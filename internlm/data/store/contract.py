"""What a take is: its types, and the checks that hold on writing as on reading."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from internlm.core.errors import UserError

FORMAT = "egoagent-take-store"
VERSIONS = (1, 2)  # 2: some take has columns, which readers of version 1 do not know
COCO_JOINTS: tuple[str, ...] = (
    "nose", "left-eye", "right-eye", "left-ear", "right-ear", "left-shoulder", "right-shoulder", "left-elbow", "right-elbow",
    "left-wrist", "right-wrist", "left-hip", "right-hip", "left-knee", "right-knee", "left-ankle", "right-ankle",
)  # fmt: skip
SPLITS = ("train", "val", "test")
CAMERA_PARAMS = {"pinhole": 4, "fisheye624": 15}
MAX_SIDE = 1 << 16  # pixels; what JPEG can hold
MAX_RATE = 1e6  # Hz


class StoreError(UserError):
    """A take store breaks the contract; the message names the path or take."""


class DiskFullError(StoreError):
    """A take could not be written for lack of space, quota or allowed file size; nothing of it was left behind."""


class TakeConflict(StoreError):
    """What is to be written would remove what another command wrote of a take, or does not belong to it; nothing was changed."""


@dataclass(frozen=True)
class Camera:
    """Intrinsics of the stored images. Pixel (0, 0) is the centre of the top-left pixel.

    params of ``pinhole``: fx, fy, cx, cy. Of ``fisheye624``: f, cx, cy, k0..k5 (radial), p0, p1 (tangential), s0..s3 (prism).
    """

    model: Literal["pinhole", "fisheye624"]
    width: int
    height: int
    params: tuple[float, ...]

    def __post_init__(self):
        expected = CAMERA_PARAMS.get(self.model) if isinstance(self.model, str) else None
        if expected is None:
            raise StoreError(f"camera model {self.model!r} is unknown; known: {', '.join(CAMERA_PARAMS)}")
        if not all(isinstance(side, int) and 0 < side < MAX_SIDE for side in (self.width, self.height)):
            raise StoreError(f"camera size {self.width!r}x{self.height!r} is not two whole numbers of pixels below {MAX_SIDE}")
        try:
            object.__setattr__(self, "params", tuple(float(p) for p in self.params))
        except (TypeError, ValueError, OverflowError):
            raise StoreError(f"camera params {self.params!r} are no list of numbers") from None
        if len(self.params) != expected:
            raise StoreError(f"camera model {self.model} takes {expected} params, got {len(self.params)}")
        if not np.isfinite(self.params).all() or self.params[0] <= 0:
            raise StoreError(f"camera has no valid focal length or params: {self.params}")


@dataclass(frozen=True)
class TakeInfo:
    """One row of the take table. ``frame_rate`` in Hz; ``pose_space`` says what the joints are relative to."""

    name: str
    uid: str
    split: str
    frame_rate: float
    camera: Camera | None = None
    pose_space: Literal["world", "camera"] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    source: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not (isinstance(self.name, str) and re.fullmatch(r"[^./\\\0][^/\\\0]*", self.name)):
            raise StoreError(f"take name {self.name!r} cannot be a folder name: no slash, no dot in front, not empty")
        for name, kind in (("uid", str), ("source", str), ("labels", dict), ("extra", dict)):
            if not isinstance(getattr(self, name), kind):
                raise StoreError(f"take {self.name!r}: {name} {getattr(self, name)!r} is no {kind.__name__}")
        if self.split not in SPLITS:
            raise StoreError(f"take {self.name!r}: split {self.split!r} is not one of {', '.join(SPLITS)}")
        if not (isinstance(self.frame_rate, int | float) and 0 < self.frame_rate < MAX_RATE):
            raise StoreError(f"take {self.name!r}: frame_rate {self.frame_rate!r} Hz is not positive")
        if self.pose_space not in ("world", "camera", None):
            raise StoreError(f"take {self.name!r}: pose_space {self.pose_space!r} is not 'world', 'camera' or None")


@dataclass(frozen=True)
class PoseTrack:
    """Body poses and camera poses by frame number; either part may be empty.

    joints in metres, in the world or in the camera of their own frame (``TakeInfo.pose_space``), 0 where not visible.
    world_from_camera maps camera to world coordinates; ``camera_frames`` need not equal ``frames``.
    """

    frames: np.ndarray  # int64 [N], rising
    joints: np.ndarray  # float32 [N, 17, 3]
    visible: np.ndarray  # bool [N, 17]
    camera_frames: np.ndarray  # int64 [M], rising
    world_from_camera: np.ndarray  # float64 [M, 4, 4]


def read_json(path: Path) -> Any:
    """The content of a JSON file; StoreError when it cannot be read, is not JSON, gives a key twice or is nested too deeply."""
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_each_once)
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not valid JSON: {error}") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"gives {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return content


def check_header(path: Path) -> int:
    """The version of the store; StoreError when ``path`` is not a store that this code reads."""
    if not (path / "store.json").is_file():
        raise StoreError(f"{path}: not a take store (no store.json)")
    header = read_json(path / "store.json")
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise StoreError(f"{path / 'store.json'}: format is not {FORMAT!r}")
    if (version := header.get("version")) not in VERSIONS or isinstance(version, bool):
        known = " and ".join(map(str, VERSIONS))
        raise StoreError(f"{path / 'store.json'}: version {version!r} cannot be read, this code reads versions {known}")
    if header.get("joints") != list(COCO_JOINTS):
        raise StoreError(f"{path / 'store.json'}: joints are not the 17 COCO joints in their order")
    if not (path / "takes").is_dir():
        raise StoreError(f"{path}: has no takes folder")
    return version


def check_rising(numbers: np.ndarray, where: str) -> None:
    if numbers.ndim != 1 or numbers.dtype != np.int64:
        raise StoreError(f"{where}: frame numbers are {numbers.dtype} {list(numbers.shape)}, expected int64 of one axis")
    if len(numbers) and numbers[0] < 0:
        raise StoreError(f"{where}: frame number {numbers[0]} is negative")
    falls = np.flatnonzero(np.diff(numbers) <= 0)
    if len(falls):
        first = falls[0]
        raise StoreError(f"{where}: frame numbers do not rise: {numbers[first]} is followed by {numbers[first + 1]}")


def check_track(track: PoseTrack, where: str) -> None:
    check_rising(track.frames, f"{where}: frames")
    check_rising(track.camera_frames, f"{where}: camera_frames")
    poses, cameras, joints = len(track.frames), len(track.camera_frames), len(COCO_JOINTS)
    for name, shape, dtype in (
        ("joints", (poses, joints, 3), np.float32),
        ("visible", (poses, joints), np.bool_),
        ("world_from_camera", (cameras, 4, 4), np.float64),
    ):
        array = getattr(track, name)
        if array.shape != shape or array.dtype != dtype:
            raise StoreError(f"{where}: {name} is {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} {list(shape)}")
    if not np.isfinite(track.joints).all():
        raise StoreError(f"{where}: joints are not finite at frame {_first(track.frames, ~np.isfinite(track.joints))}")
    stray = (track.joints != 0).any(-1) & ~track.visible
    if stray.any():
        raise StoreError(f"{where}: joints are not 0 where not visible at frame {_first(track.frames, stray)}")
    rigid = is_rigid(track.world_from_camera)
    if not rigid.all():
        raise StoreError(f"{where}: world_from_camera is no rigid transform at frame {_first(track.camera_frames, ~rigid)}")


def check_labels(labels: dict[str, np.ndarray], where: str) -> None:
    if "frames" not in labels:
        raise StoreError(f"{where}: lacks frames")
    check_rising(np.asarray(labels["frames"]), where)
    for name, values in labels.items():
        values = np.asarray(values)
        if values.ndim < 1 or len(values) != len(labels["frames"]):
            raise StoreError(f"{where}: {name} is {list(values.shape)}, expected {len(labels['frames'])} rows")
        if values.dtype.kind == "O" or (values.dtype.kind == "f" and not np.isfinite(values).all()):
            raise StoreError(f"{where}: {name} holds objects or values that are not finite")


def _first(frames: np.ndarray, wrong: np.ndarray) -> int:
    return int(frames[np.flatnonzero(wrong.reshape(len(frames), -1).any(1))[0]])


def is_rigid(matrices: np.ndarray) -> np.ndarray:
    """Which of [N, 4, 4] are a rotation, orthonormal to a thousandth, and a finite shift: bool [N]."""
    rotations = matrices[:, :3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        rigid = np.isfinite(matrices).all((1, 2)) & (matrices[:, 3] == (0, 0, 0, 1)).all(-1)
        rigid &= np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max((1, 2), initial=0) < 1e-3
    rigid[rigid] = np.linalg.det(rotations[rigid]) > 0
    return rigid
