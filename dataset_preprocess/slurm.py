"""Jobs as a Slurm job array, submitted through submitit. What became of each job is read from the manifest, not from Slurm."""

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internlm.core.errors import UserError

POLL_SECONDS = 5.0
ANSWER_SECONDS = 60.0  # for squeue; a controller that restarts answers late or not at all
MAX_TIMEOUTS = 20  # a task goes on where its time limit ended it; a take longer than the limit must not do so for ever


@dataclass(frozen=True)
class SlurmOptions:
    """How a job array is submitted.

    folder: logs, on a disk that all nodes see. cluster: "slurm", or submitit's "local" (processes of this machine) and "debug"
    (this process) for a trial. tasks: array tasks at most, over which the jobs are dealt. minutes, memory (GB): of one task.
    wait: return when the array has ended, else as soon as it is submitted.
    """

    folder: Path
    cluster: str = "slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    minutes: int = 240
    memory: int = 8
    tasks: int = 100
    wait: bool = True


@dataclass(frozen=True)
class ArrayTask:
    """What one task of the array runs: ``run(jobs)``, again for the same jobs after a time-out or a preemption."""

    run: Callable[[Sequence[Any]], Any]

    def __call__(self, jobs: Sequence[Any]) -> None:
        self.run(jobs)

    def checkpoint(self, jobs: Sequence[Any]) -> Any:
        """Called by submitit when Slurm ends the task early: the same jobs again, of which those done are kept."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, jobs)


def submit_array(jobs: Sequence[Any], run: Callable[[Sequence[Any]], Any], options: SlurmOptions, *, cpus: int) -> list[Any]:
    """Submit ``run`` on the jobs, dealt over at most ``options.tasks`` array tasks; returns submitit's jobs.

    Raises UserError where submitit or Slurm is missing or refuses.
    """
    try:
        import submitit
    except ModuleNotFoundError:
        raise UserError("--slurm needs submitit: pip install submitit") from None
    # Dealt like cards, so that a run of long takes does not end up in one task.
    groups = [list(jobs[start :: options.tasks]) for start in range(min(options.tasks, len(jobs)))]
    try:
        executor = submitit.AutoExecutor(options.folder, cluster=options.cluster, slurm_max_num_timeout=MAX_TIMEOUTS)
        executor.update_parameters(
            name="egoagent-data", timeout_min=options.minutes, mem_gb=options.memory, cpus_per_task=cpus, nodes=1
        )
        if options.cluster == "slurm":
            chosen = {name: getattr(options, name) for name in ("partition", "account", "qos") if getattr(options, name)}
            executor.update_parameters(**{f"slurm_{name}": value for name, value in chosen.items()})
        return executor.map_array(ArrayTask(run), groups)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:  # submitit's FailedJobError is a RuntimeError
        raise UserError(f"the job array could not be submitted: {error}") from None


def wait_for(array: Sequence[Any], options: SlurmOptions) -> None:
    """Return when no task of the array is queued or running, however the tasks ended."""
    if options.cluster == "debug":
        for task in array:
            task.results()
    elif options.cluster == "local":
        for task in array:
            task.wait()
    else:
        # squeue knows of a killed task also where Slurm keeps no accounts, which submitit's own waiting needs.
        pending = {task.job_id for task in array}
        while pending:
            time.sleep(POLL_SECONDS)
            pending &= _queued(sorted(pending))


def _queued(ids: Sequence[str]) -> set[str]:
    """Those of the array task ids (``12_3``) that Slurm still knows as queued or running; all of them when it does not answer."""
    master = sorted({name.partition("_")[0] for name in ids})
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={','.join(master)}"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        return set(ids)
    if asked.returncode == 0:
        return set(asked.stdout.split())
    return set() if "Invalid job id" in asked.stderr else set(ids)
