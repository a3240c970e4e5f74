"""A folder that appears complete or not at all: written under a hidden name, locked while it is, renamed at the end.

A folder that replaces another needs two renames, and between them its name is gone. Readers know this and look again.

    unfinished(final)          the writer's side
    discard(final)             what a killed writer left
    finished(parent)           the reader's side: which folders there are
    read_finished(final, read) and reading from one of them
    remains(parent)            what writers at work, or killed ones, have there

Writers of different parts of one folder have hidden names of their own (``part``) and work at the same time; each puts its part
to what is there when it is done (``complete``), one after the other. Locks are files, since a network file system that has
locks has them for files only, and an empty lock file that a killed writer leaves is used again. Small files: ``core/files``.
"""

import errno
import itertools
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from internlm.core.files import locked
from internlm.data.store.contract import DiskFullError, StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOCK_SECONDS = 5.0  # a writer whose parent was killed needs a moment to notice
_SWAP_SECONDS = 600.0  # parts that cannot be linked are copied
_REPLACING_SECONDS = 5.0  # for two renames, on a busy file system
_REPLACED = ".replaced-"
_HIDDEN = re.compile(r"\.(?:partial(?:\.\w+)?|replaced|leftover\.\d+)-(.+)", re.DOTALL)
_LOCK = ".lock-"

T = TypeVar("T")


@contextmanager
def unfinished(final: Path, *, part: str = "", complete: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """A hidden folder that becomes ``final`` (replacing it) when the block ends well and vanishes otherwise.

    part: a word; writers of different parts may be at work at a time. complete(folder) is called after the block,
    when nobody else can change ``final``, to add what is to be kept of it.
    Raises StoreError when another process writes the same part, DiskFullError when there is no room.
    """
    folder = _partial(final, part)
    busy = StoreError(f"{final}: is being written by another process")
    with naming_full_disk(final), locked(_lock_of(folder), _LOCK_SECONDS, busy):
        restore(final)
        _remove(folder)
        folder.mkdir()
        try:
            yield folder
            with _swapping(final):
                if complete is not None:
                    complete(folder)
                _swap(folder, final)
        except BaseException:
            _remove(folder)
            raise


def discard(final: Path) -> None:
    """Remove what a killed writer left under the hidden names; a live writer keeps its own."""
    for name in {name.removeprefix(_LOCK) for name in os.listdir(final.parent)}:
        if name.startswith(".partial") and (match := _HIDDEN.fullmatch(name)) and match[1] == final.name:
            folder = final.with_name(name)
            try:
                with locked(_lock_of(folder), 0, StoreError("in use")):
                    _remove(folder)
            except StoreError:
                continue


def finished(parent: Path) -> list[Path]:
    """Where ``parent`` has finished folders, or may have while a writer is at work (``read_finished`` tells), by name."""
    names = {match[1] if (match := _HIDDEN.fullmatch(name)) else name for name in os.listdir(parent)}
    return sorted(parent / name for name in names if name[0] != ".")


def read_finished(final: Path, read: Callable[[Path], T]) -> T | None:
    """read(final), of one state, or None when there is no such folder. Looks again where it was replaced meanwhile.

    Raises what ``read`` raises, and StoreError when the writer was killed between its two renames.
    """
    deadline = time.monotonic() + _REPLACING_SECONDS
    while True:
        before = _inode(final)
        if before is not None:
            try:
                found = read(final)
            except StoreError:
                if _inode(final) == before:
                    raise
            else:
                if _inode(final) == before:
                    return found
                continue
        elif not _replaced(final).exists():
            if _inode(final) is None:
                return None
        elif time.monotonic() >= deadline:
            raise StoreError(
                f"{final}: its writer was killed while replacing it; give the writer's command again, "
                f"or rename {_replaced(final).name} back"
            )
        time.sleep(0.01)


def restore(final: Path) -> None:
    """Put right what a writer left that was killed while it replaced a folder: bring the old one back, or clear it away."""
    if _replaced(final).exists():
        with _swapping(final):
            pass


def remains(parent: Path) -> list[str]:
    """Names of the hidden folders of ``parent`` that writers at work, or killed ones, have there; in order."""
    return sorted(name for name in os.listdir(parent) if _HIDDEN.fullmatch(name))


def _partial(final: Path, part: str) -> Path:
    return final.with_name(f".partial{part and '.' + part}-{final.name}")


def _replaced(final: Path) -> Path:
    return final.with_name(f"{_REPLACED}{final.name}")


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{_LOCK}{folder.name}")


def _inode(folder: Path) -> int | None:
    """Which folder has the name at this moment; None where none has."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_ino if stat.S_ISDIR(found.st_mode) else None


@contextmanager
def _swapping(final: Path) -> Iterator[None]:
    """The right to change ``final``, which is there if any writer ever finished it."""
    replaced = _replaced(final)
    busy = StoreError(f"{final}: is being changed by another process for {_SWAP_SECONDS:.0f} s")
    with locked(_lock_of(final), _SWAP_SECONDS, busy):
        if replaced.exists():
            if final.exists():  # killed when all but the clearing was done
                _remove(replaced)
            else:
                replaced.rename(final)
        yield


def _swap(folder: Path, final: Path) -> None:
    replaced = _replaced(final)
    try:
        if final.exists():
            final.rename(replaced)
        folder.rename(final)
    except BaseException:
        if replaced.exists() and not final.exists():
            replaced.rename(final)
        raise
    _remove(replaced)


def _remove(folder: Path) -> None:
    """Free the name of a folder. A file that somebody still reads cannot be removed on NFS: such a rest is put aside."""
    if folder.is_symlink():
        folder.unlink()
        return
    shutil.rmtree(folder, ignore_errors=True)
    for number in itertools.count():
        aside = folder.with_name(f".leftover.{number}-{_HIDDEN.fullmatch(folder.name)[1]}")
        shutil.rmtree(aside, ignore_errors=True)
        if not folder.exists():
            return
        if not aside.exists():
            folder.rename(aside)
            return


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn the errors of a full disk, an exhausted quota or a limit on file sizes into DiskFullError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskFullError(f"{path}: cannot be written: {error.strerror}; free some space or choose another disk") from None
