"""Reading a take store."""

import os
import re
from dataclasses import fields
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from internlm.data.store.archives import read_npz, read_tar_index
from internlm.data.store.column_files import column_names, read_column
from internlm.data.store.columns import Column, EventColumn, StoredRows
from internlm.data.store.contract import (
    SPLITS,
    Camera,
    PoseTrack,
    StoreError,
    TakeInfo,
    check_header,
    check_labels,
    check_rising,
    check_track,
    read_json,
)
from internlm.data.store.foreign import is_foreign
from internlm.data.store.unfinished import finished, read_finished

_OPEN_FILES = 64
_FRAME_NAME = re.compile(r"frame_(\d+)\.(jpg|jpeg|png)")


class TakeStore:
    """Read access to a take store. Safe to share between threads and to send to worker processes.

    Raises StoreError when ``path`` is not a store of this version or its take table is broken. With a list ``broken``, takes
    whose row is broken are left out and entered there: (folder name, error).
    """

    def __init__(self, path: str | os.PathLike, *, broken: list[tuple[str, StoreError]] | None = None):
        self.path = Path(path)
        check_header(self.path)
        self.infos: list[TakeInfo] = []
        for folder in finished(self.path / "takes"):
            if is_foreign(folder.name) and not os.path.isfile(folder / "take.json"):
                continue
            try:
                if (info := read_finished(folder, read_info)) is not None:
                    self.infos.append(info)
            except StoreError as error:
                if broken is None:
                    raise
                broken.append((folder.name, error))
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

    def open_file(self, path: str) -> BinaryIO:
        """A file that stays open between reads, unbuffered, for ``os.pread``."""
        return self._open(path)

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
        tar = self._open(self._tar)  # the name keeps it open should another thread evict it
        data = os.pread(tar.fileno(), length, offset)
        if len(data) != length:
            raise StoreError(f"{self._tar}: ends inside frame {number}")
        return data

    def poses(self) -> PoseTrack | None:
        """The pose track, or None when the take has none."""
        return read_finished(self.path, read_track)

    def labels(self) -> dict[str, np.ndarray]:
        """Ground truth by frame number: ``frames`` [L] and arrays [L, ...]; {} when the take has none."""
        return read_finished(self.path, read_labels) or {}

    @property
    def columns(self) -> list[str]:
        """Names of what the take has besides images, poses and labels, in order (``columns.KINDS``)."""
        return read_finished(self.path, column_names) or []

    def column(self, name: str) -> Column | StoredRows | EventColumn | None:
        """One column, None when the take has none of that name; StoreError when no kind of column has such a name.

        Depth and ids are ``StoredRows``, which read an image when it is asked for.
        """
        return read_finished(self.path, lambda folder: read_column(folder, name, self._open))

    def _open(self, path: str) -> BinaryIO:
        """A file of the take for ``os.pread``; it stays open between reads."""
        try:
            return self._store.open_file(path)
        except FileNotFoundError:
            if read_finished(self.path, read_info) is None:  # waits while the take is being replaced
                raise
            return self._store.open_file(path)

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray | list[str]]:
        return read_finished(self.path, read_frame_index) or (np.empty(0, np.int64), [])


def read_info(folder: Path) -> TakeInfo:
    """The take table's row of a take folder; StoreError when it is missing or breaks the contract."""
    path = folder / "take.json"
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"{folder}: has no take.json; copy the take again if it was copied in part, or move out what is not a take"
        ) from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from None
    values = read_json(path)
    try:
        camera = values.get("camera")
        info = TakeInfo(**{**values, "camera": None if camera is None else Camera(**camera)})
    except (AttributeError, TypeError, StoreError) as error:
        raise StoreError(f"{path}: {error}") from None
    if info.name != folder.name:
        raise StoreError(f"{path}: names the take {info.name!r}, the folder says {folder.name!r}")
    return info


def read_frame_index(folder: Path) -> tuple[np.ndarray, np.ndarray | list[str]]:
    """Frame numbers int64 [F] of a take folder, and for each its (offset, length) in the tar or its file name."""
    if (folder / "frames.idx.npy").is_file():
        return read_tar_index(folder, "frames")
    if (folder / "frames").is_dir():
        return _list_loose_frames(folder / "frames")
    return np.empty(0, np.int64), []


def read_track(folder: Path) -> PoseTrack | None:
    """The pose track of a take folder, None when it has none; StoreError when it cannot be read or breaks the contract."""
    path = folder / "poses.npz"
    if not path.is_file():
        return None
    arrays = read_npz(path)
    missing = [f.name for f in fields(PoseTrack) if f.name not in arrays]
    if missing:
        raise StoreError(f"{path}: lacks {', '.join(missing)}")
    track = PoseTrack(**{f.name: arrays[f.name] for f in fields(PoseTrack)})
    check_track(track, str(path))
    return track


def read_labels(folder: Path) -> dict[str, np.ndarray]:
    """The labels of a take folder, {} when it has none; StoreError when they cannot be read or break the contract."""
    path = folder / "labels.npz"
    if not path.is_file():
        return {}
    labels = read_npz(path)
    check_labels(labels, str(path))
    return labels


def _list_loose_frames(folder: Path) -> tuple[np.ndarray, list[str]]:
    found = sorted((int(match[1]), name) for name in os.listdir(folder) if (match := _FRAME_NAME.fullmatch(name)))
    numbers = np.array([number for number, _ in found], np.int64)
    check_rising(numbers, str(folder))
    return numbers, [name for _, name in found]
