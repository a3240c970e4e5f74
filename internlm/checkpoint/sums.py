"""The list of SHA-256 sums of a checkpoint folder: what must be there, byte for byte. ``sha256sum -c`` reads it."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from internlm.core.errors import UserError

CHECKSUMS = "checksums.sha256"
# A checkpoint's own files. Everything else in the folder is somebody else's: a desktop's, a file server's, a note.
_OWN = re.compile(r"(meta|index)\.json|(predictor|observer|loss|optimizer|rng)(-\d{5}-of-\d{5})?\.safetensors")
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
_BLOCK = 1 << 22  # bytes


class CheckpointError(UserError):
    """A checkpoint could not be written, or none that is intact could be read."""


def write_sums(folder: Path, sums: Mapping[str, str]) -> Path:
    """Write the list of {file name: sum}; returns its path."""
    path = folder / CHECKSUMS
    path.write_text("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
    return path


def read_sums(folder: Path) -> dict[str, str]:
    """{file name: sum}. Raises CheckpointError where the list is damaged, or it and the checkpoint's own files disagree.

    Foreign files (``.DS_Store``, ``.nfs…``, notes) are no part of the checkpoint: neither read nor a fault.
    """
    try:
        # Not splitlines: it takes other bytes for line ends, and a flipped one must not pass.
        *lines, rest = (folder / CHECKSUMS).read_bytes().decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder}: {CHECKSUMS} is missing or unreadable ({error})") from error
    matches = [_LINE.fullmatch(line) for line in lines]
    if not matches or not all(matches) or rest:
        raise CheckpointError(f"{folder}: {CHECKSUMS} is damaged")
    sums = {match.group(2): match.group(1) for match in matches if match}
    there = {entry.name for entry in folder.iterdir()}
    differing = sorted((sums.keys() - there) | {name for name in there - sums.keys() if _OWN.fullmatch(name)})
    if differing:
        raise CheckpointError(f"{folder}: its files and {CHECKSUMS} disagree about {', '.join(differing)}")
    return sums


def check_files(folder: Path, names: Iterable[str], sums: Mapping[str, str]) -> None:
    """Read files to the last byte. Raises CheckpointError naming the first that is missing or damaged."""
    for name in names:
        if name not in sums:
            raise CheckpointError(f"{folder}: {name} is missing")
        try:
            found = sha256(folder / name)
        except OSError as error:
            raise CheckpointError(f"{folder}: {name} cannot be read ({error})") from error
        if found != sums[name]:
            raise CheckpointError(f"{folder}: {name} is damaged (its SHA-256 differs from {CHECKSUMS})")


def sha256(path: Path) -> str:
    """Sum of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
