"""Single images as samples: any folder tree of images, and the frames of take stores, behind one interface."""

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from internlm.data.contents import Contents, described, joined
from internlm.data.decode import decodable, decode
from internlm.data.failure import BrokenFile, DataError
from internlm.data.listing import list_images, real_path
from internlm.data.store import StoreError, Take, TakeStore

_log = logging.getLogger(__name__)


class ImageSource(Protocol):
    """Indexed images; ``classes`` is empty and ``label`` None where there are no labels.

    ``group`` names what an image must not be parted from when images are split: its take, or the image itself.
    ``identity`` is the same for the same stored image, whatever links lead to it.
    """

    classes: tuple[str, ...]

    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...
    def label(self, index: int) -> int | None: ...
    def group(self, index: int) -> str: ...
    def identity(self, index: int) -> str: ...
    def read(self, index: int, min_side: int = 0) -> np.ndarray: ...


class ImageFolder:
    """Every image below a folder, sorted by path; with ``labelled`` the first-level folders are the classes.

    ``notes`` says what else is in the folder (see ``list_images``), in words; it is logged too. Raises DataError when the
    folder is missing, cannot be read in full or has no image (or, labelled, an image outside a class folder).
    """

    def __init__(self, path: str | os.PathLike, *, labelled: bool = False):
        self.path = Path(path)
        names, self.notes = list_images(self.path, labelled=labelled)
        if not names:
            kinds = ", ".join(suffix for suffix, lacking in decodable().items() if not lacking)
            raise DataError(f"{self.path}: no image in it or below; {'; '.join(self.notes) or 'it is empty'}. Images are {kinds}")
        if self.notes:
            _log.warning("%s: %d images; %s", self.path, len(names), "; ".join(self.notes))
        self._folders: dict[str, str] = {}  # real path of each folder that was asked for
        self.classes: tuple[str, ...] = ()
        self._labels: np.ndarray | None = None
        if labelled:
            firsts = [name.split("/", 1)[0] if "/" in name else None for name in names]
            if None in firsts:
                raise DataError(f"{self.path / names[firsts.index(None)]}: is in no class folder ({self.path}/<class>/<image>)")
            # One class whichever way a file system spells its accents.
            firsts = [unicodedata.normalize("NFC", first) for first in firsts]
            self.classes = tuple(sorted(set(firsts)))
            rows = {name: row for row, name in enumerate(self.classes)}
            self._labels = np.array([rows[first] for first in firsts], np.int32)
        # One buffer instead of millions of str objects: forked workers then share it.
        encoded = [os.fsencode(name) for name in names]
        self._ends = np.cumsum([len(name) for name in encoded])
        self._names = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        return str(self.path / os.fsdecode(self._names[start : int(self._ends[index])]))

    def label(self, index: int) -> int | None:
        return None if self._labels is None else int(self._labels[index])

    def group(self, index: int) -> str:
        return self.name(index)

    def identity(self, index: int) -> str:
        return real_path(self.name(index), self._folders)

    def contents(self) -> Contents:
        """By first-level folder the names of its images; "." has those that are in none."""
        folders: dict[bytes, list[bytes]] = {}
        start = 0
        for end in self._ends.tolist():
            name = self._names[start:end]
            first, slash, _ = name.partition(b"/")
            folders.setdefault(first if slash else b".", []).append(name)
            start = end
        # Names that are not UTF-8 must not keep a checkpoint or a message from being written.
        return {
            folder.decode(errors="backslashreplace"): described(len(names), "image", b"\0".join(names))
            for folder, names in folders.items()
        }

    def read(self, index: int, min_side: int = 0) -> np.ndarray:
        name = self.name(index)
        try:
            with open(name, "rb") as file:
                return decode(file.read(), min_side)
        except (OSError, ValueError) as error:
            raise BrokenFile(name, error, index + 1) from None


