"""The take store: the one on-disk contract between recordings and training. numpy and the standard library only, no torch.

    store.json                        {"format": "egoagent-take-store", "version": 1, "joints": [17 names]}
    takes/<take_name>/take.json       TakeInfo
    takes/<take_name>/frames.tar      packed frames, a plain tar of frame_<number>.jpg (or .png), with
    takes/<take_name>/frames.idx.npy  int64 [F, 3]: frame number, byte offset and length of the image in the tar
    takes/<take_name>/frames/         or loose frames: frame_<number>.jpg (or .png), zero-padded or not
    takes/<take_name>/poses.npz       optional PoseTrack: frames int64 [N], joints float32 [N, 17, 3], visible bool [N, 17],
                                      camera_frames int64 [M], world_from_camera float64 [M, 4, 4]
    takes/<take_name>/labels.npz      optional ground truth by frame number: frames int64 [L] and arrays [L, ...]

Conventions: metres, world right-handed with z up, camera axes as in OpenCV (x right, y down, z forward), images upright.
Everything is addressed by *frame number*, an index at ``frame_rate``; images may exist for every k-th number only, and a
missing number is a gap, never a shift. Take folders starting with a dot are unfinished and invisible.
"""

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

FORMAT = "egoagent-take-store"
VERSION = 1
COCO_JOINTS: tuple[str, ...] = (
    "nose", "left-eye", "right-eye", "left-ear", "right-ear", "left-shoulder", "right-shoulder", "left-elbow", "right-elbow",
    "left-wrist", "right-wrist", "left-hip", "right-hip", "left-knee", "right-knee", "left-ankle", "right-ankle",
)  # fmt: skip
SPLITS = ("train", "val", "test")
CAMERA_PARAMS = {"pinhole": 4, "fisheye624": 15}
_OPEN_FILES = 64
_FRAME_NAME = re.compile(r"frame_(\d+)\.(jpg|jpeg|png)")
_JPEG_MAGIC, _PNG_MAGIC = b"\xff\xd8\xff", b"\x89PNG"


class StoreError(Exception):
    """A take store breaks the contract; the message names the path or take."""


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
        expected = CAMERA_PARAMS.get(self.model)
        if expected is None:
            raise StoreError(f"camera model {self.model!r} is unknown; known: {', '.join(CAMERA_PARAMS)}")
        object.__setattr__(self, "params", tuple(float(p) for p in self.params))
        if len(self.params) != expected:
            raise StoreError(f"camera model {self.model} takes {expected} params, got {len(self.params)}")
        if self.width < 1 or self.height < 1 or not np.isfinite(self.params).all() or self.params[0] <= 0:
            raise StoreError(f"camera has no valid size, focal length or params: {self.width}x{self.height}, {self.params}")


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
        if not re.fullmatch(r"[^./\\\0][^/\\\0]*", self.name):
            raise StoreError(f"take name {self.name!r} cannot be a folder name: no slash, no dot in front, not empty")
        if self.split not in SPLITS:
            raise StoreError(f"take {self.name!r}: split {self.split!r} is not one of {', '.join(SPLITS)}")
        if not (np.isfinite(self.frame_rate) and self.frame_rate > 0):
            raise StoreError(f"take {self.name!r}: frame_rate {self.frame_rate} Hz is not positive")
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


