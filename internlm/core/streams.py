"""Standard streams that cannot cost a command its result: closed ones, and pipes whose reader leaves."""

import errno
import io
import os
import stat
import sys
from typing import Any

_NAMES = {1: "standard output", 2: "standard error"}


def keep_going() -> None:
    """Let a command run to its end whatever becomes of its standard streams.

    A stream that is closed from the start becomes the null device: else the next file to be opened takes its number, and every
    message goes into that file. What is printed after the reader of a pipe has left (``egoagent ... | head -1``) is dropped.
    A character that the terminal's encoding lacks is printed as its code. Streams that something else has replaced stay.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number, which is this one
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream, first = getattr(sys, name), getattr(sys, f"__{name}__")
        if stream is None:
            setattr(sys, name, open(number, "w", closefd=False, encoding="utf-8", errors="backslashreplace"))
        elif stream is first and _number(stream) == number:
            setattr(sys, name, _lasting(stream, number))


def _number(stream: io.TextIOBase) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _lasting(stream: io.TextIOWrapper, number: int) -> io.TextIOWrapper:
    stream.flush()
    raw = _Lasting(number, "wb", closefd=False)
    buffer = raw if stream.write_through else io.BufferedWriter(raw)  # python -u
    return io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", None, stream.line_buffering, stream.write_through)


class _Lasting(io.FileIO):
    """A standard stream whose reader may leave: the other end of a pipe, or a terminal."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            hung_up = error.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
            gone = hung_up or isinstance(error, BrokenPipeError)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())  # of child processes as well; and what is buffered must not fail again at the end
            os.close(null)
            if gone or self.fileno() == 2:  # there is nobody left to tell
                return len(data)
            raise OSError(error.errno, error.strerror, _NAMES[self.fileno()]) from None
