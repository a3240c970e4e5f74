"""A training run as one Slurm job of one task per process, submitted through submitit.

The job leaves no decision to a person: ahead of its time limit, and when it is preempted, every process is signalled, the run
saves and ends with EXIT_STOPPED, and the job queues itself again under its own number. A crash starts it again a limited
number of times. A job that its owner cancels stays cancelled.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from internlm.core.errors import UserError
from internlm.train.signals import EXIT_BAD_STEPS, EXIT_STOPPED, STOPPING

from .local import run_command

FINAL_CODES = (0, 2, EXIT_BAD_STEPS)  # complete; config or data to mend; bad steps: starting again would not help
RESTARTS_NAME = "restarts.log"
# Of whatever the job was submitted from: in the job, srun's variables say who is who.
LAUNCHED_ELSEWHERE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class JobOptions:
    """What becomes of the job: ``folder`` takes logs and submitit's files, on a disk that all nodes see.

    requeue: go on after the limit and after preemption. max_restarts: of crashes. asked: submitit's parameters of a Slurm job.
    """

    folder: Path
    requeue: bool = True
    max_restarts: int = 3
    asked: Mapping[str, Any] = field(default_factory=dict)


class EarlyStop(BaseException):
    """A stopping signal before the run has begun: nothing to save. Not an Exception, so that nothing on the way swallows it."""


@dataclass(frozen=True)
class TrainTask:
    """What each process of the job runs: ``egoagent`` with these words. The same again after a requeue, so it resumes."""

    words: tuple[str, ...]

    def __call__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, _stop_early)
        # submitit has Slurm warn by SIGUSR2 and would leave at once; the run finishes its step and saves on SIGUSR1.
        signal.signal(signal.SIGUSR2, lambda number, frame: os.kill(os.getpid(), signal.SIGUSR1))
        try:
            code = run_command(self.words)
        except EarlyStop:
            code = EXIT_STOPPED
        for number in (*STOPPING, signal.SIGUSR2):  # nothing is left to save; a late one would only change the exit code
            signal.signal(number, signal.SIG_IGN)
        if code == EXIT_STOPPED and os.environ.get("SLURM_PROCID", "0") != "0":
            return  # rank 0 says it for all: any other code of another would have srun kill those that are still closing files
        if code:
            raise SystemExit(code)


def _stop_early(number: int, frame: FrameType | None) -> None:
    raise EarlyStop


def submit(task: Callable[[], Any], options: JobOptions) -> Any:
    """Submit ``task`` (picklable) for every process of the job; returns submitit's job. UserError where that fails."""
    if not shutil.which("sbatch"):
        raise UserError("no Slurm here (sbatch is missing): run this on a login node, or leave out --slurm to train here")
    try:
        return make_executor(options).submit(task)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:  # submitit's FailedJobError is a RuntimeError
        raise UserError(f"the job could not be submitted: {error}") from None


def make_executor(options: JobOptions) -> Any:
    """submitit's executor with everything that ``options`` ask for. UserError where submitit is missing."""
    try:
        from submitit.slurm.slurm import SlurmExecutor
    except ModuleNotFoundError:
        raise UserError("--slurm needs submitit: pip install submitit") from None

    class Executor(SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 1  # a dry run needs no Slurm; ``submit`` has looked for it

    executor = Executor(folder=options.folder)
    executor.update_parameters(
        stderr_to_stdout=True,
        setup=[f"unset {' '.join(LAUNCHED_ELSEWHERE)}"],
        teardown=teardown(options),
        # A process that dies must not leave the others waiting for it in a collective.
        srun_args=["--kill-on-bad-exit=1", "--open-mode=append"],
        additional_parameters={"requeue" if options.requeue else "no-requeue": True},
        **options.asked,
    )
    return executor


def batch_script(task: TrainTask, options: JobOptions) -> str:
    """The sbatch file as it would be submitted, with the command in place of submitit's pickle of it. Needs no Slurm."""
    return make_executor(options)._make_submission_file_text(shlex.join(["egoagent", *task.words]), "dry-run")


def teardown(options: JobOptions) -> list[str]:
    """Lines of bash after srun: queue the job again where that helps, and end with the run's own code."""
    if not options.requeue:
        return ["code=$?", 'exit "$code"']
    log, final = shlex.quote(str(options.folder.resolve() / RESTARTS_NAME)), "|".join(map(str, FINAL_CODES))
    script = Path(__file__).with_name("teardown.sh").read_text(encoding="utf-8")
    return script.format(final=final, stopped=EXIT_STOPPED, log=log, restarts=options.max_restarts).splitlines()


def minutes_of(text: str) -> int:
    """Slurm's time formats to minutes: ``90``, ``HH:MM:SS``, ``MM:SS``, ``D-HH``, ``D-HH:MM``, ``D-HH:MM:SS``; seconds round up.

    Raises UserError for anything else, and for no time at all.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not match:
        raise UserError(f"--time {text!r} is none of Slurm's forms: 90 (minutes), MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS")
    days, first, second, third = (int(part) if part else 0 for part in match.groups())
    if match[1] is not None or match[4] is not None:
        seconds = ((days * 24 + first) * 60 + second) * 60 + third
    else:
        seconds = first * 60 + second
    if not seconds:
        raise UserError(f"--time {text!r} is no time at all")
    return -(-seconds // 60)
