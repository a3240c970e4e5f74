"""Words to the person who watches, where there is one: standard error may be closed, a terminal that is gone, a full disk."""

import contextlib
import sys
from typing import TextIO


def say(message: str, stream: TextIO | None = None) -> None:
    """Print a line to a stream (standard error), or not at all: no reason to stop training."""
    stream = stream or sys.stderr
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: a closed file
            print(message, file=stream, flush=True)
