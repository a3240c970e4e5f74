"""What became of the takes of a run, for people."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

SHOWN = 20


@dataclass
class Summary:
    """What became of every job, by take name. kept = done by an earlier run; submitted = left to a job array."""

    step: str = ""
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    submitted: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or 1 when any take failed."""
        return int(bool(self.failed))

    def print(self, file: TextIO | None = None) -> None:
        """The counts, the sums of what was made, and each reason once with its takes."""
        file = file or sys.stdout
        for word, reasons in (("skipped", self.skipped), ("failed", self.failed)):
            for reason, names in _by_reason(reasons):
                print(f"  {word:<8}{listed(names, SHOWN)}: {reason}", file=file)
        became = {word: len(getattr(self, word)) for word in ("done", "kept", "skipped", "failed", "submitted")}
        told = [f"{count} {word}" for word, count in became.items() if count or word in ("done", "failed")]
        made = Counter()
        for facts in self.done.values():
            made.update(counts(facts))
        sums = "".join(f"; {total:,} {key}" for key, total in sorted(made.items()))
        print(f"{self.step}: {', '.join(told)}{sums}", file=file)


def counts(facts: Mapping[str, Any]) -> dict[str, int]:
    """The whole numbers among the facts of a take, and how many takes they list."""
    numbers = {key: len(n) if key == "takes" and isinstance(n, list) else n for key, n in facts.items()}
    return {key: n for key, n in numbers.items() if isinstance(n, int) and not isinstance(n, bool)}


def _by_reason(reasons: dict[str, str]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for name, reason in sorted(reasons.items()):
        groups.setdefault(reason.removeprefix(f"take {name!r}: "), []).append(name)
    return list(groups.items())


def listed(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
