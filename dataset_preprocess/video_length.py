"""Whether a file ends where its video does: a download that broke off can otherwise look like a shorter video."""

import os
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
_SYNC, _TAIL = 0x47, 1 << 20  # of a transport stream: each packet's first byte; bytes in which the last of a video are found


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


def ends_inside_packet(path: Path, pid: int) -> bool:
    """Whether a transport stream (ISO/IEC 13818-1, 2.4.3) ends before the last packet of its elementary stream ``pid`` does.

    The end of such a packet need not be told; but its last part rarely fills the 184 bytes that it has, and is then stuffed.
    """
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        data = file.read()
    for length in (188, 192, 204):  # plain, with a time code in front (Blu-ray, cameras), with error correction behind
        for start in range(min(length, len(data))):
            places = range(start, len(data), length)
            if len(places) > 4 and all(data[place] == _SYNC for place in places):
                whole = [data[place : place + 188] for place in places if place + 188 <= len(data)]
                mine = [part for part in whole if (part[1] & 0x1F) << 8 | part[2] == pid and part[3] & 0x10]
                torn = len(data) - places[-1] < 188
                return torn or (bool(mine) and not _stuffed(mine[-1]))
    return False


def _stuffed(part: bytes) -> bool:
    """Whether a transport packet's adaptation field holds more than its flags ask for."""
    if not part[3] & 0x20:
        return False
    length, flags = part[4], part[5]
    if length == 0:
        return True
    used = 1 + 6 * bool(flags & 0x10) + 6 * bool(flags & 0x08) + bool(flags & 0x04)
    for flag in (0x02, 0x01):  # private data and the extension tell their own lengths
        used += 1 + part[5 + used] if flags & flag and 5 + used < 188 else 0
    return length > used
