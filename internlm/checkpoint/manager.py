"""Checkpoints on disk: complete or absent, checked by their sums, readable without executing anything.

A checkpoint is the folder ``step_<step>`` holding one ``<part>.safetensors`` per part (predictor, observer, loss,
optimizer, rng), ``meta.json`` and ``checksums.sha256`` (``sha256sum -c`` reads it). It is written under a hidden
name, flushed to disk, and renamed: a kill at any instant leaves the folder whole or not there. Which one is the latest
follows from the folders themselves; no pointer file can disagree with them.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = Mapping[str, Tensor]

FORMAT = "egoagent-checkpoint"
VERSION = 1
META = "meta.json"
CHECKSUMS = "checksums.sha256"
_NAME = re.compile(r"step_(\d{9})")
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or none that is intact could be read."""


@dataclass(frozen=True)
class Checkpoint:
    """What was read: tensors by part and name, and the meta data given to ``save``."""

    path: Path
    step: int
    parts: dict[str, dict[str, Tensor]]
    meta: dict[str, Any]


class CheckpointManager:
    """Saves, prunes and loads the checkpoints of one folder.

    Args:
        folder: where the ``step_*`` folders live; created by the first save.
        keep_last: how many of the newest stay.
        keep_every: checkpoints whose step is a multiple also stay; 0 = none.
    """

    def __init__(self, folder: str | Path, *, keep_last: int = 2, keep_every: int = 0) -> None:
        self.folder, self.keep_last, self.keep_every = Path(folder), keep_last, keep_every

    def list(self) -> list[int]:
        """Steps of the checkpoints that are there, ascending."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match.group(1)) for match in found if match)

    def path(self, step: int) -> Path:
        """Folder of a step's checkpoint, whether or not it exists."""
        return self.folder / f"step_{step:09d}"

    def save(self, step: int, parts: Mapping[str, Tensors], meta: Mapping[str, Any]) -> Path:
        """Write a checkpoint, then remove those that need not be kept.

        ``meta`` must be JSON. Raises CheckpointError when the disk refuses; the earlier checkpoints are untouched then.
        """
        target = self.path(step)
        temporary = self.folder / f".writing_{target.name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            temporary.mkdir()
            _write(temporary, parts, {"format": FORMAT, "version": VERSION, "step": step} | dict(meta))
            self._publish(temporary, target)
        except (OSError, safetensors.SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            last = self.list()
            kept = f"the last good one is {self.path(last[-1])}" if last else "there is no earlier one"
            raise CheckpointError(f"checkpoint of step {step} could not be written to {self.folder}: {error}; {kept}") from error
        self._prune(step)
        return target

    def load(self, step: int | None = None, *, parts: Iterable[str] | None = None) -> Checkpoint | None:
        """Read the checkpoint of a step, or the newest intact one; None when the folder holds none.

        A damaged checkpoint is named loudly and the one before is read instead, unless a step was asked for.
        ``parts`` limits what is read (and checked) to those. Raises CheckpointError when nothing intact is left.
        """
        wanted = None if parts is None else tuple(parts)
        if step is not None:
            return read_checkpoint(self.path(step), wanted)
        steps = self.list()
        for candidate in reversed(steps):
            try:
                return read_checkpoint(self.path(candidate), wanted)
            except CheckpointError as error:
                log.error("DAMAGED CHECKPOINT, falling back to the one before: %s", error)
        if steps:
            raise CheckpointError(f"none of the {len(steps)} checkpoints in {self.folder} is intact; see the messages above")
        return None

    def _publish(self, temporary: Path, target: Path) -> None:
        replaced = self.folder / f".replaced_{target.name}"
        if target.exists():
            os.rename(target, replaced)
        os.rename(temporary, target)
        _sync(self.folder)
        shutil.rmtree(replaced, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        for pattern in (".writing_step_*", ".replaced_step_*", ".removed_step_*"):
            for path in self.folder.glob(pattern):
                # A kill between the two renames of a replacement leaves the old one hidden: bring it back.
                target = self.folder / path.name.removeprefix(".replaced_")
                if path.name.startswith(".replaced_") and not target.exists():
                    os.rename(path, target)
                else:
                    shutil.rmtree(path)

    def _prune(self, saved: int) -> None:
        # Later steps than the one just saved come from before a fallback; they are not this run's newest.
        steps = [step for step in self.list() if step <= saved]
        for step in steps[: -self.keep_last]:
            if not (self.keep_every and step % self.keep_every == 0):
                # Out of sight first: a kill during the removal must not leave half a checkpoint that looks whole.
                doomed = self.folder / f".removed_{self.path(step).name}"
                os.rename(self.path(step), doomed)
                shutil.rmtree(doomed, ignore_errors=True)


def read_checkpoint(path: str | Path, parts: Iterable[str] | None = None) -> Checkpoint:
    """Read one checkpoint folder, checking the sum of every file that is read.

    Raises CheckpointError naming the folder and the file that is missing or damaged.
    """
    path = Path(path)
    sums = _checksums(path)
    meta = json.loads(_checked(path, META, sums).read_bytes())
    if meta.get("format") != FORMAT or meta.get("version") != VERSION:
        found = f"{meta.get('format')} version {meta.get('version')}"
        raise CheckpointError(f"{path} is {found}, expected {FORMAT} version {VERSION}")
    names = [Path(name).stem for name in sums if name.endswith(".safetensors")] if parts is None else list(parts)
    files = {name: _checked(path, f"{name}.safetensors", sums) for name in names}
    tensors = {name: load_file(file) for name, file in files.items()}
    return Checkpoint(path, meta["step"], tensors, meta)


def find_checkpoint(path: str | Path, parts: Iterable[str] | None = None) -> Checkpoint:
    """Read a checkpoint given by a run folder, its ``checkpoints`` folder, or the ``step_*`` folder itself.

    Raises CheckpointError when there is none.
    """
    path = Path(path)
    if (path / CHECKSUMS).exists() or _NAME.fullmatch(path.name):
        return read_checkpoint(path, parts)
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found = CheckpointManager(folder).load(parts=parts)
    if found is None:
        raise CheckpointError(f"no checkpoint in {path}; expected a run folder, its 'checkpoints' folder or a 'step_*' folder")
    return found


def _write(folder: Path, parts: Mapping[str, Tensors], meta: Mapping[str, Any]) -> None:
    for name, tensors in parts.items():
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
    (folder / META).write_text(json.dumps(meta, indent=1))
    files = sorted(path for path in folder.iterdir())
    (folder / CHECKSUMS).write_text("".join(f"{_sha256(path)}  {path.name}\n" for path in files))
    for path in (*files, folder / CHECKSUMS, folder):
        _sync(path)


def _checksums(folder: Path) -> dict[str, str]:
    try:
        # Not splitlines: it takes other bytes for line ends, and a flipped one must not pass.
        *lines, rest = (folder / CHECKSUMS).read_bytes().decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder}: {CHECKSUMS} is missing or unreadable ({error})") from error
    matches = [_SUM_LINE.fullmatch(line) for line in lines]
    if not matches or not all(matches) or rest:
        raise CheckpointError(f"{folder}: {CHECKSUMS} is damaged")
    sums = {match.group(2): match.group(1) for match in matches if match}
    differing = sorted(sums.keys() ^ {file.name for file in folder.iterdir() if file.name != CHECKSUMS})
    if differing:
        raise CheckpointError(f"{folder}: its files and {CHECKSUMS} disagree about {', '.join(differing)}")
    return sums


def _checked(folder: Path, name: str, sums: Mapping[str, str]) -> Path:
    path = folder / name
    if name not in sums:
        raise CheckpointError(f"{folder}: {name} is missing")
    if _sha256(path) != sums[name]:
        raise CheckpointError(f"{folder}: {name} is damaged (its SHA-256 differs from {CHECKSUMS})")
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
