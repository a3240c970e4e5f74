"""Writing a take store: a take appears complete or not at all, whatever happens to the process or the disk."""

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
from internlm.data.store.foreign import is_foreign
from internlm.data.store.joining import PARTS, check_labels_kept, check_same_length, joined, ordered, parts_of
from internlm.data.store.reader import TakeStore, read_info
from internlm.data.store.unfinished import discard, naming_full_disk, read_finished, unfinished

_JPEG_MAGIC, _PNG_MAGIC = b"\xff\xd8\xff", b"\x89PNG"


class StoreWriter:
    """Creates a take store or extends one. Processes may write different takes, or frames and poses of one take, at a time.

    A take is written into a hidden folder that is renamed at the end: readers see it complete or not at all.
    Raises StoreError when ``path`` is a non-empty folder that is not a store.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not TakeStore.is_store(self.path):
            foreign = self.path.exists() and (not self.path.is_dir() or any(map(_foreign, self.path.iterdir())))
            if foreign and not TakeStore.is_store(self.path):  # looked at again: another process may just have made it one
                raise StoreError(f"{self.path}: exists and is not a take store; choose an empty or new folder")
            with naming_full_disk(self.path):
                (self.path / "takes").mkdir(parents=True, exist_ok=True)
                _write_header(self.path)
        check_header(self.path)

    def info(self, name: str) -> TakeInfo | None:
        """The row of the complete take of this name, None when there is none; StoreError when it breaks the contract."""
        return read_finished(self.path / "takes" / name, read_info)

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
        Raises StoreError, and leaves nothing visible, when the name exists (and not ``overwrite``), when another process
        is writing it or when the content is invalid; DiskFullError when there is no room.
        """
        final = self.path / "takes" / info.name

        def complete(folder: Path) -> None:
            if final.exists() and not overwrite:
                raise StoreError(f"{self.path}: take {info.name!r} exists; pass overwrite=True to replace it")
            _write_info(folder, info)

        with unfinished(final, complete=complete) as folder:
            if final.exists() and not overwrite:
                complete(folder)
            count = (_write_tar if packed else _write_loose)(folder, info.name, frames)
            _write_parts(folder, info, poses, labels)
            if not count and poses is None:
                raise StoreError(f"take {info.name!r}: neither frames nor poses")
        return final

    def extend_take(
        self,
        info: TakeInfo,
        frames: Iterable[tuple[int, bytes]] | None = None,
        poses: PoseTrack | None = None,
        labels: dict[str, np.ndarray] | None = None,
        *,
        packed: bool = True,
        replace: bool = False,
    ) -> Path:
        """Write the given parts of a take and keep the others of the existing take of that name, if there is one.

        Frames and poses of a recording often come from two commands; either may run first, both may run at once, and either may
        be repeated. The parts kept are linked, not copied. take.json is joined: camera and pose_space belong to frames and
        poses, labels and extra are united, two sources become "mocap+video" (``joining``).

        replace: make the take anew from these parts alone. Otherwise raises TakeConflict, and changes nothing, when a given
        part was written from another source, when uid, split or frame_rate differ from those of the parts that stay, when
        images and poses of two sources do not end together, or when labels would be lost. Raises StoreError as ``add_take``.
        """
        final = self.path / "takes" / info.name
        given = {part for part, value in (("frames", frames), ("poses", poses), ("labels", labels or None)) if value is not None}

        def join(old: Path) -> TakeInfo:
            have = parts_of(old)
            if not have <= given:
                check_labels_kept(old, labels)
            return joined(read_info(old), info, have, given)

        def complete(folder: Path) -> None:
            whole = ordered(info)
            if final.exists() and not replace:
                whole = join(final)
                _link(final, folder, {"take.json"}.union(*(PARTS[part] for part in given)))
            check_same_length(folder, whole)
            _write_info(folder, whole)

        with unfinished(final, part="" if frames is not None else "poses", complete=complete) as folder:
            if not replace:
                read_finished(final, join)  # refuses before hours of frames are decoded
            if frames is not None and not (_write_tar if packed else _write_loose)(folder, info.name, frames):
                raise StoreError(f"take {info.name!r}: got no frame")
            _write_parts(folder, info, poses, labels)
            if not given & {"frames", "poses"} and not final.exists():
                raise StoreError(f"take {info.name!r}: neither frames nor poses")
        return final

    def discard(self, name: str) -> None:
        """Remove what a killed writer left of a take that is not going to be written again; a live writer keeps its own."""
        discard(self.path / "takes" / name)


def _link(source: Path, target: Path, without: set[str]) -> None:
    for entry in source.iterdir():
        if entry.name not in without and not entry.name.startswith(".nfs"):  # a removed file that is still read
            if entry.is_dir():
                shutil.copytree(entry, target / entry.name, copy_function=_link_file)
            else:
                _link_file(str(entry), str(target / entry.name))


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)  # a file system without hard links


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
    # Through memory: numpy writing to a file itself says nothing useful when the disk is full.
    table = io.BytesIO()
    np.save(table, np.array(index, np.int64).reshape(-1, 3))
    (folder / "frames.idx.npy").write_bytes(table.getvalue())
    return len(index)


def _write_loose(folder: Path, name: str, frames: Iterable[tuple[int, bytes]]) -> int:
    (folder / "frames").mkdir()
    count = 0
    for _, file_name, data in _rising_frames(name, frames):
        (folder / "frames" / file_name).write_bytes(data)
        count += 1
    return count


def _write_parts(folder: Path, info: TakeInfo, poses: PoseTrack | None, labels: dict[str, np.ndarray] | None) -> None:
    """poses.npz and labels.npz, where given. numpy dates archive members 1980: the bytes hold no time."""
    if poses is not None:
        _write_poses(folder, info, poses)
    if labels:
        check_labels(labels, f"take {info.name!r}: labels")
        np.savez_compressed(folder / "labels.npz", **labels)


def _write_info(folder: Path, info: TakeInfo) -> None:
    (folder / "take.json").write_text(json.dumps(asdict(info), indent=1))


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


def _foreign(entry: Path) -> bool:
    """Whether an entry of a folder without header is not what a writer killed at its start leaves there.

    The manifest of a run may be there before the first take: the job that died first made none.
    """
    if is_foreign(entry.name) or (entry.name == "manifest" and entry.is_dir()):
        return False  # a fresh disk has lost+found, a folder that somebody looked at .DS_Store
    return not (entry.name == "takes" and entry.is_dir() and not any(entry.iterdir()))


def _write_header(path: Path) -> None:
    header = {"format": FORMAT, "version": VERSION, "joints": list(COCO_JOINTS)}
    temporary = path / f".store.json.{os.getpid()}"
    temporary.write_text(json.dumps(header, indent=1))
    try:
        temporary.replace(path / "store.json")
    except FileNotFoundError:
        pass  # removed below by another process that has just written the same header
    for remains in path.glob(".store.json.*"):
        remains.unlink(missing_ok=True)
