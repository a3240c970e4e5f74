"""One way to run any preprocessing step over many takes: in this process, in a pool of processes, or as a Slurm job array.

A step is a function ``work(job) -> facts`` that turns one recording into one take of the store. Jobs are picklable objects with
a ``name``, the take's. What became of each take is recorded in the store (``manifest.py``), so that the same command, given
again, does only what is missing: takes recorded as done are kept, everything else is tried again.

    Job                                what a job must have
    SkipTake                           raised by work: nothing to do for this take, and why
    run_jobs(...) -> Summary           the run
    add_run_arguments, run_arguments   --workers, --force, --slurm ... of a command
    run_step(...) -> exit code         run_jobs as a command calls it
"""

import argparse
import dataclasses
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dataset_preprocess.attempt import Attempt, Job, Outcome, SkipTake
from dataset_preprocess.manifest import Entry, Manifest
from dataset_preprocess.slurm import SlurmOptions, submit_array, wait_for
from dataset_preprocess.summary import Summary, counts
from dataset_preprocess.workers import WorkerDied, run_in_processes
from internlm.core.errors import UserError
from internlm.data.store import StoreWriter

__all__ = ["Job", "SkipTake", "add_pack_argument", "add_run_arguments", "run_arguments", "run_jobs", "run_step"]


def run_jobs(
    jobs: Sequence[Job],
    work: Callable[[Any], dict],
    *,
    out: Path,
    step: str,
    workers: int = 1,
    slurm: SlurmOptions | None = None,
    force: bool = False,
    replace: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Summary:
    """Do every job that is not done yet, print a summary, return it; the command's exit code is ``summary.exit_code``.

    work: a function of a module (it is sent to other processes by name), or functools.partial of one. It writes the take
    (``StoreWriter(out).extend_take``, which replaces what an earlier attempt left and nothing that another step wrote)
    and returns plain JSON facts for the manifest, such as {"frames": 312}. The facts must be the same each time, so no
    durations. Work that makes several takes, or takes of other names than the job's, lists them as facts["takes"].
    It raises SkipTake where there is nothing to make, anything else where it failed; after a DiskFullError no more is begun.
    step: the manifest's folder, "frames" or "poses". workers: processes (with slurm: of each array task); 0 = this process.
    settings: plain JSON values that decide about the bytes (size, quality, stride). A take done with other settings is a
    failure that says so, unless ``force``, which does everything again; so is one made from another file than ``job.path``.
    replace: does everything again and calls ``work(job, anew=True)``, which may remove what other steps wrote of the take.
    Raises UserError for two jobs of one name.
    """
    attempt = Attempt(work, Path(out), step, json.loads(json.dumps(dict(settings or {}))), force or replace, replace)
    _check_names(jobs)
    summary = Summary(step)
    pending = [job for job in jobs if not _settle(attempt.earlier(job), job, summary)]
    if slurm is not None and pending:
        _run_array(attempt, pending, slurm, workers, summary)
    else:
        for job, outcome in run_attempts(attempt, pending, workers):
            _settle(outcome, job, summary)
            _tell(job.name, outcome)
    attempt.disown(summary.done)
    summary.print()
    return summary


def run_attempts(attempt: Attempt, jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Outcome]]:
    """Attempt the jobs in processes (0: in this one), and record those whose process died. Ends early on a full disk."""
    stopped = False

    def until_stopped() -> Iterator[Job]:
        for job in jobs:
            if stopped:
                return
            yield job

    seen = set()
    if workers > 0:
        results = run_in_processes(until_stopped(), attempt, min(workers, len(jobs)))
    else:
        results = ((job, attempt(job)) for job in until_stopped())
    for job, outcome in results:
        if isinstance(outcome, WorkerDied):
            outcome = attempt.record(job, Outcome(Entry("failed", outcome.reason, attempt.settings)))
        stopped = stopped or outcome.stop
        seen.add(job.name)
        yield job, outcome
    for job in jobs:
        if job.name not in seen:
            yield job, Outcome(Entry("failed", "not begun: the disk is full"))


def _run_group(jobs: Sequence[Job], *, attempt: Attempt, workers: int) -> None:
    """What one array task does."""
    summary = Summary(attempt.step)
    for job, outcome in run_attempts(attempt, jobs, workers):
        _settle(outcome, job, summary)
        _tell(job.name, outcome)
    attempt.disown(summary.done)