class StoreImages:
    """Every ``frame_stride``-th stored frame of a store's takes of one split; ``label`` names a key of the takes' labels.

    Raises DataError when the split has no take or no frame, or when a take lacks the label.
    """

    def __init__(self, path: str | os.PathLike, split: str | None, frame_stride: int = 1, label: str | None = None):
        self.takes = select_takes(path, split)
        self.frames = [take.frame_numbers[::frame_stride] for take in self.takes]
        self._ends = np.cumsum([len(frames) for frames in self.frames])
        if not self._ends[-1]:
            raise DataError(f"{path}: the {len(self.takes)} takes of split {split!r} have no frames")
        self.classes: tuple[str, ...] = ()
        if label is not None:
            lacking = [take.info.name for take in self.takes if label not in take.info.labels]
            if lacking:
                known = sorted({key for take in self.takes for key in take.info.labels})
                raise DataError(
                    f"{path}: take {lacking[0]!r} has no label {label!r}; labels of this store: {', '.join(known) or 'none'}"
                )
            self.classes = tuple(sorted({take.info.labels[label] for take in self.takes}))
            rows = {name: row for row, name in enumerate(self.classes)}
            self._labels = [rows[take.info.labels[label]] for take in self.takes]
        self._real = [os.path.realpath(take.path) for take in self.takes]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[Take, int]:
        """The take and frame number of a sample."""
        row, inner = _place(self._ends, index)
        return self.takes[row], int(self.frames[row][inner])

    def name(self, index: int) -> str:
        take, number = self.locate(index)
        return frame_name(take, number)

    def label(self, index: int) -> int | None:
        return self._labels[_place(self._ends, index)[0]] if self.classes else None

    def group(self, index: int) -> str:
        return str(self.locate(index)[0].path)

    def identity(self, index: int) -> str:
        row, inner = _place(self._ends, index)
        return f"{self._real[row]} frame {self.frames[row][inner]}"

    def contents(self) -> Contents:
        """By take the numbers of its frames."""
        found = zip(self.takes, self.frames)
        return {take.info.name: described(len(frames), "frame", frames.tobytes()) for take, frames in found if len(frames)}

    def read(self, index: int, min_side: int = 0) -> np.ndarray:
        take, number = self.locate(index)
        try:
            return decode(take.read_frame(number), min_side)
        except (OSError, ValueError, StoreError) as error:
            raise BrokenFile(frame_name(take, number), error, index + 1) from None


def _place(ends: np.ndarray, index: int) -> tuple[int, int]:
    """Which of several parts that end at ``ends`` an index falls into, and its index there."""
    row = int(np.searchsorted(ends, index, side="right"))
    return row, index - (int(ends[row - 1]) if row else 0)


class JoinedImages:
    """Several sources one after another; equal class names become one class."""

    def __init__(self, sources: Sequence[ImageFolder | StoreImages]):
        self.sources = list(sources)
        self._ends = np.cumsum([len(source) for source in self.sources])
        self.classes: tuple[str, ...] = tuple(sorted({name for source in self.sources for name in source.classes}))
        rows = {name: row for row, name in enumerate(self.classes)}
        self._rows = [[rows[name] for name in source.classes] for source in self.sources]  # labels of each source here

    def __len__(self) -> int:
        return int(self._ends[-1])

    def contents(self) -> Contents:
        """Of all sources."""
        return joined([source.contents() for source in self.sources])

    def name(self, index: int) -> str:
        row, inner = _place(self._ends, index)
        return self.sources[row].name(inner)

    def label(self, index: int) -> int | None:
        row, inner = _place(self._ends, index)
        label = self.sources[row].label(inner)
        return None if label is None else self._rows[row][label]

    def group(self, index: int) -> str:
        row, inner = _place(self._ends, index)
        return self.sources[row].group(inner)

    def identity(self, index: int) -> str:
        row, inner = _place(self._ends, index)
        return self.sources[row].identity(inner)

    def read(self, index: int, min_side: int = 0) -> np.ndarray:
        row, inner = _place(self._ends, index)
        try:
            return self.sources[row].read(inner, min_side)
        except BrokenFile as error:
            raise BrokenFile(error.name, error.reason, index - inner + error.resume_at) from None


