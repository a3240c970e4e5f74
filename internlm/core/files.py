"""Files that appear whole or not at all: written under a hidden name beside the target, renamed at the end."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """The hidden name to write to. It becomes ``path``, whose folder is made, when the block ends well, and goes otherwise.

    Writers of one path take turns, so a block may look at what is there, and the last one's content stays. There is one hidden
    name a path: what a killed writer left is used again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with locked(temporary) as mode:
        yield temporary
        try:
            if temporary.stat().st_mode != mode:
                temporary.chmod(mode)  # safetensors makes a file of its own, which only its owner can read
            temporary.replace(path)
        except FileNotFoundError:
            if not path.exists():
                raise  # else, without locks: another writer was faster and took this one's content along


def write_text(path: Path, text: str, *, errors: str = "strict") -> Path:
    """Write a text file in UTF-8 through ``written``; ``errors`` as in ``str.encode``. Returns its path."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=errors)
    return path


@contextmanager
def locked(path: Path, seconds: float = math.inf, busy: Exception | None = None) -> Iterator[int]:
    """Hold the lock file ``path``, made with the mode that is given back and removed at the end, unless renamed by then.

    The lock dies with the process, and an empty file that a killed one leaves is used again. Raises ``busy`` when another
    holds it for ``seconds``. Where a file system has no such locks nobody is kept out.
    """
    deadline = time.monotonic() + seconds
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if _lock(lock) and _same_file(lock, path):
            break
        os.close(lock)
        if busy and time.monotonic() >= deadline:
            raise busy
        time.sleep(0.005)
    try:
        yield os.fstat(lock).st_mode
    finally:
        if _same_file(lock, path):
            path.unlink(missing_ok=True)
        os.close(lock)


def sync(path: Path) -> None:
    """Flush a file or the entries of a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass  # no such locks here (some network file systems)
    return True


def _same_file(descriptor: int, path: Path) -> bool:
    """Whether the locked file is still the one of that name; its last holder may have removed or renamed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
