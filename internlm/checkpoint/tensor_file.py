"""Writing safetensors files in one pass: the bytes go to the disk and into their SHA-256 together.

The safetensors library reads these files. Its writer would have to be followed by a second reading for the sum, needs all tensors
in memory at once, and holds Python's lock while it writes, which would stop the training that a background save leaves running.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_BLOCK = 1 << 23  # bytes


@dataclass(frozen=True)
class Entry:
    """A tensor of a file; its values are fetched when their turn comes, so that one at a time is in memory."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    fetch: Callable[[], Tensor]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(path: Path, entries: Iterable[Entry]) -> str:
    """Write a safetensors file, flushed to the disk; returns its SHA-256. Raises OSError."""
    # Wide types first, as the library orders them: every tensor then begins at a multiple of its element's size.
    ordered = sorted(entries, key=lambda entry: (-entry.dtype.itemsize, entry.key))
    digest = hashlib.sha256()
    with path.open("wb") as file:
        header = _header(ordered)
        for block in (len(header).to_bytes(8, "little"), header):
            digest.update(block)
            file.write(block)
        for entry in ordered:
            values = memoryview(entry.fetch().detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
            for start in range(0, len(values), _BLOCK):
                digest.update(values[start : start + _BLOCK])
                file.write(values[start : start + _BLOCK])
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _header(entries: list[Entry]) -> bytes:
    header, end = {}, 0
    for entry in entries:
        start, end = end, end + entry.size
        header[entry.key] = {"dtype": NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)
