"""A run that stands still says where and ends, instead of holding its machines until somebody looks."""

import faulthandler
import logging
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from .console import say

log = logging.getLogger(__name__)


class Watchdog:
    """Ends this process with ``exit_code`` when ``beat`` has not been called for ``seconds``.

    Before that the stack of every thread goes to standard error and to ``path``. Each process of a run has one; since they
    step together their limits pass together, and ``grace`` seconds between the stacks and the end leave time for all.
    Time in which the whole process is stopped (a suspended machine, Ctrl-Z) does not count.
    """

    def __init__(self, seconds: float, path: Path, *, rank: int, exit_code: int, grace: float | None = None) -> None:
        self.seconds, self.path, self.rank, self.exit_code = seconds, path, rank, exit_code
        self.grace = min(5.0, seconds / 4) if grace is None else grace
        self._doing = "starting"
        self._idle = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def beat(self, doing: str) -> None:
        """Say that the run goes on, and what comes next."""
        self._doing, self._idle = doing, 0.0

    def _watch(self) -> None:
        tick = min(1.0, self.seconds / 10)
        last = time.monotonic()
        while not self._done.wait(tick):
            now = time.monotonic()
            self._idle += min(now - last, 2 * tick)
            last = now
            if self._idle > self.seconds:
                self._end()

    def _end(self) -> None:
        text = (
            f"STANDING STILL: rank {self.rank} on {socket.gethostname()} (process {os.getpid()}) has not got on for "
            f"{self.seconds:g} s (parallel.timeout_minutes), since: {self._doing}. The stacks of its threads follow; the process "
            f"whose main thread is not in a collective is the one the others wait for. Ending with exit code {self.exit_code}"
        )
        if sys.stderr is not None:
            _dump(sys.stderr, text)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                _dump(file, text)
        except OSError as error:
            say(f"{self.path}: {error}")
        time.sleep(self.grace)
        os._exit(self.exit_code)  # the main thread hangs: nothing that waits for it would ever end


def _dump(stream: TextIO, text: str) -> None:
    try:
        print(text, file=stream, flush=True)
        faulthandler.dump_traceback(stream, all_threads=True)
    except (OSError, ValueError, RuntimeError) as error:  # a full disk, or a stream without a file descriptor
        log.error("the stacks could not be written: %s", error)
