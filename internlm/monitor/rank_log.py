"""Each process's own log in the run folder: what it said, its warnings and its end."""

import logging
import os
import socket
import sys
from pathlib import Path

from .console import say

LOGS = "logs"
PACKAGE = "internlm"


def rank_log_path(run_dir: Path, rank: int) -> Path:
    """Where the log of a process lies."""
    return run_dir / LOGS / f"rank_{rank}.log"


class RankLog:
    """Context in which this process's messages go to ``logs/rank_<n>.log`` as well, with date and time.

    Messages of this package from INFO on, warnings of every library. A log that cannot be written (a full disk) is said once
    on standard error and ends nothing.
    """

    def __init__(self, path: Path, *, rank: int, world: int) -> None:
        self.path, self.rank, self.world = path, rank, world

    def __enter__(self) -> "RankLog":
        self._handler: logging.Handler = logging.NullHandler()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handler = _File(self.path, encoding="utf-8")
        except OSError as error:
            say(f"the log of rank {self.rank} cannot be written: {error}")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        package, root = logging.getLogger(PACKAGE), logging.getLogger()
        self._level = package.level
        package.setLevel(min(package.getEffectiveLevel(), logging.INFO))
        # Without a handler of its own a program shows warnings on standard error; a file beside it must not change that.
        self._added = [self._handler, *([] if root.handlers else [logging.lastResort])]
        for handler in self._added:
            root.addHandler(handler)
        logging.captureWarnings(True)
        self.write(f"process {os.getpid()} on {socket.gethostname()}, rank {self.rank} of {self.world}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._record(logging.ERROR, f"ended by {kind.__name__}: {error}", (kind, error, trace))
        logging.captureWarnings(False)
        for handler in self._added:
            logging.getLogger().removeHandler(handler)
        logging.getLogger(PACKAGE).setLevel(self._level)
        self._handler.close()

    def write(self, message: str, level: int = logging.INFO) -> None:
        """Add a message that is shown elsewhere already."""
        self._record(level, message)

    def _record(self, level: int, message: str, error: tuple | None = None) -> None:
        self._handler.handle(logging.LogRecord(PACKAGE, level, __file__, 0, message, None, error))


class _File(logging.FileHandler):
    """A file handler that a full disk does not turn into tracebacks."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.failed:
            self.failed = True
            say(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}")

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:
            self.failed or say(f"{self.baseFilename} cannot be written: {error}")
