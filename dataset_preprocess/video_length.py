"""Whether a file is as long as it says itself: a download that broke off can otherwise look like a shorter video."""

import os
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"


def bytes_missing(path: Path) -> int:
    """Bytes that an AVI, Matroska or WebM file announces beyond its end; 0 for other files and where the file does not say.

    mp4 announces its frames instead; a transport stream announces nothing.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        kind = file.read(4)
        if kind == b"RIFF":
            return max(0, _riff_end(file, size) - size)
        if kind == _EBML:
            return max(0, (_matroska_end(file) or 0) - size)
    return 0


def _riff_end(file: BinaryIO, size: int) -> int:
    """Where the last RIFF chunk ends. A large AVI has several; a length of 0 or of ones was never filled in."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or length in (0, 0xFFFFFFFF):
            return 0
        place += 8 + length + length % 2
    return place - (place - size == 1)  # the last byte of padding may be left out


def _matroska_end(file: BinaryIO) -> int | None:
    """Where the segment ends; None when its length is not told, as in a live recording."""
    header = _length(file)
    if header is None:
        return None
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return None
    length = _length(file)
    return None if length is None else file.tell() + length


def _length(file: BinaryIO) -> int | None:
    """EBML's number of 1 to 8 bytes: leading zeros of the first byte tell how many (RFC 8794, section 4); all ones is unknown."""
    first = file.read(1)
    if not first or first == b"\0":
        return None
    extra = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> extra)]) + file.read(extra), "big")
    return None if value == (1 << 7 * (extra + 1)) - 1 else value
