"""Writing a take store: a take appears complete or not at all, whatever happens to the process or the disk."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from internlm.core.files import written
from internlm.data.store.archives import rising_frames, write_tar
from internlm.data.store.column_files import write_column
from internlm.data.store.columns import AnyColumn, kind_of
from internlm.data.store.contract import (
    COCO_JOINTS,
    FORMAT,
    PoseTrack,
    StoreError,
    TakeInfo,
    check_header,
    check_labels,
    check_track,
)
from internlm.data.store.foreign import is_foreign
from internlm.data.store.joining import check_labels_kept, check_same_length, joined, ordered, part_files, parts_of
from internlm.data.store.reader import TakeStore, read_info
from internlm.data.store.unfinished import discard, naming_full_disk, read_finished, restore, unfinished


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
                _write_header(self.path, 1)
        check_header(self.path)

    def info(self, name: str) -> TakeInfo | None:
        """The row of the complete take of this name, None when there is none; StoreError when it breaks the contract.

        A take that a killed writer took away is brought back.
        """
        restore(self.path / "takes" / name)
        return read_finished(self.path / "takes" / name, read_info)

    def add_take(
        self,
        info: TakeInfo,
        frames: Iterable[tuple[int, bytes]] = (),
        poses: PoseTrack | None = None,
        labels: dict[str, np.ndarray] | None = None,
        *,
        columns: Mapping[str, AnyColumn] | None = None,
        packed: bool = True,
        overwrite: bool = False,
    ) -> Path:
        """Write one take and return its folder.

        frames: (frame number, JPEG or PNG bytes) with rising numbers; consumed one by one, so a generator keeps memory flat.
        columns: by name (``columns.KINDS``), consumed after the frames.
        Raises StoreError, and leaves nothing visible, when the name exists (and not ``overwrite``), when another process
        is writing it or when the content is invalid; DiskFullError when there is no room.
        """
        final = self.path / "takes" / info.name

        def complete(folder: Path) -> None:
            if final.exists() and not overwrite:
                raise StoreError(f"{self.path}: take {info.name!r} exists; pass overwrite=True to replace it")
            _write_info(folder, info)
            self._publish_columns(columns)

        with unfinished(final, complete=complete) as folder:
            if final.exists() and not overwrite:
                complete(folder)
            count = _write_frames(folder, info, frames, packed)
            _write_parts(folder, info, poses, labels, columns)
            if not count and poses is None and not columns:
                raise StoreError(f"take {info.name!r}: neither frames nor poses")
        return final

    def extend_take(
        self,
        info: TakeInfo,
        frames: Iterable[tuple[int, bytes]] | None = None,
        poses: PoseTrack | None = None,
        labels: dict[str, np.ndarray] | None = None,
        *,
        columns: Mapping[str, AnyColumn] | None = None,
        packed: bool = True,
        replace: bool = False,
    ) -> Path:
        """Write the given parts of a take and keep the others of the existing take of that name, if there is one.

        Frames and poses of a recording often come from two commands; either may run first, both may run at once, and either may
        be repeated. Each column (``columns.KINDS``) is a part of its own, consumed after the frames. The parts kept are linked,
        not copied. take.json is joined: camera and pose_space belong to frames and poses, labels and extra are united, two
        sources become "mocap+video" (``joining``).

        replace: make the take anew from these parts alone. Otherwise raises TakeConflict, and changes nothing, when a given
        part was written from another source, when uid, split or frame_rate differ from those of the parts that stay, when
        images and poses of two sources do not end together, a column of another source goes on after both, or labels would be
        lost. Raises StoreError as ``add_take``.
        """
        final = self.path / "takes" / info.name
        given = {part for part, value in (("frames", frames), ("poses", poses), ("labels", labels or None)) if value is not None}
        part = "" if frames is not None else "poses" if given or not columns else re.sub(r"\W", "_", min(columns))[:32]
        for name in columns or ():
            kind_of(name)
            given.add(name)

        def join(old: Path) -> TakeInfo:
            have = parts_of(old)
            if not have <= given:
                check_labels_kept(old, labels)
            return joined(read_info(old), info, have, given)

        def complete(folder: Path) -> None:
            whole = ordered(info)
            if final.exists() and not replace:
                whole = join(final)
                changed = {"take.json"} if whole != read_info(final) else set()
                _link(final, folder, changed.union(*map(part_files, given)))
            check_same_length(folder, whole)
            if not (folder / "take.json").exists():
                _write_info(folder, whole)
            self._publish_columns(columns)

        with unfinished(final, part=part, complete=complete) as folder:
            if not replace:
                read_finished(final, join)  # refuses before hours of frames are decoded
            if frames is not None and not _write_frames(folder, info, frames, packed):
                raise StoreError(f"take {info.name!r}: got no frame")
            _write_parts(folder, info, poses, labels, columns)
            if not given - {"labels"} and not final.exists():
                raise StoreError(f"take {info.name!r}: neither frames nor poses")
        return final

    def _publish_columns(self, columns: Mapping[str, AnyColumn] | None) -> None:
        """Before a take with columns appears, readers that know none are told by the version of the store."""
        if columns and check_header(self.path) < 2:
            _write_header(self.path, 2)

    def discard(self, name: str) -> None:
        """Remove what a killed writer left of a take that is not going to be written again; a live writer keeps its own."""
        discard(self.path / "takes" / name)


def _link(source: Path, target: Path, without: set[str]) -> None:
    """Link what is in ``source`` into ``target``, all but these files and folders (relative names)."""
    for entry in source.iterdir():
        if entry.name in without or entry.name.startswith(".nfs"):  # a removed file that is still read
            continue
        if entry.is_dir():
            (target / entry.name).mkdir(exist_ok=True)
            inside = {name.removeprefix(f"{entry.name}/") for name in without if name.startswith(f"{entry.name}/")}
            _link(entry, target / entry.name, inside)
        else:
            _link_file(str(entry), str(target / entry.name))


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)  # a file system without hard links


def _write_frames(folder: Path, info: TakeInfo, frames: Iterable[tuple[int, bytes]], packed: bool) -> int:
    where = f"take {info.name!r}"
    if packed:
        return write_tar(folder, "frames", where, frames)
    (folder / "frames").mkdir()
    count = 0
    for _, file_name, data in rising_frames(where, frames):
        (folder / "frames" / file_name).write_bytes(data)
        count += 1
    return count


def _write_parts(
    folder: Path,
    info: TakeInfo,
    poses: PoseTrack | None,
    labels: dict[str, np.ndarray] | None,
    columns: Mapping[str, AnyColumn] | None,
) -> None:
    """poses.npz, labels.npz and columns, where given. numpy dates archive members 1980: the bytes hold no time."""
    if poses is not None:
        _write_poses(folder, info, poses)
    if labels:
        check_labels(labels, f"take {info.name!r}: labels")
        np.savez_compressed(folder / "labels.npz", **labels)
    for name in sorted(columns or ()):
        write_column(folder, name, columns[name], f"take {info.name!r}")


def _write_info(folder: Path, info: TakeInfo) -> None:
    (folder / "take.json").write_text(json.dumps(asdict(info), indent=1))


def _write_poses(folder: Path, info: TakeInfo, poses: PoseTrack) -> None:
    visible = np.asarray(poses.visible, bool)
    joints = np.asarray(poses.joints, np.float32)
    if len(joints) and info.pose_space is None:
        raise StoreError(f"take {info.name!r}: has poses but pose_space is None; say 'world' or 'camera'")
    if joints.shape[:2] == visible.shape:
        joints = np.where(visible[..., None], joints, np.float32(0))
    frames, camera_frames = (np.asarray(numbers, np.int64) for numbers in (poses.frames, poses.camera_frames))
    track = PoseTrack(frames, joints, visible, camera_frames, np.asarray(poses.world_from_camera, np.float64))
    check_track(track, f"take {info.name!r}: poses")
    np.savez(folder / "poses.npz", **{f.name: getattr(track, f.name) for f in fields(PoseTrack)})


def _foreign(entry: Path) -> bool:
    """Whether an entry of a folder without header is not what a writer killed at its start leaves there.

    The manifest of a run may be there before the first take: the job that died first made none.
    """
    if is_foreign(entry.name) or (entry.name == "manifest" and entry.is_dir()):
        return False  # a fresh disk has lost+found, a folder that somebody looked at .DS_Store
    return not (entry.name == "takes" and entry.is_dir() and not any(entry.iterdir()))


def _write_header(path: Path, version: int) -> None:
    """store.json of this version, or of a higher one that it already has."""
    with written(path / "store.json") as temporary:
        now = check_header(path) if TakeStore.is_store(path) else 1
        about = {"format": FORMAT, "version": max(version, now), "joints": list(COCO_JOINTS)}
        temporary.write_text(json.dumps(about, indent=1))