class ImageSubset:
    """The images of some classes of a labelled source, in its order; ``classes`` are those named, in order of name.

    Raises DataError when the source has no labels or lacks one of the classes.
    """

    def __init__(self, source: ImageSource, classes: Sequence[str]):
        lacking = sorted(set(classes) - set(source.classes))
        if lacking:
            raise DataError(
                f"{len(lacking)} of {len(set(classes))} listed classes are not among the {len(source.classes)} of the images at "
                f"{source.name(0)}: {', '.join(lacking[:5])}{', …' if len(lacking) > 5 else ''}"
            )
        self.source, self.classes = source, tuple(sorted(set(classes)))
        chosen = {name: row for row, name in enumerate(self.classes)}
        number = {row: chosen[name] for row, name in enumerate(source.classes) if name in chosen}
        labels = [number.get(source.label(index), -1) for index in range(len(source))]
        self.rows = np.flatnonzero(np.array(labels) >= 0)
        self._labels = np.array(labels, np.int32)[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return self.source.name(int(self.rows[index]))

    def label(self, index: int) -> int | None:
        return int(self._labels[index])

    def group(self, index: int) -> str:
        return self.source.group(int(self.rows[index]))

    def identity(self, index: int) -> str:
        return self.source.identity(int(self.rows[index]))

    def read(self, index: int, min_side: int = 0) -> np.ndarray:
        try:
            return self.source.read(int(self.rows[index]), min_side)
        except BrokenFile as error:
            raise BrokenFile(error.name, error.reason, int(np.searchsorted(self.rows, error.resume_at))) from None


def open_images(
    paths: Sequence[str | os.PathLike], split: str | None = None, frame_stride: int = 1, label: str | None = None
) -> ImageFolder | StoreImages | JoinedImages:
    """Open take stores and image folders as one source.

    split and frame_stride concern take stores only: a folder has no splits, name its ``train`` folder itself.
    label: None = unlabelled; "folder" = first-level folders of image folders; else a key of the takes' labels ("place").
    """
    if not paths:
        raise DataError("no image paths given (data.images is empty)")
    sources: list[ImageFolder | StoreImages] = []
    _say_nested(paths)
    for path in paths:
        if TakeStore.is_store(path):
            if label == "folder":
                raise DataError(f"{path}: is a take store; label 'folder' is for image folders, use a take label such as 'place'")
            sources.append(StoreImages(path, split, frame_stride, label))
        else:
            if label not in (None, "folder"):
                raise DataError(f"{path}: is no take store, so it has no label {label!r}; use label 'folder'")
            sources.append(ImageFolder(path, labelled=label == "folder"))
    return sources[0] if len(sources) == 1 else JoinedImages(sources)


def notes(source: ImageSource) -> list[str]:
    """What the image folders of a source hold besides images that count, in words."""
    if isinstance(source, ImageFolder):
        return [f"{source.path}: {note}" for note in source.notes]
    if isinstance(source, JoinedImages):
        return [note for part in source.sources for note in notes(part)]
    return notes(source.source) if isinstance(source, ImageSubset) else []


def _say_nested(paths: Sequence[str | os.PathLike]) -> None:
    """Warn of paths that are the same folder or one inside another: their images then count more than once."""
    reals = [os.path.realpath(path) for path in paths]
    for row, real in enumerate(reals):
        for other, holder in enumerate(reals):
            if other != row and (real.startswith(os.path.join(holder, "")) or (real == holder and other < row)):
                _log.warning("%s is also in %s: its images count more than once", paths[row], paths[other])


def select_takes(path: str | os.PathLike, split: str | None) -> list[Take]:
    """Takes of a store's split; DataError naming the splits that exist when there are none."""
    try:
        store = TakeStore(path)
        takes = store.select(split)
    except StoreError as error:
        raise DataError(str(error)) from None
    if not takes:
        counts = Counter(info.split for info in store.infos)
        existing = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())) or "no takes at all"
        raise DataError(f"{path}: no take of split {split!r}; the store has {existing}")
    return takes


def frame_name(take: Take, number: int) -> str:
    """How messages call a stored frame."""
    return f"{take.path} frame {number}"
