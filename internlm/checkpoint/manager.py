"""Checkpoints on disk: complete or absent, checked by their sums, readable without executing anything, written by all processes.

A checkpoint is the folder ``step_<step>`` with ``meta.json``, ``checksums.sha256`` (``sha256sum -c`` reads it) and the parts
(predictor, observer, loss, optimizer, rng) as safetensors files. One process writes ``<part>.safetensors``. Of several, each
writes ``<part>-<rank>-of-<processes>.safetensors`` with the pieces it holds, and the first adds ``index.json`` (``index.py``).
The folder is written under a hidden name, flushed to disk, and renamed by the first process once all have said that theirs is
done: a kill at any instant leaves the folder whole or not there. Which one is the latest follows from the folders themselves; no
pointer file can disagree with them.

Why not ``torch.distributed.checkpoint``: its own format is unpickled on reading. Its Hugging Face writer is not, but knows only
DTensors: our tensor-parallel cuts are plain tensors, and the rows of a fused projection on one process are three boxes of the
whole, which no placement describes. It keeps no sums either. Boxes in safetensors files need less code than bringing these to it.
"""

import itertools
import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from internlm.core.collectives import ALONE, Group
from internlm.core.files import sync

from .index import INDEX, META, SUFFIX, Checkpoint, read_index
from .sums import CHECKSUMS, CheckpointError, check_files, read_sums
from .writing import Parts, Written, complete_folder, write_share

Result = TypeVar("Result")
Guard = Callable[[], None]  # raises where nothing may be written

FORMAT = "egoagent-checkpoint"
VERSION = 2
READABLE = (1, 2)  # 1 had one generator state for all processes
_WRITING, _REPLACED, _REMOVED = ".writing_", ".replaced_", ".removed_"
_NAME = re.compile(r"step_(\d{9})")

log = logging.getLogger(__name__)


