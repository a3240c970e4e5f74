"""The two kinds of files that hold a take's data: npz archives without pickle, and tars of a file a frame with an index."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from internlm.data.store.contract import StoreError, check_rising

MAX_ARCHIVE = 4 << 30  # bytes; the poses of ten hours are 0.5 GB
_ENDINGS = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"\x93NUMPY": "npy"}
IMAGES = ("jpg", "png")


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an archive; StoreError when it is damaged, holds objects or would unpack to more than any take has."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            size = sum(member.file_size for member in archive.zip.infolist())
            if size > MAX_ARCHIVE:
                raise ValueError(f"it would unpack to {size:,} bytes")
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and numpy each raise their own kinds for a damaged archive
        raise StoreError(f"{path}: cannot be read: {error}") from None


def read_tar_index(folder: Path, stem: str) -> tuple[np.ndarray, np.ndarray]:
    """Frame numbers int64 [F] of ``<stem>.tar``, and offset and length int64 [F, 2] of each image in it."""
    path, tar = folder / f"{stem}.idx.npy", folder / f"{stem}.tar"
    if not tar.is_file():
        raise StoreError(f"{tar}: is missing")
    try:
        with open(path, "rb") as file:
            table = np.lib.format.read_array(file, allow_pickle=False)
        size = tar.stat().st_size
    except Exception as error:  # numpy parses the header of a damaged file into errors of many kinds
        raise StoreError(f"{path}: cannot be read: {error}") from None
    if table.ndim != 2 or table.shape[1] != 3 or table.dtype != np.int64:
        raise StoreError(f"{path}: is {table.dtype} {list(table.shape)}, expected int64 [F, 3]")
    check_rising(table[:, 0], str(path))
    if len(table) and (table[:, 1:].min() < 0 or (table[:, 1] + table[:, 2]).max() > size):
        raise StoreError(f"{path}: points outside {tar.name} ({size} bytes)")
    return np.ascontiguousarray(table[:, 0]), table[:, 1:]


def write_tar(folder: Path, stem: str, where: str, frames: Iterable[tuple[int, bytes]], endings: tuple[str, ...] = IMAGES) -> int:
    """Write ``<stem>.tar`` and its index from encoded images or arrays, one by one; returns how many there were."""
    index = []
    with tarfile.open(folder / f"{stem}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, file_name, data in rising_frames(where, frames, endings):
            member = tarfile.TarInfo(file_name)
            member.size = len(data)
            index.append((number, tar.offset + tarfile.BLOCKSIZE, len(data)))
            tar.addfile(member, io.BytesIO(data))
    # Through memory: numpy writing to a file itself says nothing useful when the disk is full.
    table = io.BytesIO()
    np.save(table, np.array(index, np.int64).reshape(-1, 3))
    (folder / f"{stem}.idx.npy").write_bytes(table.getvalue())
    return len(index)


def rising_frames(
    where: str, frames: Iterable[tuple[int, bytes]], endings: tuple[str, ...] = IMAGES
) -> Iterable[tuple[int, str, bytes]]:
    """(number, file name, data) of files of these kinds whose numbers rise from 0; StoreError where they do not."""
    previous = -1
    for number, data in frames:
        if number <= previous:
            raise StoreError(f"{where}: frame {number} comes after frame {previous}; numbers must rise from 0")
        yield number, _frame_name(where, number, data, endings), data
        previous = number


def _frame_name(where: str, number: int, data: bytes, endings: tuple[str, ...]) -> str:
    for magic, ending in _ENDINGS.items():
        if data.startswith(magic) and ending in endings:
            return f"frame_{number:07d}.{ending}"
    raise StoreError(f"{where}: frame {number} is neither JPEG nor PNG")
