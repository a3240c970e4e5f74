"""Columns of a take folder: which there are, reading and writing them."""

import io
import json
import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from internlm.data.store.archives import read_npz, read_tar_index, write_tar
from internlm.data.store.columns import (
    KINDS,
    AnyColumn,
    Array,
    Column,
    EventColumn,
    ImageColumn,
    StoredImages,
    check_about,
    check_column,
    check_events,
    kind_of,
    plain_json,
)
from internlm.data.store.contract import StoreError, check_rising, read_json

_ENDINGS = (".npz", ".tar", ".idx.npy", ".json")
_open = partial(open, mode="rb")
_MODES = {"uint16": ("I;16", "I"), "uint8": ("L",)}  # Pillow's names for grey PNG of that depth


def column_names(folder: Path) -> list[str]:
    """The columns of a take folder, in order; also those of which only part is there, so that reading tells."""
    names = {word for word, kind in KINDS.items() if not kind.rest and any((folder / file).exists() for file in files_of(word))}
    for word, kind in KINDS.items():
        for path in (folder / word).rglob("*") if kind.rest and (folder / word).is_dir() else ():
            rest = path.relative_to(folder / word).as_posix()
            if path.suffix in (".npz", ".json") and re.fullmatch(kind.rest, f"/{rest.removesuffix(path.suffix)}"):
                names.add(f"{word}/{rest.removesuffix(path.suffix)}")
    return sorted(names)


def files_of(name: str) -> tuple[str, ...]:
    """The files that a column may have, relative to the take's folder."""
    return tuple(name + ending for ending in _ENDINGS)


def write_column(folder: Path, name: str, column: AnyColumn, where: str) -> None:
    """Write one column into a take folder; StoreError when it is not as its kind declares."""
    kind, where = kind_of(name), f"{where}: {name}"
    forms = {"npz": Column, "images": ImageColumn | StoredImages, "events": EventColumn}
    if not isinstance(column, forms[kind.stored]):
        raise StoreError(f"{where}: is given as {type(column).__name__}; columns of this kind are stored as {kind.stored}")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if isinstance(column, EventColumn):
        events = plain_json(list(column.events), where)
        check_events(events, where)
        (folder / f"{name}.json").write_text(json.dumps(events, indent=1))
        return
    about = plain_json(dict(column.about), f"{where}: about")
    check_about(kind, about, where)
    if isinstance(column, Column):
        frames = np.asarray(column.frames)
        frames = frames.astype(np.int64) if frames.dtype.kind in "iu" else frames
        arrays = {key: np.asarray(value) for key, value in column.arrays.items()}
        check_column(name, Column(frames, arrays, about), where)
        np.savez_compressed(folder / f"{name}.npz", frames=frames, **arrays)
    elif not write_tar(folder, name, where, _encoded(kind.image, column.rows, where)):
        raise StoreError(f"{where}: got no image")
    if about:
        (folder / f"{name}.json").write_text(json.dumps(about, indent=1, sort_keys=True))


def read_column(
    folder: Path, name: str, open_file: Callable[[str], BinaryIO] | None = None
) -> Column | StoredImages | EventColumn | None:
    """A column of a take folder, None when the take has none of that name.

    Images are read when they are asked for, from what ``open_file`` opens and may keep open. Raises StoreError for an unknown
    name and for files that cannot be read or break the contract.
    """
    kind, files = kind_of(name), [folder / file for file in files_of(name)]
    if not any(file.exists() for file in files):
        return None
    archive, tar, index, facts = files
    if kind.stored == "events":
        events = read_json(facts)
        check_events(events, str(facts))
        return EventColumn(events)
    if name == "depth" and archive.exists() and not index.exists():
        return _read_ray_depth(archive, kind.image)
    about = read_json(facts) if facts.exists() else {}
    if kind.stored == "images":
        check_about(kind, about, str(facts))
        numbers, places = read_tar_index(folder, name)
        read = partial(_read_image, open_file or _open, str(tar), places, kind.image[1].dtype)
        return StoredImages(numbers, about, read, str(tar))
    arrays = read_npz(archive)
    if "frames" not in arrays:
        raise StoreError(f"{archive}: lacks frames")
    column = Column(arrays.pop("frames"), arrays, about)
    check_column(name, column, str(archive))
    return column


def _encoded(image: tuple[str, Array], rows: Iterable[tuple[int, np.ndarray]], where: str) -> Iterable[tuple[int, bytes]]:
    from PIL import Image

    name, declared = image
    size = None
    for number, values in rows:
        values = np.asarray(values)
        size = size or values.shape
        if values.dtype != np.dtype(declared.dtype) or values.ndim != 2 or not values.size or values.shape != size:
            expected = list(size) if len(size) == 2 else "[H, W]"
            raise StoreError(
                f"{where}: {name} of frame {number} is {values.dtype} {list(values.shape)}, expected {declared.dtype} {expected}"
            )
        file = io.BytesIO()
        Image.fromarray(values).save(file, format="PNG")
        yield number, file.getvalue()


def _read_image(open_file: Callable[[str], BinaryIO], tar: str, places: np.ndarray, dtype: str, row: int) -> np.ndarray:
    from PIL import Image

    offset, length = (int(value) for value in places[row])
    file = open_file(tar)  # the name keeps it open
    data = os.pread(file.fileno(), length, offset)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode not in _MODES[dtype]:
                raise ValueError(f"its pixels are {image.mode!r}, expected {_MODES[dtype][0]!r}")
            return np.asarray(image).astype(dtype)
    except Exception as error:  # image libraries raise errors of many kinds for damaged data
        raise StoreError(f"{tar}: image in row {row} cannot be decoded: {error}") from None


def _read_ray_depth(path: Path, image: tuple[str, Array]) -> StoredImages:
    """Depth as EgoWorld wrote it before there were columns: one archive, along the pixel's ray, which it does not say."""
    arrays: dict[str, Any] = read_npz(path)
    frames, values = arrays.get("frames", np.empty(0)), arrays.get(image[0], np.empty(0))
    check_rising(frames, f"{path}: frames")
    if values.dtype != np.uint16 or values.ndim != 3 or len(values) != len(frames):
        raise StoreError(f"{path}: {image[0]} is {values.dtype} {list(values.shape)}, expected uint16 [{len(frames)}, H, W]")
    return StoredImages(frames, {"kind": "ray"}, values.__getitem__, str(path))
