"""Where the tensors of a checkpoint lie: whole in ``<part>.safetensors``, or in pieces in the files of several processes.

A folder that one process wrote is its own index. One that several wrote has ``index.json``:
``{part: {tensor: {"dtype", "shape", "pieces": [[file, offset, shape], …]}}}``, where the pieces are boxes that cover the tensor
exactly once. A piece is called ``<tensor>`` in its file where it is the whole tensor and ``<tensor>@<offset>`` otherwise.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from internlm.core.boxes import Share, overlap

from .sums import CheckpointError
from .tensor_file import DTYPES

INDEX = "index.json"
META = "meta.json"
SUFFIX = ".safetensors"
Place = tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """A tensor on disk."""

    dtype: torch.dtype
    shape: Place
    pieces: tuple[tuple[str, Place, Place], ...]  # file, offset, shape

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


Index = Mapping[str, Mapping[str, Stored]]


@dataclass(frozen=True)
class Checkpoint:
    """An intact checkpoint; tensors are read when they are asked for."""

    path: Path
    step: int
    meta: dict[str, Any]
    index: Index  # of the parts that were asked for
    there: tuple[str, ...]  # all parts

    @property
    def parts(self) -> Mapping[str, dict[str, Tensor]]:
        """Whole tensors by part and name, however they are stored; each access to a part reads it from the disk."""
        return _Parts(self)

    def check(self, part: str, shares: Mapping[str, Share], *, exact: bool = True) -> None:
        """Raise CheckpointError unless the part has these tensors in these shapes; ``exact``: and no others."""
        stored = self.index.get(part, {})
        wrong = sorted(stored.keys() ^ shares.keys() if exact else shares.keys() - stored.keys())
        if wrong:
            where = "checkpoint" if wrong[0] in stored else "model"
            differ = f"{len(wrong)} tensors differ: {wrong[0]} is in the {where} only"
            raise CheckpointError(f"{self.path}: part {part} belongs to another model, {differ}")
        for name, share in shares.items():
            if stored[name].shape != share.shape:
                shapes = f"has shape {stored[name].shape}, the model's is {share.shape}"
                raise CheckpointError(f"{self.path}: {part}.{name} {shapes}; the 'model' sections of the two configs must agree")

    def fill(self, part: str, shares: Mapping[str, Share], *, exact: bool = True) -> None:
        """Read this process's pieces of a part into their memory; no more than these is read."""
        self.check(part, shares, exact=exact)
        with _Reader(self.path) as reader, torch.no_grad():
            for name, share in shares.items():
                for piece in share.pieces:
                    reader.fill(name, self.index[part][name], piece.offset, piece.tensor)

    def box(self, part: str, name: str, offset: Place, shape: Place) -> Tensor:
        """A box of one tensor."""
        stored = self.index[part][name]
        with _Reader(self.path) as reader:
            return reader.box(name, stored, offset, shape)


class _Parts(Mapping):
    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __getitem__(self, part: str) -> dict[str, Tensor]:
        with _Reader(self._checkpoint.path) as reader:
            return {name: reader.whole(name, stored) for name, stored in self._checkpoint.index[part].items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._checkpoint.index)

    def __len__(self) -> int:
        return len(self._checkpoint.index)


class _Reader(ExitStack):
    """Slices of a folder's files; each file is opened once."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._files: dict[str, Any] = {}

    def box(self, name: str, stored: Stored, offset: Place, shape: Place) -> Tensor:
        tensor = torch.empty(shape, dtype=stored.dtype)
        self.fill(name, stored, offset, tensor)
        return tensor

    def whole(self, name: str, stored: Stored) -> Tensor:
        return self.box(name, stored, (0,) * len(stored.shape), stored.shape)

    def fill(self, name: str, stored: Stored, offset: Place, target: Tensor) -> None:
        for file, start, shape in stored.pieces:
            if met := overlap(offset, target.shape, start, shape):
                ours, theirs = met
                try:
                    values = self._file(file).get_slice(key_of(name, start, shape, stored.shape))[theirs]
                except (OSError, safetensors.SafetensorError) as error:
                    raise CheckpointError(f"{self.folder}: {file} does not hold what it should of {name} ({error})") from error
                target[ours].copy_(values)

    def _file(self, name: str) -> Any:
        if name not in self._files:
            self._files[name] = self.enter_context(safetensors.safe_open(self.folder / name, "pt"))
        return self._files[name]


def key_of(name: str, offset: Place, shape: Place, whole: Place) -> str:
    """What a piece of a tensor is called in its file."""
    return name if tuple(shape) == tuple(whole) else f"{name}@{','.join(map(str, offset))}"


def read_index(folder: Path, files: list[str]) -> dict[str, dict[str, Stored]]:
    """The index of a folder with these files. Raises CheckpointError where it is not what this module describes."""
    if INDEX in files:
        try:
            return parse_index(json.loads((folder / INDEX).read_bytes()), set(files))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{folder}: {INDEX} is not a valid index ({type(error).__name__}: {error})") from error
    return {name.removesuffix(SUFFIX): _headers(folder, name) for name in sorted(files) if name.endswith(SUFFIX)}


def parse_index(content: Mapping[str, Any], files: set[str]) -> dict[str, dict[str, Stored]]:
    """The content of ``index.json``. Raises ValueError for a foreign file and for pieces that do not cover their tensor once."""
    index: dict[str, dict[str, Stored]] = {}
    for part, tensors in content.items():
        index[part] = {}
        for name, entry in tensors.items():
            pieces = tuple((str(file), tuple(offset), tuple(shape)) for file, offset, shape in entry["pieces"])
            stored = Stored(DTYPES[entry["dtype"]], tuple(entry["shape"]), pieces)
            covered = sum(math.prod(shape) for _, _, shape in pieces)
            if covered != math.prod(stored.shape):
                raise ValueError(f"the pieces of {part}.{name} have {covered} values, the tensor {math.prod(stored.shape)}")
            if foreign := {file for file, _, _ in pieces} - files:
                raise ValueError(f"{part}.{name} lies in {sorted(foreign)[0]}, which is not there")
            index[part][name] = stored
    return index


def _headers(folder: Path, file: str) -> dict[str, Stored]:
    try:
        with safetensors.safe_open(folder / file, "pt") as opened:
            slices = {key: opened.get_slice(key) for key in opened.keys()}
            shapes = {key: tuple(found.get_shape()) for key, found in slices.items()}
            return {
                key: Stored(DTYPES[found.get_dtype()], shapes[key], ((file, (0,) * len(shapes[key]), shapes[key]),))
                for key, found in slices.items()
            }
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{folder}: {file} is not a readable tensor file ({error})") from error