class CheckpointManager:
    """Saves, prunes and loads the checkpoints of one folder.

    Args:
        folder: where the ``step_*`` folders live; created by the first save. All processes must see the same one.
        keep_last: how many of the newest stay.
        keep_every: checkpoints whose step is a multiple also stay; 0 = none.
        group: the processes that save and load together, which exchange what lies in main memory. ``save`` and ``load`` are
            collectives: all processes call them, and what fails on one raises on all.
        guard: called by the first process before it makes, moves or removes anything; raises where it must not.
    """

    def __init__(
        self, folder: str | Path, *, keep_last: int = 2, keep_every: int = 0, group: Group = ALONE, guard: Guard = lambda: None
    ) -> None:
        self.folder, self.keep_last, self.keep_every, self.group = Path(folder), keep_last, keep_every, group
        self._guard = guard
        self._stuck: set[str] = set()  # leftovers that have been named

    def list(self) -> list[int]:
        """Steps of the checkpoints that are there, ascending."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name.removeprefix(_REPLACED)) for path in self.folder.iterdir())
        return sorted({int(match.group(1)) for match in found if match})

    def path(self, step: int) -> Path:
        """Folder of a step's checkpoint, whether or not it exists."""
        visible = self._visible(step)
        replaced = visible.with_name(_REPLACED + visible.name)
        # A kill between the two renames of a replacement leaves the old one hidden, and it is whole.
        return replaced if replaced.is_dir() and not visible.is_dir() else visible

    def _visible(self, step: int) -> Path:
        return self.folder / f"step_{step:09d}"

    def save(self, step: int, parts: Parts, meta: Mapping[str, Any]) -> Path:
        """Write a checkpoint, then remove those that need not be kept.

        ``parts``: by part and name what this process holds; of a plain tensor, all of it. ``meta`` must be JSON and is taken
        from the first process. Raises CheckpointError when a disk refuses; the earlier checkpoints are untouched then.
        """
        return self.save_with(step, lambda folder: [write_share(folder, parts, self.group.rank, self.group.size)], meta)

    def save_with(self, step: int, write: Callable[[Path], Sequence[Written]], meta: Mapping[str, Any]) -> Path:
        """``save`` where ``write`` puts this process's files into a folder."""
        target = self._visible(step)
        temporary: Path | None = None
        first = self.group.rank == 0
        try:
            temporary = self.folder / self._together(lambda: self._open(target.name) if first else None)[0]
            reports = self._together(lambda: [vars(written) for written in write(temporary)])
            about = {"format": FORMAT, "version": VERSION, "step": step}
            self._together(lambda: self._complete(temporary, target, reports, about | dict(meta) | about) if first else None)
        except CheckpointError as error:
            if first and temporary:
                self._discard(temporary)
            last = self.list()
            kept = f"the last good one is {self.path(last[-1])}" if last else "there is no earlier one"
            raise CheckpointError(f"checkpoint of step {step} could not be written to {self.folder}: {error}; {kept}") from error
        if first:
            self._prune(step)
        return target

    def load(self, step: int | None = None, *, parts: Iterable[str] | None = None) -> Checkpoint | None:
        """Open the checkpoint of a step, or the newest intact one; None when the folder holds none.

        A damaged checkpoint is named loudly and the one before is taken instead, unless a step was asked for. Several
        processes share the reading of the sums and take the same checkpoint.
        ``parts`` limits what is checked and can be read to those. Raises CheckpointError when nothing intact is left.
        """
        wanted = None if parts is None else tuple(parts)
        if step is not None:
            return self.open(self.path(step), wanted)
        steps = json.loads(self.group.texts(json.dumps(self.list()))[0])
        self._check_shared(steps)
        for candidate in reversed(steps):
            try:
                return self.open(self.path(candidate), wanted)
            except CheckpointError as error:
                log.error("DAMAGED CHECKPOINT, falling back to the one before: %s", error)
        if steps:
            raise CheckpointError(f"none of the {len(steps)} checkpoints in {self.folder} is intact; see the messages above")
        return None

    def open(self, path: Path, parts: tuple[str, ...] | None = None) -> Checkpoint:
        """One checkpoint folder, whatever it is called; the processes share the reading of the sums. Raises CheckpointError."""
        found: list[Checkpoint] = []
        self._together(lambda: found.append(read_checkpoint(path, parts, slice(self.group.rank, None, self.group.size))))
        return found[0]

    def _check_shared(self, steps: Sequence[int]) -> None:
        """A folder that is not shared between machines must not look like damage."""
        seen = not steps or self.path(steps[-1]).is_dir()
        blind = [rank for rank, text in enumerate(self.group.texts(json.dumps(seen))) if text == "false"]
        if blind:
            gone = f"{self.path(steps[-1])} is not there for process {', '.join(map(str, blind))}"
            raise CheckpointError(f"{gone}; put it on a file system that all machines share")

    def _together(self, action: Callable[[], Result]) -> Sequence[Result]:
        """Every process's (JSON) result of its own action, on all of them; CheckpointError on all when one process fails."""
        result, failure = None, None
        try:
            result = action()
        except Exception as error:  # the others wait to hear of it, whatever it is
            failure = error
        reports = [json.loads(text) for text in self.group.texts(json.dumps([result, failure and str(failure)]))]
        if failure is not None and not isinstance(failure, (OSError, CheckpointError)):
            raise failure
        failed = [rank for rank, (_, message) in enumerate(reports) if message is not None]
        if failed:
            where = f"process {failed[0]}: " if self.group.size > 1 else ""
            raise CheckpointError(where + reports[failed[0]][1]) from failure
        return [result for result, _ in reports]

    def _open(self, name: str) -> str:
        """Make the hidden folder that a checkpoint is written to; returns its name."""
        self._guard()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()
        temporary = _free(self.folder / f"{_WRITING}{name}")
        temporary.mkdir()
        return temporary.name

    def _complete(self, temporary: Path, target: Path, reports: Sequence[Sequence[dict]], meta: Mapping[str, Any]) -> None:
        complete_folder(temporary, [Written(**written) for report in reports for written in report], meta)
        self._guard()
        replaced = self.folder / (_REPLACED + target.name)
        if target.exists():
            if replaced.exists():  # of an earlier replacement, and could not be removed
                self._discard(replaced)
                replaced = _free(replaced)
            os.rename(target, replaced)
        os.rename(temporary, target)
        sync(self.folder)
        if replaced.exists():
            self._discard(replaced)

    def _remove_leftovers(self) -> None:
        for path in [path for mark in (_WRITING, _REPLACED, _REMOVED) for path in self.folder.glob(f"{mark}step_*")]:
            target = self.folder / path.name.removeprefix(_REPLACED)
            if _NAME.fullmatch(target.name) and not target.exists():  # see ``path``
                try:
                    os.rename(path, target)
                except OSError as error:
                    self._name_stuck(path, error)
            else:
                self._discard(path)

    def _prune(self, saved: int) -> None:
        # Later steps than the one just saved come from before a fallback; they are not this run's newest.
        steps = [step for step in self.list() if step <= saved]
        for step in steps[: -self.keep_last]:
            path = self.path(step)
            if self.keep_every and step % self.keep_every == 0:
                continue
            try:
                if not path.stat().st_mode & stat.S_IWUSR:
                    raise PermissionError("write protected")
                self._discard(path)
            except OSError as error:
                self._name_stuck(path, error)

    def _discard(self, path: Path) -> None:
        """Remove a folder, or as much of it as goes. What stays costs room and a warning, never the save that is under way.

        On NFS a file that somebody reads lives on as ``.nfs…`` until it is closed; a later save removes it then.
        """
        try:
            if not path.name.startswith(_REMOVED):
                # Out of sight first: a kill during the removal must not leave half a checkpoint that looks whole.
                doomed = _free(path.with_name(_REMOVED + path.name.removeprefix(_REPLACED).removeprefix(_WRITING)))
                os.rename(path, doomed)
                path = doomed
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            shutil.rmtree(path, ignore_errors=True)
            if path.exists():
                self._name_stuck(path, "in use, or not ours to remove: " + ", ".join(sorted(os.listdir(path))[:3]))
        except OSError as error:
            self._name_stuck(path, error)

    def _name_stuck(self, path: Path, why: object) -> None:
        if path.name not in self._stuck:
            self._stuck.add(path.name)
            log.warning("%s could not be removed and stays (%s); later saves try again", path, why)