def _run_array(attempt: Attempt, jobs: Sequence[Job], options: SlurmOptions, workers: int, summary: Summary) -> None:
    manifest = Manifest(attempt.out, attempt.step)
    for job in jobs:
        manifest.forget(job.name)  # so that what is there afterwards is of this array
    once = dataclasses.replace(attempt, force=False)
    array = submit_array(jobs, partial(_run_group, attempt=once, workers=workers), options, cpus=max(1, workers))
    first = array[0].job_id
    print(f"{attempt.step}: {len(jobs)} takes in {len(array)} array tasks ({first} ...), logs in {options.folder}", flush=True)
    if not options.wait:
        summary.submitted.extend(job.name for job in jobs)
        print("the same command without --force, given later, says what became of them and does what is missing")
        return
    wait_for(array, options)
    lost = Outcome(Entry("failed", f"its array task ended before it; the logs in {options.folder} say why"))
    for job in jobs:
        entry = manifest.read(job.name)
        _settle(Outcome(entry) if entry else lost, job, summary)


def _settle(outcome: Outcome | None, job: Job, summary: Summary) -> bool:
    """Enter an outcome in the summary; False when there is none yet."""
    if outcome is None:
        return False
    if outcome.kept:
        summary.kept.append(job.name)
    elif outcome.entry.status == "done":
        summary.done[job.name] = dict(outcome.entry.facts)
    else:
        getattr(summary, outcome.entry.status)[job.name] = outcome.entry.reason
    return True


def _tell(name: str, outcome: Outcome) -> None:
    """One line as each take ends; failures and skips on the error stream."""
    entry = outcome.entry
    if entry.status == "done":
        facts = ", ".join(f"{n:,} {key}" for key, n in counts(entry.facts).items())
        print(f"{name}: {facts or 'done'}", flush=True)
    else:
        print(f"{name}: {entry.status}: {entry.reason}", file=sys.stderr, flush=True)


def _check_names(jobs: Sequence[Job]) -> None:
    for name, count in Counter(job.name for job in jobs).items():
        if count > 1:
            raise UserError(f"{count} recordings would become the take {name!r}; give them to commands of their own")
        if not re.fullmatch(r"[^./\\\0][^/\\\0]*", name):
            raise UserError(f"take name {name!r} cannot be a file name")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """--workers, --force and the --slurm options, the same for every command that makes takes."""
    group = parser.add_argument_group("running")
    add = group.add_argument
    add("--workers", type=int, default=1, metavar="N", help="processes, a take each at a time (default: 1)")
    add("--force", action="store_true", help="make takes again that are done")
    add("--replace", action="store_true", help="make takes anew from this command alone, without what other commands wrote")
    add("--slurm", type=Path, metavar="LOGS", help="submit a Slurm job array; its logs go to this folder")
    add("--slurm-tasks", type=int, default=100, metavar="N", help="array tasks at most (default: 100)")
    add("--slurm-minutes", type=int, default=240, metavar="N", help="time limit of a task (default: 240)")
    add("--slurm-memory", type=int, default=8, metavar="GB", help="memory of a task (default: 8)")
    for name in ("partition", "account", "qos"):
        add(f"--slurm-{name}", metavar="NAME", help=f"Slurm {name} of the array")
    add("--slurm-no-wait", action="store_true", help="return once the array is submitted")
    add("--slurm-cluster", choices=("slurm", "local", "debug"), default="slurm", help="local and debug try it without Slurm")


def add_pack_argument(parser: argparse._ActionsContainer) -> None:
    """--pack and --no-pack of the commands that store frames."""
    words = "a take's frames in one tar with an index (default), or as loose files"
    parser.add_argument("--pack", action=argparse.BooleanOptionalAction, default=True, help=words)


def run_step(args: argparse.Namespace, jobs: Sequence[Job], work: Callable[..., dict], step: str, settings: Mapping) -> int:
    """What commands end with: make the store, do every job with ``work(job, out=...)``; returns the exit code."""
    StoreWriter(args.out)
    work = partial(work, out=args.out)
    return run_jobs(jobs, work, out=args.out, step=step, settings=settings, **run_arguments(args)).exit_code


def run_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The parsed run options as keyword arguments of ``run_jobs``: workers, slurm, force, replace."""
    for name in ("workers", "slurm_tasks", "slurm_minutes", "slurm_memory"):
        if getattr(args, name) < (0 if name == "workers" else 1):
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be positive")
    named = ("cluster", "partition", "account", "qos", "minutes", "memory", "tasks")
    options = {name: getattr(args, f"slurm_{name}") for name in named}
    slurm = SlurmOptions(args.slurm, **options, wait=not args.slurm_no_wait) if args.slurm else None
    return {"workers": args.workers, "slurm": slurm, "force": args.force, "replace": args.replace}
