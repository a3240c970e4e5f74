"""The run's figures on disk: one JSON object a line, always; other displays (``boards.py``) beside it."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from internlm.core.files import write_text

from .boards import Boards

METRICS_NAME = "metrics.jsonl"

log = logging.getLogger(__name__)


class MetricsWriter:
    """Appends records to ``metrics.jsonl`` in a run folder and hands their numbers to ``boards``.

    ``resume_step`` is the step the run continues from: records of later steps, which a killed run wrote after its last
    checkpoint and will be written again, are dropped.
    """

    def __init__(self, folder: str | Path, *, resume_step: int = 0, boards: Boards | None = None) -> None:
        self.path = Path(folder) / METRICS_NAME
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.boards = boards or Boards([])
        self._torn = False
        self.rewind(resume_step)

    def rewind(self, step: int) -> None:
        """Drop the records of the steps after ``step``."""
        self._drop_after(step)
        # Unbuffered: what a full disk refuses is lost, and does not come back as an error when the file is closed.
        self._file = self.path.open("ab", buffering=0)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write one record; non-finite numbers become null, which JSON has no other word for."""
        record = {"step": step} | {name: _plain(value) for name, value in values.items()}
        line = ("\n" if self._torn else "") + json.dumps(record) + "\n"
        try:
            self._torn = self._file.write(line.encode()) < len(line.encode())
        except OSError as error:
            # A full disk must not end a run that could still be saved once there is room again.
            self._torn = True
            log.error("figures of step %d could not be written to %s: %s", step, self.path, error)
        self.boards.write(step, {n: v for n, v in record.items() if n != "step" and isinstance(v, int | float)})

    def close(self) -> None:
        """Close the file and the boards."""
        self._file.close()
        self.boards.close()

    def _drop_after(self, step: int) -> None:
        if not self.path.exists():
            return
        records = list(_records(self.path))
        kept = [record for record in records if record["step"] <= step]
        try:
            write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        except OSError as error:
            log.error("figures after step %d stay in %s and come twice: %s", step, self.path, error)


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The records of a run folder in order; a last line cut off by a kill is left out."""
    path = Path(folder) / METRICS_NAME
    return list(_records(path)) if path.exists() else []


def _records(path: Path):
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "step" in record:
            yield record


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
