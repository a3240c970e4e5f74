"""What became of every take: one small JSON file per step and take, inside the store.

    manifest/<step>/<take>.json    {"status": "done" | "skipped" | "failed", "reason": ..., "settings": {...}, "facts": {...}}

A file of its own for each take lets any number of processes and machines record at the same time without a lock. Entries hold
no times and no host names: the manifest of a finished run is the same bytes whether the run was interrupted or not.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["done", "skipped", "failed"]
STATUSES = ("done", "skipped", "failed")


class ManifestError(Exception):
    """A manifest entry cannot be written or read; the message names the file."""


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
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")  # one process a take: the name of a killed one is used again
        try:
            text = json.dumps(asdict(entry), indent=1, sort_keys=True)
        except TypeError as error:
            raise ManifestError(f"{path}: facts and settings must be plain JSON values: {error}") from None
        try:
            temporary.write_text(text + "\n")
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def forget(self, name: str) -> None:
        """Remove the entry of a take, so that a half-done repetition never passes for the finished first run."""
        self._path(name).unlink(missing_ok=True)

    def names(self) -> Iterator[str]:
        """Takes with an entry, in order. Remains of killed writers are not among them."""
        if self.folder.is_dir():
            yield from sorted(p.stem for p in self.folder.iterdir() if p.suffix == ".json" and p.name[0] != ".")

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def parse_entry(data: bytes) -> Entry:
    """An entry from its file's bytes; ValueError when they are no entry."""
    values = json.loads(data)
    if not isinstance(values, dict) or values.get("status") not in STATUSES or not isinstance(values.get("reason", ""), str):
        raise ValueError("no manifest entry")
    parts = {key: values.get(key, {}) for key in ("settings", "facts")}
    if not all(isinstance(part, dict) for part in parts.values()):
        raise ValueError("settings or facts of the manifest entry are no objects")
    return Entry(values["status"], values.get("reason", ""), **parts)
