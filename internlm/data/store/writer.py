"""Writing a take store."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from internlm.data.store.contract import (
    COCO_JOINTS,
    FORMAT,
    VERSION,
    PoseTrack,
    StoreError,
    TakeInfo,
    check_header,
    check_labels,
    check_track,
)
from internlm.data.store.reader import TakeStore

_JPEG_MAGIC, _PNG_MAGIC = b"\xff\xd8\xff", b"\x89PNG"


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
        check_header(self.path)

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
                check_labels(labels, f"take {info.name!r}: labels")
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
    check_track(track, f"take {info.name!r}: poses")
    np.savez(folder / "poses.npz", **{f.name: getattr(track, f.name) for f in fields(PoseTrack)})


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