def read_checkpoint(path: Path, parts: Iterable[str] | None = None, checked: slice = slice(None)) -> Checkpoint:
    """Open one checkpoint folder, checking the sum of every file of the wanted parts, or of some of them: ``checked``, in the
    order of their names.

    Raises CheckpointError naming the folder and the file that is missing or damaged.
    """
    parts = None if parts is None else tuple(parts)
    sums = read_sums(path)
    small = [name for name in (META, INDEX) if name in sums or name == META]
    check_files(path, small, sums)
    try:
        meta = json.loads((path / META).read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {META} cannot be read ({error})") from error
    if meta.get("format") != FORMAT or meta.get("version") not in READABLE:
        found = f"{meta.get('format')} version {meta.get('version')}"
        raise CheckpointError(f"{path} is {found}, expected {FORMAT} version {' or '.join(map(str, READABLE))}")
    # The headers of tensor files that are their own index are read before their sums; what they say is believed after.
    index = read_index(path, sorted(sums))
    for name in set(parts or ()) - index.keys():
        raise CheckpointError(f"{path}: {name}{SUFFIX} is missing; the checkpoint has {', '.join(index) or 'no parts'}")
    there = tuple(index)
    if parts is not None:
        index = {name: index[name] for name in parts}
    files = sorted(name for name in sums if name.endswith(SUFFIX) and (parts is None or _part_of(name) in parts))
    check_files(path, files[checked], sums)
    return Checkpoint(path, meta["step"], meta, index, there)


def find_checkpoint(path: str | Path, parts: Iterable[str] | None = None, group: Group = ALONE) -> Checkpoint:
    """Open a checkpoint given by a run folder, its ``checkpoints`` folder, or the ``step_*`` folder itself.

    A ``group`` calls together: it takes the same checkpoint, and each file's sum is read by one process. Raises CheckpointError
    when there is none.
    """
    path, parts = Path(path), None if parts is None else tuple(parts)
    if json.loads(group.texts(json.dumps(is_checkpoint(path)))[0]):  # one answer, also where a machine does not see the folder
        return CheckpointManager(path.parent, group=group).open(path, parts)
    found = CheckpointManager(checkpoints_of(path), group=group).load(parts=parts)
    if found is None:
        raise CheckpointError(f"no checkpoint in {path}; expected a run folder, its 'checkpoints' folder or a 'step_*' folder")
    return found


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a ``step_*`` folder rather than one that holds several."""
    return (path / CHECKSUMS).exists() or _NAME.fullmatch(path.name) is not None


def checkpoints_of(path: Path) -> Path:
    """The folder of ``step_*`` folders of a run folder; any other folder itself."""
    return path / "checkpoints" if (path / "checkpoints").is_dir() else path


def _free(path: Path) -> Path:
    """The path, or the first of ``<path>.1``, ``<path>.2``, … that is not there."""
    names = (path.with_name(f"{path.name}.{number}" if number else path.name) for number in itertools.count())
    return next(name for name in names if not os.path.lexists(name))


def _part_of(file: str) -> str:
    return re.sub(r"-\d{5}-of-\d{5}", "", file.removesuffix(SUFFIX))


__all__ = ["Checkpoint", "CheckpointError", "CheckpointManager", "find_checkpoint", "read_checkpoint"]