class TakeStore:
    """Read access to a take store. Safe to share between threads and to send to worker processes.

    Raises StoreError when ``path`` is not a store of this version or its take table is broken.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        _check_header(self.path)
        folders = sorted(entry for entry in (self.path / "takes").iterdir() if entry.is_dir() and entry.name[0] != ".")
        self.infos: list[TakeInfo] = [_read_info(folder) for folder in folders]
        self._rows = {info.name: row for row, info in enumerate(self.infos)}
        self._takes: dict[str, Take] = {}
        self._open = self._file_cache()

    @staticmethod
    def is_store(path: str | os.PathLike) -> bool:
        """Whether a folder claims to be a take store."""
        return (Path(path) / "store.json").is_file()

    def select(self, split: str | None = None) -> list["Take"]:
        """Takes of one split (None = all), by name; an empty list when there are none."""
        if split is not None and split not in SPLITS:
            raise StoreError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        return [self.take(info.name) for info in self.infos if split in (None, info.split)]

    def take(self, name: str) -> "Take":
        if name not in self._rows:
            raise StoreError(f"{self.path}: no take named {name!r} among {len(self.infos)}")
        if name not in self._takes:
            self._takes[name] = Take(self, self.infos[self._rows[name]])
        return self._takes[name]

    def __len__(self) -> int:
        return len(self.infos)

    @staticmethod
    def _file_cache():
        # An evicted file closes when its last reader drops it, so no lock is needed around a read.
        return lru_cache(maxsize=_OPEN_FILES)(partial(open, mode="rb", buffering=0))

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_open"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open = self._file_cache()


class Take:
    """One recording of a store. Files are read and checked at first use."""

    def __init__(self, store: TakeStore, info: TakeInfo):
        self.info = info
        self.path = store.path / "takes" / info.name
        self._tar = str(self.path / "frames.tar")
        self._store = store

    @property
    def frame_numbers(self) -> np.ndarray:
        """int64 [F], rising: the frame numbers that have an image."""
        return self._index[0]

    def read_frame(self, number: int) -> bytes:
        """Encoded bytes (JPEG or PNG) of one frame; StoreError when the take has no image of that number."""
        numbers, rows = self._index
        place = int(np.searchsorted(numbers, number))
        if place == len(numbers) or numbers[place] != number:
            raise StoreError(f"{self.path}: no image of frame {number}")
        if isinstance(rows, list):
            return (self.path / "frames" / rows[place]).read_bytes()
        offset, length = (int(value) for value in rows[place])
        tar = self._store._open(self._tar)  # the name keeps it open should another thread evict it
        data = os.pread(tar.fileno(), length, offset)
        if len(data) != length:
            raise StoreError(f"{self._tar}: ends inside frame {number}")
        return data

    def poses(self) -> PoseTrack | None:
        """The pose track, or None when the take has none."""
        path = self.path / "poses.npz"
        if not path.is_file():
            return None
        arrays = _read_npz(path)
        missing = [f.name for f in fields(PoseTrack) if f.name not in arrays]
        if missing:
            raise StoreError(f"{path}: lacks {', '.join(missing)}")
        track = PoseTrack(**{f.name: arrays[f.name] for f in fields(PoseTrack)})
        _check_track(track, str(path))
        return track

    def labels(self) -> dict[str, np.ndarray]:
        """Ground truth by frame number: ``frames`` [L] and arrays [L, ...]; {} when the take has none."""
        path = self.path / "labels.npz"
        if not path.is_file():
            return {}
        labels = _read_npz(path)
        _check_labels(labels, str(path))
        return labels

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray | list[str]]:
        """Frame numbers, and for each its (offset, length) in the tar or its file name."""
        if (self.path / "frames.idx.npy").is_file():
            return _read_tar_index(self.path)
        if (self.path / "frames").is_dir():
            return _list_loose_frames(self.path / "frames")
        return np.empty(0, np.int64), []


class StoreWriter:
    """Creates a take store or extends one. Several processes may write different takes of one store at a time.

    A take is written into a hidden folder that is renamed at the end: readers see it complete or not at all.
    Raises StoreError when ``path`` is a non-empty folder that is not a store.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not TakeStore.is_store(self.path):
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise StoreError(f"{self.path}: exists and is not a take store; choose an empty or new folder")
            (self.path / "takes").mkdir(parents=True, exist_ok=True)
            header = {"format": FORMAT, "version": VERSION, "joints": list(COCO_JOINTS)}
            _write_atomically(self.path / "store.json", json.dumps(header, indent=1))
        _check_header(self.path)

    def has(self, name: str) -> bool:
        """Whether a complete take of this name exists."""
        return (self.path / "takes" / name / "take.json").is_file()

    def add_take(
        self,
        info: TakeInfo,
        frames: Iterable[tuple[int, bytes]] = (),
        poses: PoseTrack | None = None,
        labels: dict[str, np.ndarray] | None = None,
        *,
        packed: bool = True,
        overwrite: bool = False,
    ) -> Path:
        """Write one take and return its folder.

        frames: (frame number, JPEG or PNG bytes) with rising numbers; consumed one by one, so a generator keeps memory flat.
        Raises StoreError, and leaves nothing visible, when the name exists (and not ``overwrite``) or the content is invalid.
        """
        final = self.path / "takes" / info.name
        if final.exists() and not overwrite:
            raise StoreError(f"{self.path}: take {info.name!r} exists; pass overwrite=True to replace it")
        partial_folder = final.with_name(f".partial-{info.name}")
        shutil.rmtree(partial_folder, ignore_errors=True)
        partial_folder.mkdir()
        try:
            count = (_write_tar if packed else _write_loose)(partial_folder, info.name, frames)
            if poses is not None:
                _write_poses(partial_folder, info, poses)
            if labels:
                _check_labels(labels, f"take {info.name!r}: labels")
                np.savez_compressed(partial_folder / "labels.npz", **labels)
            if not count and poses is None:
                raise StoreError(f"take {info.name!r}: neither frames nor poses")
            (partial_folder / "take.json").write_text(json.dumps(asdict(info), indent=1))
            _publish(partial_folder, final)
        except BaseException:
            shutil.rmtree(partial_folder, ignore_errors=True)
            raise
        return final


