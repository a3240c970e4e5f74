"""What an evaluation is: options, the capability that it needs, and a result whose every number has its floors beside it.

An evaluation is a folder ``eval/tasks/<name>`` (or a package outside, by its dotted name) with a module ``task`` that has
``SUMMARY``, ``Options`` (a dataclass as in ``options.py``) and ``evaluate(options) -> Result``. It runs on all processes of a
launch; what it returns counts on process 0 alone.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from internlm.config.errors import nearest_key

from .errors import EvalError
from .options import EvalOptions

if TYPE_CHECKING:
    import torch

    from internlm.systems.base import System

    from .report.page import Figure


@dataclass(frozen=True)
class Result:
    """What was found: ``report`` holds the numbers, ``floors`` and ``protocol``; ``figures`` are the printed rows."""

    model: dict[str, Any]  # source, step, job
    report: dict[str, Any]
    figures: "list[Figure]"

    def __post_init__(self) -> None:
        missing = {"floors", "protocol"} - self.report.keys()
        if missing:
            raise EvalError(f"a result of {self.model['source']} has no {' and no '.join(sorted(missing))}: it means nothing")


def names() -> list[str]:
    """The evaluations of this package."""
    return sorted(path.parent.name for path in Path(__file__).with_name("tasks").glob("*/task.py"))


def find(name: str) -> ModuleType:
    """The module of an evaluation. EvalError for an unknown one."""
    package = name if "." in name else f"{__package__}.tasks.{name}"
    try:
        return import_module(f"{package}.task")
    except ModuleNotFoundError as error:
        if error.name is None or not f"{package}.task".startswith(error.name):
            raise
    near = nearest_key(name, names())
    raise EvalError(f"evaluation {name!r} is unknown: there is no {package}.task" + (f"; did you mean {near}?" if near else ""))


def run(name: str, options: Any) -> int:
    """Evaluate on all processes of the launch; the first writes ``out`` and prints the table. Returns 0."""
    from .ranks import joined
    from .report.page import write_json
    from .report.summary import print_table

    with joined() as reports:
        result = find(name).evaluate(options)
    if not reports:
        return 0
    # The printed rows go along in one form for all tasks, so that a model card can show them beside their floors.
    rows = [asdict(figure) for figure in result.figures]
    content = {"task": name, "model": result.model, **result.report, "figures": rows}
    written = options.out and write_json(options.out, content)
    title = {"step": result.model["step"], "split": result.report["protocol"].get("split")}
    named = [f"{key} {value}" for key, value in title.items() if value is not None]
    print_table(", ".join([f"{name}: {result.model['source']}", *named]), result.figures)
    if written:
        print(f"written to {written}")
    return 0


@dataclass(frozen=True)
class Subject:
    """A trained system that is evaluated."""

    system: "System | Any"  # with the capability that was asked for
    step: int
    device: "torch.device"
    source: str

    @property
    def about(self) -> dict[str, Any]:
        """What a result says of its model."""
        return {"source": self.source, "step": self.step, "job": self.system.config.job_name}

    def data(self, given: Sequence[str], trained_on: Sequence[str]) -> list[str]:
        """The data to evaluate: what is given, else what the run was trained on. EvalError where that is not there."""
        from internlm.config.places import missing

        if not given and (gone := missing(trained_on)):
            where = "relative paths start from the run folder's own place, or from where it was trained"
            raise EvalError(f"{self.source} was trained on {gone[0]}, which is not there ({where}); give --data")
        return each_once(given or trained_on)


def open_subject(options: EvalOptions, capability: str) -> Subject:
    """The system that options name. EvalError where it lacks the capability, a protocol of ``systems/base.py``."""
    from internlm.core.init import choose_device
    from internlm.core.mesh import local_device
    from internlm.systems import base
    from internlm.systems.resolve import load_system

    device = local_device(choose_device(options.device))
    system, step = load_system(options.source, device)
    needed = getattr(base, capability)
    if not isinstance(system, needed):
        stage = getattr(system.config, "stage", None)
        kind = f"system {system.config.system!r}" + (f", stage {stage!r}" if stage else "")
        raise EvalError(f"{options.source} is of {kind}; this needs a run of one that {needed.__doc__.splitlines()[0]}")
    return Subject(system, step, device, options.source)


def each_once(paths: Sequence[str]) -> list[str]:
    """Paths without those that lead to a folder named earlier, which is said: nothing is to be measured twice."""
    import logging
    import os

    by_real: dict[str, str] = {}
    for path in paths:
        real = os.path.realpath(path)
        if real in by_real:
            logging.getLogger(__name__).warning("%s is the folder %s given before, and counts once", path, by_real[real])
        by_real.setdefault(real, path)
    return list(by_real.values())
