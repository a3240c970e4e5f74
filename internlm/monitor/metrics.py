"""The run's figures on disk: one JSON object a line, always; TensorBoard beside it when it is wanted and installed."""

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METRICS_NAME = "metrics.jsonl"

log = logging.getLogger(__name__)


class MetricsWriter:
    """Appends records to ``metrics.jsonl`` in a run folder.

    ``resume_step`` is the step the run continues from: records of later steps, which a killed run wrote after its last
    checkpoint and will be written again, are dropped.
    """

    def __init__(self, folder: str | Path, *, resume_step: int = 0, tensorboard: bool = False) -> None:
        self.path = Path(folder) / METRICS_NAME
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _drop_after(self.path, resume_step)
        self._file = self.path.open("a", encoding="utf-8")
        self._board = _summary_writer(self.path.parent / "tensorboard", resume_step) if tensorboard else None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write one record; non-finite numbers become null, which JSON has no other word for."""
        record = {"step": step} | {name: _plain(value) for name, value in values.items()}
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            # A full disk must not end a run that could still be saved once there is room again.
            log.error("figures of step %d could not be written to %s: %s", step, self.path, error)
        if self._board:
            for name, value in record.items():
                if name != "step" and isinstance(value, int | float):
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        if self._board:
            self._board.close()


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


def _drop_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    temporary = path.with_suffix(".tmp")
    kept = [record for record in _records(path) if record["step"] <= step]
    temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    os.replace(temporary, path)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summary_writer(folder: Path, resume_step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.warning("TensorBoard is not installed (pip install tensorboard); %s is written all the same", METRICS_NAME)
        return None
    return SummaryWriter(str(folder), purge_step=resume_step + 1)