def _publish(partial_folder: Path, final: Path) -> None:
    replaced = final.with_name(f".replaced-{final.name}")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        final.rename(replaced)
    partial_folder.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)


def _check_header(path: Path) -> None:
    try:
        header = json.loads((path / "store.json").read_text())
    except FileNotFoundError:
        raise StoreError(f"{path}: not a take store (no store.json)") from None
    except ValueError as error:
        raise StoreError(f"{path / 'store.json'}: not valid JSON: {error}") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise StoreError(f"{path / 'store.json'}: format is not {FORMAT!r}")
    if header.get("version") != VERSION:
        raise StoreError(
            f"{path / 'store.json'}: version {header.get('version')} cannot be read, this code reads version {VERSION}"
        )
    if tuple(header.get("joints", ())) != COCO_JOINTS:
        raise StoreError(f"{path / 'store.json'}: joints are not the 17 COCO joints in their order")
    if not (path / "takes").is_dir():
        raise StoreError(f"{path}: has no takes folder")


def _read_info(folder: Path) -> TakeInfo:
    path = folder / "take.json"
    try:
        values = json.loads(path.read_text())
        if values.get("camera") is not None:
            values["camera"] = Camera(**values["camera"])
        info = TakeInfo(**values)
    except FileNotFoundError:
        raise StoreError(f"{folder}: has no take.json") from None
    except (ValueError, TypeError, AttributeError, StoreError) as error:
        raise StoreError(f"{path}: {error}") from None
    if info.name != folder.name:
        raise StoreError(f"{path}: names the take {info.name!r}, the folder says {folder.name!r}")
    return info


