"""A checkpoint in another layout: whole tensors, or pieces in the files of so many processes."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from .index import Checkpoint
from .lock import new_folder
from .manager import CheckpointManager, read_checkpoint
from .sums import CheckpointError
from .writing import Box, write_boxes


def convert_checkpoint(source: Checkpoint, out: str | Path, *, files: int = 1) -> Path:
    """Write ``out/step_<step>`` with every part in one file, or by rows in several, and compare it with the source bit by bit.

    One tensor is in memory at a time. Meta data stay as they are. Raises FileExistsError when ``out`` is not empty,
    CheckpointError when the disk refuses, RunLockError where another process fills ``out``.
    """
    out = Path(out)

    def write(folder: Path):
        return [
            write_boxes(folder, {part: _boxes(source, part, number, files) for part in source.index}, number, files)
            for number in range(files)
        ]

    with new_folder(out):
        path = CheckpointManager(out).save_with(source.step, write, source.meta)
        _compare(source, read_checkpoint(path))
    return path


def _boxes(source: Checkpoint, part: str, number: int, files: int) -> Iterator[Box]:
    for place, (name, stored) in enumerate(source.index[part].items()):
        offset, shape = (0,) * len(stored.shape), stored.shape
        if shape and shape[0] >= files:
            rows = [length * shape[0] // files for length in (number, number + 1)]
            offset, shape = (rows[0], *offset[1:]), (rows[1] - rows[0], *shape[1:])
        elif place % files != number:
            continue
        yield Box(name, stored.shape, offset, shape, stored.dtype, partial(source.box, part, name, offset, shape))


def _compare(first: Checkpoint, second: Checkpoint) -> None:
    for part, tensors in first.index.items():
        for name, stored in tensors.items():
            other = second.index[part][name]
            whole = (0,) * len(stored.shape), stored.shape
            values = [checkpoint.box(part, name, *whole).reshape(-1).view(torch.uint8) for checkpoint in (first, second)]
            same = (stored.dtype, stored.shape) == (other.dtype, other.shape)
            if not (same and torch.equal(*values)):
                raise CheckpointError(f"{second.path}: {part}.{name} differs from {first.path}; disk or memory is at fault")
