"""Putting a checkpoint folder together: the files of each process, then what makes them one checkpoint."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from internlm.core.boxes import Share
from internlm.core.files import sync

from .index import INDEX, META, SUFFIX, Place, key_of, parse_index
from .sums import sha256, write_sums
from .tensor_file import NAMES, Entry, write_tensors

Parts = Mapping[str, Mapping[str, Tensor | Share]]


@dataclass(frozen=True)
class Box:
    """A piece of a tensor that is to be written; ``fetch`` gives its values when their turn comes."""

    name: str
    whole: Place  # shape of the tensor
    offset: Place
    shape: Place
    dtype: torch.dtype
    fetch: Callable[[], Tensor]


@dataclass(frozen=True)
class Written:
    """What one process has written of a checkpoint; plain JSON, for the first one to put together."""

    sums: dict[str, str]  # of its files
    pieces: dict[str, dict[str, dict[str, Any]]]  # as in ``index.json``


def write_share(folder: Path, parts: Parts, rank: int, size: int) -> Written:
    """Write the files of one process of ``size``: what it holds and saves, all of a plain tensor. Raises OSError."""
    return write_boxes(folder, {part: _boxes(tensors) for part, tensors in parts.items()}, rank, size)


def write_boxes(folder: Path, parts: Mapping[str, Iterable[Box]], rank: int, size: int) -> Written:
    """Write the files of one process of ``size`` into a folder that exists, flushed to the disk. Raises OSError."""
    written = Written({}, {})
    for part, boxes in parts.items():
        file = f"{part}{SUFFIX}" if size == 1 else f"{part}-{rank:05d}-of-{size:05d}{SUFFIX}"
        entries, found = [], written.pieces.setdefault(part, {})
        for box in boxes:
            entries.append(Entry(key_of(box.name, box.offset, box.shape, box.whole), box.dtype, box.shape, box.fetch))
            about = found.setdefault(box.name, {"dtype": NAMES[box.dtype], "shape": list(box.whole), "pieces": []})
            about["pieces"].append([file, list(box.offset), list(box.shape)])
        if entries or rank == 0:  # a part without tensors is there all the same
            written.sums[file] = write_tensors(folder / file, entries)
    return written


def complete_folder(folder: Path, reports: Sequence[Written], meta: Mapping[str, Any]) -> None:
    """Add to the processes' files what makes them a checkpoint: index, meta data, sums. ValueError for gaps and overlaps."""
    sums = {name: found for report in reports for name, found in report.sums.items()}
    index: dict[str, dict[str, dict[str, Any]]] = {part: {} for report in reports for part in report.pieces}
    for report in reports:
        for part, tensors in report.pieces.items():
            for name, about in tensors.items():
                known = index[part].setdefault(name, about | {"pieces": []})
                known["pieces"] += about["pieces"]
    parse_index(index, set(sums))
    small = {META: json.dumps(meta, indent=1)} | ({INDEX: json.dumps(index)} if len(reports) > 1 else {})
    for name, text in small.items():
        (folder / name).write_text(text)
        sums[name] = sha256(folder / name)
    for path in (write_sums(folder, sums), *(folder / name for name in small), folder):
        sync(path)


def _boxes(tensors: Mapping[str, Tensor | Share]) -> Iterator[Box]:
    for name, held in tensors.items():
        share = held if isinstance(held, Share) else Share.whole(held)
        for piece in share.pieces if share.saved else ():
            tensor = piece.tensor
            yield Box(name, share.shape, piece.offset, tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor)
