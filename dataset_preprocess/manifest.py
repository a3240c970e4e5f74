"""What became of every take: one small JSON file per step and take, inside the store.

    manifest/<step>/<take>.json    {"status": "done" | "skipped" | "failed", "reason": ..., "settings": {...}, "facts": {...}}

A file of its own for each take lets any number of processes and machines record at the same time without a lock. Entries hold
no times and no host names: the manifest of a finished run is the same bytes whether the run was interrupted or not.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from internlm.core.files import write_text
from internlm.data.store.contract import StoreError
from internlm.data.store.foreign import is_foreign
from internlm.data.store.joining import parts_of

Status = Literal["done", "skipped", "failed"]
STATUSES = ("done", "skipped", "failed")
REFUSED = "refused"  # among the facts of a failed entry: another command wrote the take, and nothing of it was changed


@dataclass(frozen=True)
class Entry:
    """What became of one take. facts: what the work returned; settings: what decides about the bytes of its result."""

    status: Status
    reason: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Manifest:
    """The entries of one step of the preprocessing (``frames``, ``poses``, ...) in one store."""

    def __init__(self, store: Path, step: str):
        self.folder = Path(store) / "manifest" / step

    def read(self, name: str) -> Entry | None:
        """The entry of a take, None when there is none. A damaged entry counts as none: its take is simply done again."""
        try:
            return parse_entry(self._path(name).read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):
            return None

    def write(self, name: str, entry: Entry) -> None:
        """Record what became of a take; complete or not at all, also when the process is killed."""
        path = self._path(name)
        try:
            text = json.dumps(asdict(entry), indent=1, sort_keys=True)
        except TypeError as error:
            raise StoreError(f"{path}: facts and settings must be plain JSON values: {error}") from None
        write_text(path, text + "\n")

    def forget(self, name: str) -> None:
        """Remove the entry of a take, so that a half-done repetition never passes for the finished first run."""
        self._path(name).unlink(missing_ok=True)

    def names(self) -> Iterator[str]:
        """Takes with an entry, in order. Remains of killed writers are not among them."""
        if self.folder.is_dir():
            yield from sorted(p.stem for p in self.folder.iterdir() if p.suffix == ".json" and p.name[0] != ".")

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def steps(store: Path) -> list[str]:
    """The steps that have a manifest in a store, in order."""
    folder = Path(store) / "manifest"
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_foreign(p.name)) if folder.is_dir() else []


def takes_of(name: str, entry: Entry) -> list[str]:
    """Takes that an entry stands for: those it lists, else the one of its name; none where it only says how many."""
    made = entry.facts.get("takes", 1)
    if made == 1:
        return [name]
    return [str(take) for take in made] if isinstance(made, list) else []


def lost_parts(store: Path, name: str, entry: Entry) -> dict[str, str]:
    """take -> what an entry that says done claims of it and the store lacks: "the take", "frames", "poses"."""
    lost = {}
    claimed = {part for part in ("frames", "poses") if isinstance(n := entry.facts.get(part), int) and n > 0}
    for take in takes_of(name, entry) if entry.status == "done" else ():
        folder = Path(store) / "takes" / take
        if not (folder / "take.json").is_file():
            lost[take] = "the take"
        elif missing := sorted(claimed - parts_of(folder)):
            lost[take] = " and ".join(missing)
    return lost


def disown(store: Path, step: str, takes: Collection[str]) -> None:
    """Say in the other steps' entries that what they made of these takes is no more: ``step`` replaced it, as it was asked to."""
    for other in steps(store):
        manifest = Manifest(store, other)
        for name in manifest.names() if other != step else ():
            entry = manifest.read(name)
            gone = sorted(set(takes_of(name, entry)) & set(takes)) if entry and entry.status == "done" else []
            if gone:
                reason = f"its take {gone[0]!r} was replaced by step {step} (--replace)"
                manifest.write(name, Entry("skipped", reason, entry.settings))


def parse_entry(data: bytes) -> Entry:
    """An entry from its file's bytes; ValueError when they are no entry."""
    values = json.loads(data)
    if not isinstance(values, dict) or values.get("status") not in STATUSES or not isinstance(values.get("reason", ""), str):
        raise ValueError("no manifest entry")
    parts = {key: values.get(key, {}) for key in ("settings", "facts")}
    if not all(isinstance(part, dict) for part in parts.values()):
        raise ValueError("settings or facts of the manifest entry are no objects")
    return Entry(values["status"], values.get("reason", ""), **parts)
