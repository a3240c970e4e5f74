"""A folder that appears complete or not at all: written under a hidden name, locked while it is, renamed at the end.

A folder that replaces another needs two renames, and between them its name is gone. Readers know this and look again.

    unfinished(final)          the writer's side
    discard(final)             what a killed writer left
    finished(parent)           the reader's side: which folders there are
    read_finished(final, read) and reading from one of them
    remains(parent)            what writers at work, or killed ones, have there
"""

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from internlm.data.store.contract import DiskFullError, StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOCK_SECONDS = 5.0  # a writer whose parent was killed needs a moment to notice
_REPLACING_SECONDS = 5.0  # for two renames, on a busy file system
_PARTIAL, _REPLACED = ".partial-", ".replaced-"

T = TypeVar("T")


@contextmanager
def unfinished(final: Path) -> Iterator[Path]:
    """A hidden folder that becomes ``final`` (replacing it) when the block ends well and vanishes otherwise.

    Raises StoreError when another process holds it, DiskFullError when there is no room.
    """
    folder, replaced = _partial(final), _replaced(final)
    with naming_full_disk(final):
        lock = _claim(final, _LOCK_SECONDS)
        try:
            if replaced.exists() and not final.exists():
                replaced.rename(final)  # killed between the two renames below
            yield folder
            shutil.rmtree(replaced, ignore_errors=True)
            if final.exists():
                final.rename(replaced)
            folder.rename(final)
            shutil.rmtree(replaced, ignore_errors=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            if replaced.exists() and not final.exists():
                replaced.rename(final)
            raise
        finally:
            os.close(lock)


def discard(final: Path) -> None:
    """Remove what a killed writer left under the hidden name; a live writer keeps its own."""
    folder = _partial(final)
    if folder.exists():
        try:
            lock = _claim(final, 0)
        except StoreError:
            return
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def finished(parent: Path) -> list[Path]:
    """Where ``parent`` has finished folders, or may have while a writer is at work (``read_finished`` tells), by name."""
    names = {name.removeprefix(_PARTIAL).removeprefix(_REPLACED) for name in os.listdir(parent)}
    return sorted(parent / name for name in names if name and name[0] != ".")


def read_finished(final: Path, read: Callable[[Path], T]) -> T | None:
    """read(final), or None when there is no such folder. Looks again where it was replaced meanwhile.

    Raises what ``read`` raises, and StoreError when the writer was killed between its two renames.
    """
    deadline = time.monotonic() + _REPLACING_SECONDS
    while True:
        before = _inode(final)
        if before is not None:
            try:
                return read(final)
            except StoreError:
                if _inode(final) == before:
                    raise
        elif not _replaced(final).exists():
            if _inode(final) is None:
                return None
        elif time.monotonic() >= deadline:
            raise StoreError(
                f"{final}: its writer was killed while replacing it; give the writer's command again, "
                f"or rename {_replaced(final).name} back"
            )
        time.sleep(0.01)


def remains(parent: Path) -> list[str]:
    """Names of the hidden folders of ``parent`` that writers at work, or killed ones, have there; in order."""
    return sorted(name for name in os.listdir(parent) if name.startswith((_PARTIAL, _REPLACED)))


def _partial(final: Path) -> Path:
    return final.with_name(f"{_PARTIAL}{final.name}")


def _replaced(final: Path) -> Path:
    return final.with_name(f"{_REPLACED}{final.name}")


def _inode(folder: Path) -> int | None:
    """Which folder has the name at this moment; None where none has."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_ino if stat.S_ISDIR(found.st_mode) else None


def _claim(final: Path, seconds: float) -> int:
    """Make the hidden folder ours and empty; returns the descriptor that holds its lock, which dies with the process."""
    folder = _partial(final)
    deadline = time.monotonic() + seconds
    while True:
        folder.mkdir(exist_ok=True)
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        if _lock(lock) and _same_file(lock, folder):
            break
        os.close(lock)
        if time.monotonic() >= deadline:
            raise StoreError(f"{folder.parent.parent}: take {final.name!r} is being written by another process")
        time.sleep(0.05)
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return lock


def _lock(descriptor: int) -> bool:
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass  # no such locks here (some network file systems): then one writer a take is the user's promise
    return True


def _same_file(descriptor: int, path: Path) -> bool:
    """Whether the locked folder is still the one of that name; its last holder may have renamed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn the errors of a full disk, an exhausted quota or a limit on file sizes into DiskFullError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskFullError(
            f"{path}: cannot be written: {error.strerror}; free some space or choose another disk, then run again"
        ) from None
