"""One job of a preprocessing run: whether an earlier run has settled it, doing it, and recording what became of it."""

import traceback
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dataset_preprocess.manifest import REFUSED, Entry, Manifest, disown, lost_parts, takes_of
from internlm.core.errors import UserError
from internlm.data.store import DiskFullError, StoreError, StoreWriter, TakeConflict, TakeStore

_INPUT = "input"  # of an entry's settings: the file that the take was made from
_END = 1 << 16  # bytes


class Job(Protocol):
    """A picklable description of one take's work (a frozen dataclass is best); ``name`` is the take's name."""

    @property
    def name(self) -> str: ...


class SkipTake(Exception):
    """Raised by ``work``: there is nothing to make of this take, and the message says why. Not a failure; tried again later."""


class Outcome(NamedTuple):
    """What became of a job. kept: by an earlier run. stop: no other job can succeed either. standing: what the manifest goes on
    saying of a take that was refused, since nothing of it was changed."""

    entry: Entry
    kept: bool = False
    stop: bool = False
    standing: Entry | None = None


@dataclass(frozen=True)
class Attempt:
    """Does one job and records what became of it; never raises."""

    work: Callable[[Any], dict]
    out: Path
    step: str
    settings: dict[str, Any] = field(default_factory=dict)
    force: bool = False
    replace: bool = False

    def __call__(self, job: Job) -> Outcome:
        return self.earlier(job) or self.record(job, self._do(job))

    def earlier(self, job: Job) -> Outcome | None:
        """The job's outcome when an earlier run has settled it, else None."""
        entry = None if self.force else Manifest(self.out, self.step).read(job.name)
        if entry is None or entry.status != "done" or not self._exists(job, entry):
            return None
        was, now = dict(entry.settings), self._settings(job)
        was_input, now_input = was.pop(_INPUT, None), now.pop(_INPUT, None)
        if was != now:
            changed = _differences(was, now)
            return Outcome(Entry("failed", f"was made with other settings ({changed}); --force makes it again"))
        if was_input and now_input and was_input != now_input:
            files = f"{_of_bytes(was_input)}, now {_of_bytes(now_input)}"
            way_out = "rename one of them, or --force makes it again from this one"
            return Outcome(Entry("failed", f"was made from another file of that name ({files}); {way_out}"))
        return Outcome(entry, kept=True)

    def record(self, job: Job, outcome: Outcome) -> Outcome:
        """Write the outcome into the manifest. A disk too full even for that changes nothing: the take counts as missing."""
        try:
            if outcome.entry.status != "done" and TakeStore.is_store(self.out):
                StoreWriter(self.out).discard(job.name)
            Manifest(self.out, self.step).write(job.name, outcome.standing or outcome.entry)
        except OSError as error:
            return Outcome(Entry("failed", outcome.entry.reason or f"the manifest cannot be written: {error}"), stop=outcome.stop)
        except StoreError as error:
            return Outcome(Entry("failed", str(error)))
        return outcome

    def disown(self, done: Mapping[str, Mapping[str, Any]]) -> None:
        """After a run with --replace: what other steps made of the takes of these jobs is no more."""
        if self.replace and TakeStore.is_store(self.out):
            entries = {name: Entry("done", facts=facts) for name, facts in done.items()}
            disown(self.out, self.step, {take for name, entry in entries.items() for take in takes_of(name, entry)})

    def _do(self, job: Job) -> Outcome:
        manifest, settings = Manifest(self.out, self.step), self.settings
        standing = manifest.read(job.name)
        try:
            settings = self._settings(job)
            manifest.forget(job.name)
            facts = self.work(job, anew=True) if self.replace else self.work(job)
            return Outcome(Entry("done", "", settings, facts))
        except SkipTake as skip:
            return Outcome(Entry("skipped", str(skip), settings))
        except TakeConflict as error:
            if standing is None or standing.status != "done":
                return Outcome(Entry("failed", str(error), settings, {REFUSED: True}))
            whole = takes_of(job.name, standing) == [job.name]  # of several takes, some may have been written before
            return Outcome(Entry("failed", str(error), settings), standing=standing if whole else None)
        except Exception as error:
            return Outcome(Entry("failed", _reason(error), settings), stop=isinstance(error, DiskFullError))

    def _settings(self, job: Job) -> dict[str, Any]:
        """The run's settings and, for a job with a ``path`` that is there, which file that is."""
        path = getattr(job, "path", None)
        try:
            return {**self.settings, **({_INPUT: _identity(path)} if isinstance(path, Path) and path.is_file() else {})}
        except OSError:  # the work will say why it cannot be read
            return dict(self.settings)

    def _exists(self, job: Job, entry: Entry) -> bool:
        """Whether what the entry claims is still there. Work that writes no store is believed."""
        return not TakeStore.is_store(self.out) or not lost_parts(self.out, job.name, entry)


def _reason(error: Exception) -> str:
    """The message of an error that is meant for users; of any other also where it happened."""
    if isinstance(error, UserError | OSError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"ran out of memory: use fewer --workers or a machine with more ({error})"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"unexpected {type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"


def _identity(path: Path) -> dict[str, Any]:
    """Which file this is, cheaply: name, size, and a checksum of both ends."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        ends = file.read(_END)
        if size > _END:
            file.seek(max(_END, size - _END))
            ends += file.read(_END)
    return {"file": path.name, "bytes": size, "crc32_of_ends": zlib.crc32(ends)}


def _of_bytes(identity: Any) -> str:
    return f"{identity.get('file')} of {identity.get('bytes')} bytes" if isinstance(identity, dict) else repr(identity)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return ", ".join(f"{key} {old.get(key)!r}, now {new.get(key)!r}" for key in keys)
