"""Extracted features on disk, found again by what decides them: network, images, view, precision and batches."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from internlm.core.collectives import rank
from internlm.core.files import written
from internlm.data.frames import ImageFolder, ImageSource, ImageSubset, JoinedImages, StoreImages

from .encoders import Encoder
from .ranks import from_first

VERSION = 2  # of what an encoder computes: raised when the view or a feature changes its meaning

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """One encoder's features of a source."""

    values: dict[str, Tensor]  # by name: float32 [N, D]
    rows: Tensor  # int64 [N], index in the source
    unreadable: int


class FeatureCache:
    """Of some rows of a source in a folder of ``<key>.safetensors``, one for each encoder. Deleting any of them is safe.

    The key is a SHA-256 of the encoder's identity (for a network the hash of its config and weights, the feature and the
    precision), of the images (names, sizes and times of change of the files), of the rows, the image size and the batches.
    """

    def __init__(self, folder: Path, source: ImageSource, rows: np.ndarray, image_size: int, batch_size: int):
        chosen = hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()
        self.folder, self.source, self._about = folder, source, [fingerprint(source), chosen, image_size, batch_size]

    def find(self, encoders: list[Encoder]) -> dict[str, Stored]:
        """Stored features by the first name of their encoder, on all processes (tensors only on process 0)."""
        found = {}
        for item in encoders:
            if item.identity is None:
                continue
            path = self._path(item)
            unreadable = from_first(lambda path=path, item=item: self._unreadable(path, item.names))
            if unreadable is not None:
                log.info("features of %s from %s", ", ".join(item.names), path)
                found[item.names[0]] = self._read(path, item.names, unreadable)
        return found

    def keep(self, encoders: list[Encoder], features: dict[str, Stored]) -> None:
        """Write features (process 0), each file whole or not at all."""
        for item in encoders:
            if rank() or item.identity is None:
                continue
            stored = features[item.names[0]]
            about = {"identity": item.identity, "unreadable": str(stored.unreadable), "first_image": self.source.name(0)}
            tensors = {f"feature {name}": value.contiguous() for name, value in stored.values.items()}
            with written(self._path(item)) as temporary:
                save_file(tensors | {"rows": stored.rows}, temporary, about)

    def _path(self, item: Encoder) -> Path:
        parts = [VERSION, torch.__version__, item.identity, *self._about]
        return self.folder / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]}.safetensors"

    @staticmethod
    def _unreadable(path: Path, names: tuple[str, ...]) -> int | None:
        """Unreadable images of a stored file; None when it is not there or damaged, which is said."""
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                for name in names:
                    file.get_slice(f"feature {name}")
                return int(file.metadata()["unreadable"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            log.warning("cached features %s are damaged (%s); they are computed again", path, error)
            return None

    @staticmethod
    def _read(path: Path, names: tuple[str, ...], unreadable: int) -> Stored:
        if rank():
            return Stored({name: torch.empty(0, 0) for name in names}, torch.empty(0, dtype=torch.int64), unreadable)
        with safe_open(path, "pt") as file:
            values = {name: file.get_tensor(f"feature {name}") for name in names}
            return Stored(values, file.get_tensor("rows"), unreadable)


def fingerprint(source: ImageSource) -> str:
    """SHA-256 over the files behind a source: names, sizes and times of change, and which frames of them it shows."""
    digest = hashlib.sha256()
    _add(digest, source)
    return digest.hexdigest()


def _add(digest, source: ImageSource) -> None:
    if isinstance(source, JoinedImages):
        for part in source.sources:
            _add(digest, part)
    elif isinstance(source, StoreImages):
        for take, frames in zip(source.takes, source.frames, strict=True):
            digest.update(np.ascontiguousarray(frames).tobytes())
            for path in sorted(take.path.glob("frames*")) + sorted(take.path.glob("frames/*")):
                _add_file(digest, path)
    elif isinstance(source, ImageFolder):
        for row in range(len(source)):
            _add_file(digest, Path(source.name(row)))
    elif isinstance(source, ImageSubset):
        digest.update(np.ascontiguousarray(source.rows).tobytes())
        _add(digest, source.source)
    else:
        raise TypeError(f"a {type(source).__name__} has no files to tell it by; extract without a cache")


def _add_file(digest, path: Path) -> None:
    about = path.stat()
    digest.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