def _read_tar_index(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    path = folder / "frames.idx.npy"
    try:
        table = np.load(path)
        size = (folder / "frames.tar").stat().st_size
    except (ValueError, EOFError, OSError) as error:
        raise StoreError(f"{path}: {error}") from None
    if table.ndim != 2 or table.shape[1] != 3 or table.dtype != np.int64:
        raise StoreError(f"{path}: is {table.dtype} {list(table.shape)}, expected int64 [F, 3]")
    _check_rising(table[:, 0], str(path))
    if len(table) and (table[:, 1:].min() < 0 or (table[:, 1] + table[:, 2]).max() > size):
        raise StoreError(f"{path}: points outside frames.tar ({size} bytes)")
    return np.ascontiguousarray(table[:, 0]), table[:, 1:]


def _list_loose_frames(folder: Path) -> tuple[np.ndarray, list[str]]:
    found = sorted((int(match[1]), name) for name in os.listdir(folder) if (match := _FRAME_NAME.fullmatch(name)))
    numbers = np.array([number for number, _ in found], np.int64)
    _check_rising(numbers, str(folder))
    return numbers, [name for _, name in found]


def _frame_name(where: str, number: int, data: bytes) -> str:
    if data.startswith(_JPEG_MAGIC):
        return f"frame_{number:07d}.jpg"
    if data.startswith(_PNG_MAGIC):
        return f"frame_{number:07d}.png"
    raise StoreError(f"{where}: frame {number} is neither JPEG nor PNG")


def _rising_frames(name: str, frames: Iterable[tuple[int, bytes]]) -> Iterable[tuple[int, str, bytes]]:
    previous = -1
    for number, data in frames:
        if number <= previous:
            raise StoreError(f"take {name!r}: frame {number} comes after frame {previous}; numbers must rise from 0")
        yield number, _frame_name(f"take {name!r}", number, data), data
        previous = number


def _write_tar(folder: Path, name: str, frames: Iterable[tuple[int, bytes]]) -> int:
    index = []
    with tarfile.open(folder / "frames.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, file_name, data in _rising_frames(name, frames):
            member = tarfile.TarInfo(file_name)
            member.size = len(data)
            index.append((number, tar.offset + tarfile.BLOCKSIZE, len(data)))
            tar.addfile(member, io.BytesIO(data))
    np.save(folder / "frames.idx.npy", np.array(index, np.int64).reshape(-1, 3))
    return len(index)


def _write_loose(folder: Path, name: str, frames: Iterable[tuple[int, bytes]]) -> int:
    (folder / "frames").mkdir()
    count = 0
    for _, file_name, data in _rising_frames(name, frames):
        (folder / "frames" / file_name).write_bytes(data)
        count += 1
    return count


def _write_poses(folder: Path, info: TakeInfo, poses: PoseTrack) -> None:
    visible = np.asarray(poses.visible, bool)
    joints = np.asarray(poses.joints, np.float32)
    if len(joints) and info.pose_space is None:
        raise StoreError(f"take {info.name!r}: has poses but pose_space is None; say 'world' or 'camera'")
    if joints.shape[:2] == visible.shape:
        joints = np.where(visible[..., None], joints, np.float32(0))
    track = PoseTrack(
        frames=np.asarray(poses.frames, np.int64),
        joints=joints,
        visible=visible,
        camera_frames=np.asarray(poses.camera_frames, np.int64),
        world_from_camera=np.asarray(poses.world_from_camera, np.float64),
    )
    _check_track(track, f"take {info.name!r}: poses")
    np.savez(folder / "poses.npz", **{f.name: getattr(track, f.name) for f in fields(PoseTrack)})


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and numpy each raise their own kinds for a damaged archive
        raise StoreError(f"{path}: cannot be read: {error}") from None


def _check_rising(numbers: np.ndarray, where: str) -> None:
    if numbers.ndim != 1 or numbers.dtype != np.int64:
        raise StoreError(f"{where}: frame numbers are {numbers.dtype} {list(numbers.shape)}, expected int64 of one axis")
    if len(numbers) and numbers[0] < 0:
        raise StoreError(f"{where}: frame number {numbers[0]} is negative")
    falls = np.flatnonzero(np.diff(numbers) <= 0)
    if len(falls):
        first = falls[0]
        raise StoreError(f"{where}: frame numbers do not rise: {numbers[first]} is followed by {numbers[first + 1]}")


def _check_track(track: PoseTrack, where: str) -> None:
    _check_rising(track.frames, f"{where}: frames")
    _check_rising(track.camera_frames, f"{where}: camera_frames")
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
    matrices = track.world_from_camera
    rotations = matrices[:, :3, :3]
    with np.errstate(invalid="ignore"):
        rigid = np.isfinite(matrices).all((1, 2)) & (matrices[:, 3] == (0, 0, 0, 1)).all(-1)
        rigid &= np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max((1, 2), initial=0) < 1e-3
        rigid &= np.linalg.det(np.nan_to_num(rotations)) > 0
    if not rigid.all():
        raise StoreError(f"{where}: world_from_camera is no rigid transform at frame {_first(track.camera_frames, ~rigid)}")


def _check_labels(labels: dict[str, np.ndarray], where: str) -> None:
    if "frames" not in labels:
        raise StoreError(f"{where}: lacks frames")
    _check_rising(np.asarray(labels["frames"]), where)
    for name, values in labels.items():
        values = np.asarray(values)
        if values.ndim < 1 or len(values) != len(labels["frames"]):
            raise StoreError(f"{where}: {name} is {list(values.shape)}, expected {len(labels['frames'])} rows")
        if values.dtype.kind == "O" or (values.dtype.kind == "f" and not np.isfinite(values).all()):
            raise StoreError(f"{where}: {name} holds objects or values that are not finite")


def _first(frames: np.ndarray, wrong: np.ndarray) -> int:
    return int(frames[np.flatnonzero(wrong.reshape(len(frames), -1).any(1))[0]])


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
