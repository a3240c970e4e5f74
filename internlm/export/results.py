"""Results of evaluations as the model card shows them: the printed rows of ``egoagent eval --out`` files, with their floors."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ExportError


@dataclass(frozen=True)
class Result:
    """One evaluation of the exported step."""

    name: str  # of the file
    task: str
    protocol: dict[str, Any]
    rows: tuple[dict[str, Any], ...]  # name, value, unit, floors, higher_is_better, meaning
    step: int | None  # that was measured


def find_results(run: Path, step: int) -> tuple[Result, ...]:
    """The results that lie in a run folder (or one folder deeper) and were measured on this step's weights."""
    paths = sorted((*run.glob("*.json"), *run.glob("*/*.json")))
    found = (_read(path) for path in paths if not any(part.startswith((".", "step_", "previous-")) for part in path.parts[-2:]))
    return tuple(result for result in found if result and result.step == step)


def read_results(paths: Sequence[str | Path], step: int) -> tuple[Result, ...]:
    """Results by name. Raises ExportError for a file that is none or was measured on another step, FileNotFoundError."""
    results = []
    for path in map(Path, paths):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such result file")
        found = _read(path)
        if found is None:
            raise ExportError(f"{path} is not a result of egoagent eval --out (task, model, protocol, figures)")
        if found.step != step:
            raise ExportError(f"{path} was measured at step {found.step}, the exported weights are of step {step}")
        results.append(found)
    return tuple(results)


def _read(path: Path) -> Result | None:
    """A result; None for any other file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    shapes = {"task": str, "model": dict, "protocol": dict, "figures": list}
    if not isinstance(content, dict) or not all(isinstance(content.get(key), kind) for key, kind in shapes.items()):
        return None
    rows = tuple(row for row in content["figures"] if isinstance(row, dict) and "name" in row)
    return Result(path.name, content["task"], content["protocol"], rows, content["model"].get("step"))
