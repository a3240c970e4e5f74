"""One way to run any preprocessing step over many takes: in this process, in a pool of processes, or as a Slurm job array.

A step is a function ``work(job) -> facts`` that turns one recording into one take of the store. Jobs are picklable objects with
a ``name``, the take's. What became of each take is recorded in the store (``manifest.py``), so that the same command, given
again, does only what is missing: takes recorded as done are kept, everything else is tried again.

    class/function                     what for
    Job                                what a job must have
    SkipTake                           raised by work: nothing to do for this take, and why
    run_jobs(...) -> Summary           the run
    add_run_arguments, run_arguments   --workers, --force, --slurm ... of a command
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dataset_preprocess.manifest import Entry, Manifest


class Job(Protocol):
    """A picklable description of one take's work (a frozen dataclass is best); ``name`` is the take's name."""

    @property
    def name(self) -> str: ...


class PipelineError(Exception):
    """A run cannot start or cannot go on; the message names what to change."""


class SkipTake(Exception):
    """Raised by ``work``: there is nothing to make of this take, and the message says why. Not a failure; tried again later."""


@dataclass(frozen=True)
class SlurmOptions:
    """How a job array is submitted. cluster: "slurm", or submitit's "local" and "debug" for a trial on one machine."""

    folder: Path
    cluster: str = "slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    minutes: int = 240
    memory_gb: int = 8
    cpus: int = 2
    tasks: int = 100
    wait: bool = True


@dataclass
class Summary:
    """What became of every job, by take name. kept = done by an earlier run."""

    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0, or 1 when any take failed."""
        return int(bool(self.failed))


def run_jobs(
    jobs: Sequence[Job],
    work: Callable[[Any], dict],
    *,
    out: Path,
    step: str,
    workers: int = 1,
    slurm: SlurmOptions | None = None,
    force: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Summary:
    """Do every job that is not done yet, print a summary, return it; the command's exit code is ``summary.exit_code``.

    work: a function of a module (it is sent to other processes by name), or functools.partial of one. It writes the take
    (``StoreWriter(out).add_take`` or ``extend_take``, both all-or-nothing) and returns plain JSON facts for the manifest,
    such as {"frames": 312}; the facts must be the same each time, so no durations. It raises SkipTake where there is nothing
    to make, anything else where it failed. It must replace what an earlier attempt left (``overwrite=True``).
    step: the manifest's folder, "frames" or "poses". workers: processes; 0 = in this process.
    settings: what decides about the bytes (size, quality, stride). A take done with other settings is a failure that says so,
    unless ``force``, which does everything again.
    """
    manifest = Manifest(out, step)
    summary = Summary()
    for job in jobs:
        entry = manifest.read(job.name)
        if entry is not None and entry.status == "done" and not force:
            summary.kept.append(job.name)
            continue
        try:
            facts = work(job)
        except SkipTake as reason:
            summary.skipped[job.name] = str(reason)
            manifest.write(job.name, Entry("skipped", str(reason), settings or {}))
        except Exception as error:
            summary.failed[job.name] = str(error)
            manifest.write(job.name, Entry("failed", str(error), settings or {}))
        else:
            summary.done[job.name] = facts
            manifest.write(job.name, Entry("done", "", settings or {}, facts))
    return summary


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """--workers, --force and the --slurm options, the same for every command that makes takes."""
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes, each a take at a time (default: 1)")
    parser.add_argument("--force", action="store_true", help="make takes again that are done")
    parser.add_argument("--slurm", type=Path, metavar="LOGS", help="submit a Slurm job array; its logs go to this folder")


def run_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The parsed run options as keyword arguments of ``run_jobs``: workers, slurm, force."""
    slurm = SlurmOptions(args.slurm) if args.slurm else None
    return {"workers": args.workers, "slurm": slurm, "force": args.force}
