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

from internlm.data.store.archives import MAX_ARCHIVE, read_npz, read_tar_index, write_tar
from internlm.data.store.columns import (
    KINDS,
    AnyColumn,
    Array,
    Column,
    EventColumn,
    Kind,
    PackedColumn,
    StoredRows,
    check_about,
    check_column,
    check_events,
    check_row,
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
            file = path.relative_to(folder).as_posix()
            for name in (file.removesuffix(ending) for ending in _ENDINGS if file.endswith(ending)):
                if re.fullmatch(kind.rest, name.removeprefix(word)):
                    names.add(name)
    return sorted(names)


def files_of(name: str) -> tuple[str, ...]:
    """The files that a column may have, relative to the take's folder."""
    return tuple(name + ending for ending in _ENDINGS)


def write_column(folder: Path, name: str, column: AnyColumn, where: str) -> None:
    """Write one column into a take folder; StoreError when it is not as its kind declares."""
    kind, where = kind_of(name), f"{where}: {name}"
    forms = {"npz": Column, "tar": PackedColumn | StoredRows, "events": EventColumn}
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
        if (size := sum(array.nbytes for array in arrays.values())) > MAX_ARCHIVE:
            raise StoreError(f"{where}: has {size:,} bytes, an archive may have {MAX_ARCHIVE:,}; split the take")
        np.savez_compressed(folder / f"{name}.npz", frames=frames, **arrays)
    elif not write_tar(folder, name, where, _encoded(kind, column, where), ("png", "npy")):
        raise StoreError(f"{where}: has no rows; leave out a column of which nothing is known")
    if about:
        (folder / f"{name}.json").write_text(json.dumps(about, indent=1, sort_keys=True))


def read_column(
    folder: Path, name: str, open_file: Callable[[str], BinaryIO] | None = None
) -> Column | StoredRows | EventColumn | None:
    """A column of a take folder, None when the take has none of that name.

    Rows of a tar are read when they are asked for, from what ``open_file`` opens and may keep open. Raises StoreError for an
    unknown name and for files that cannot be read or break the contract.
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
        return _read_ray_depth(archive)
    about = read_json(facts) if facts.exists() else {}
    if kind.stored == "tar":
        check_about(kind, about, str(facts))
        table = read_tar_index(folder, name)
        return StoredRows(table[0], about, partial(_read_row, open_file or _open, name, str(tar), about, table), str(tar))
    arrays = read_npz(archive)
    if "frames" not in arrays:
        raise StoreError(f"{archive}: lacks frames")
    column = Column(arrays.pop("frames"), arrays, about)
    check_column(name, column, str(archive))
    return column


def _encoded(kind: Kind, column: PackedColumn | StoredRows, where: str) -> Iterable[tuple[int, bytes]]:
    name, declared = kind.packed
    sizes: dict[str, int] = {}
    for number, values in column.rows:
        values = np.asarray(values)
        check_row(kind, number, values, column.about, sizes, where)
        file = io.BytesIO()
        if _is_image(declared):
            from PIL import Image

            Image.fromarray(values).save(file, format="PNG")
        else:
            np.save(file, values)
        yield number, file.getvalue()


def _read_row(open_file: Callable[[str], BinaryIO], name: str, tar: str, about: Any, table: tuple, row: int) -> np.ndarray:
    (numbers, places), kind = table, kind_of(name)
    offset, length = (int(value) for value in places[row])
    file = open_file(tar)  # the name keeps it open
    data, declared = io.BytesIO(os.pread(file.fileno(), length, offset)), kind.packed[1]
    try:
        if _is_image(declared):
            values = _decoded(data, declared)
        else:
            values = np.lib.format.read_array(data, allow_pickle=False)
    except Exception as error:  # image libraries and numpy raise errors of many kinds for damaged data
        raise StoreError(f"{tar}: frame {numbers[row]} cannot be decoded: {error}") from None
    check_row(kind, int(numbers[row]), values, about, {}, tar)
    return values


def _is_image(declared: Array) -> bool:
    return declared.shape == ("N", "H", "W")


def _decoded(data: BinaryIO, declared: Array) -> np.ndarray:
    from PIL import Image

    with Image.open(data, formats=("PNG",)) as image:
        if image.mode not in _MODES[declared.dtype]:
            raise ValueError(f"its pixels are {image.mode!r}, expected {_MODES[declared.dtype][0]!r}")
        return np.asarray(image).astype(declared.dtype)


def _read_ray_depth(path: Path) -> StoredRows:
    """Depth as EgoWorld wrote it before there were columns: one archive, along the pixel's ray, which it does not say."""
    arrays: dict[str, Any] = read_npz(path)
    frames, values = arrays.get("frames", np.empty(0)), arrays.get("depth_mm", np.empty(0))
    check_rising(frames, f"{path}: frames")
    if values.dtype != np.uint16 or values.ndim != 3 or len(values) != len(frames):
        raise StoreError(f"{path}: depth_mm is {values.dtype} {list(values.shape)}, expected uint16 [{len(frames)}, H, W]")
    return StoredRows(frames, {"kind": "ray"}, values.__getitem__, str(path))
