"""Jobs in a pool of processes that outlives the death of any of them.

concurrent.futures declares its whole pool broken when one process is killed (by the out-of-memory killer, mostly) and does not
say which job it was. Here each process has a pipe of its own: its end tells which job died, and another process takes its place.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple


class WorkerDied(NamedTuple):
    """In place of a job's result: its process ended without one."""

    reason: str


class _Worker(NamedTuple):
    process: multiprocessing.process.BaseProcess
    pipe: Connection


def run_in_processes(jobs: Iterable[Any], call: Callable[[Any], Any], count: int) -> Iterator[tuple[Any, Any]]:
    """Yield (job, call(job)) as they finish, done by ``count`` spawned processes; (job, WorkerDied) where a process died.

    call, jobs and results are pickled; call is a module's function or an object of such, and should not raise. ``jobs`` is
    consumed only as processes become free, so that it may end early. Leaving the generator terminates what is running.
    """
    context = multiprocessing.get_context("spawn")
    idle: list[_Worker] = []
    busy: dict[Connection, tuple[_Worker, Any]] = {}
    waiting = iter(jobs)
    try:
        while True:
            while len(busy) < count and (job := next(waiting, None)) is not None:
                worker = idle.pop() if idle else _start(context, call)
                busy[worker.pipe] = (worker, job)
                try:
                    worker.pipe.send(job)
                except BrokenPipeError:
                    pass  # it died meanwhile; its end of the pipe says so below
            if not busy:
                return
            for pipe in wait(list(busy)):
                worker, job = busy.pop(pipe)
                try:
                    result = pipe.recv()
                    idle.append(worker)
                except (EOFError, OSError):
                    worker.process.join()
                    result = WorkerDied(_cause(worker.process.exitcode))
                yield job, result
    finally:
        for worker, _ in busy.values():
            worker.process.terminate()
        for worker in [*idle, *(worker for worker, _ in busy.values())]:
            worker.pipe.close()
            worker.process.join(10)


def _start(context: multiprocessing.context.BaseContext, call: Callable[[Any], Any]) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, call), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _serve(pipe: Connection, call: Callable[[Any], Any]) -> None:
    # Ctrl-C reaches every process of a terminal, Slurm's warning of a time limit every process of a task: the parent decides.
    for name in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)  # one process a core: more threads would only fight
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(call(job))


def _leave_with_parent() -> None:
    """A killed parent cannot stop its processes: without this they would go on writing beside the run that follows."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _cause(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return "its process was killed (SIGKILL), usually for lack of memory: use fewer --workers or a machine with more"
    if exit_code is not None and exit_code < 0:
        return f"its process was ended by {signal.Signals(-exit_code).name}"
    return f"its process ended with exit code {exit_code} without a result; its messages are above"
