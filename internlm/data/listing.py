"""Which files below a folder are its images, each once, and in words what else is there."""

import errno
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from internlm.data.decode import decodable
from internlm.data.failure import DataError
from internlm.data.store.foreign import is_foreign

_SHOWN = 3  # names in a message


def list_images(root: Path, *, labelled: bool = False) -> tuple[list[str], tuple[str, ...]]:
    """The images below ``root``: their paths in it with forward slashes, sorted; and notes on the rest, a phrase each.

    A file's name says whether it is an image. Hidden files and folders are left out. Links are followed, but not to a folder
    above; what links reach again counts once, by its path without links where it has one, else by the first in order. With
    ``labelled`` the first-level folders are classes, and a file that is linked into several of them is an image of each.
    Raises DataError when ``root`` is missing, when a folder cannot be read, and for a folder that is two classes.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "is a broken link" if root.is_symlink() else "does not exist"
        raise DataError(f"{root}: {what}")
    walk = _Walk(root, labelled)
    walk.run()
    if walk.unreadable:
        raise DataError(
            f"{root}: {_counted('folders that cannot be read', walk.unreadable)}; give yourself the right to read them, or move "
            "them elsewhere"
        )
    names = sorted(walk.names)
    empty = walk.firsts - {name.split("/", 1)[0] for name in names}
    if labelled and empty:
        walk.notes["class folders without an image"] = list(empty)
    return names, walk.described()


def real_path(path: str, folders: dict[str, str]) -> str:
    """``os.path.realpath`` of a file, ten times as fast where many are in few folders, which ``folders`` remembers."""
    for _ in range(20):
        folder, file = os.path.split(path)
        if file in ("", os.curdir, os.pardir):
            break
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        path = os.path.join(folders[folder], file)
        try:
            path = os.path.join(folders[folder], os.readlink(path))
        except OSError:  # no link
            return path
    return os.path.realpath(path)


class _Walk:
    """One pass over the plain folders, then over what links lead to."""

    def __init__(self, root: Path, labelled: bool):
        self.root, self.labelled = str(root), labelled
        self.suffixes = decodable()
        self.names: list[str] = []
        self.firsts: set[str] = set()
        self.unreadable: list[str] = []
        self.visited: dict[str, str] = {}  # real path of a folder: how it was reached
        self.folder_links: list[tuple[str, str]] = []  # name, real path of the folder that holds the link
        self.file_links: list[str] = []
        self.others: Counter[str] = Counter()  # by suffix
        self.notes: dict[str, list[str]] = {}  # names by what they are

    def run(self) -> None:
        self._tree("", os.path.realpath(self.root))
        while self.folder_links:
            links, self.folder_links = sorted(self.folder_links), []
            for name, holder in links:
                self._follow(name, holder)
        self._link_images()

    def _tree(self, name: str, real: str) -> None:
        """Enter a folder and its plain sub-folders; links are kept for later."""
        waiting = [(name, real)]
        while waiting:
            name, real = waiting.pop()
            if real in self.visited:  # through a link to a folder that holds this one
                self._again(name, self.visited[real])
                continue
            self.visited[real] = name
            try:
                with os.scandir(os.path.join(self.root, name)) as entries:
                    for entry in entries:
                        self._entry(entry, f"{name}/{entry.name}" if name else entry.name, real, waiting)
            except OSError as error:
                self.unreadable.append(f"{name or self.root}: {error.strerror}")

    def _entry(self, entry: os.DirEntry, name: str, holder: str, waiting: list[tuple[str, str]]) -> None:
        try:
            kind = _kind(entry)
        except OSError as error:
            self.unreadable.append(f"{name}: {error.strerror}")
            return
        if entry.name.startswith("."):
            if kind == "folder" or _suffix(name) in self.suffixes:
                self._note("hidden images and folders", name)
        elif kind == "folder" and is_foreign(entry.name):
            self._note("system folders", name)
        elif kind == "folder":
            if "/" not in name:
                self.firsts.add(name)
            if entry.is_symlink():
                self.folder_links.append((name, holder))
            else:
                waiting.append((name, os.path.join(holder, entry.name)))
        elif kind != "file":
            self._note(kind, name)
        elif (suffix := _suffix(name)) not in self.suffixes:
            self.others[suffix or "without a suffix"] += 1
        elif self.suffixes[suffix]:
            self._note(f"{suffix} images that cannot be decoded here, {self.suffixes[suffix]}", name)
        elif entry.is_symlink():
            self.file_links.append(name)
        else:
            self.names.append(name)

    def _follow(self, name: str, holder: str) -> None:
        real = os.path.realpath(os.path.join(self.root, name))
        root = os.path.realpath(self.root)
        if any(os.path.commonpath((real, below)) == real for below in (holder, root)):
            self._note("links to a folder above", name)
        elif real in self.visited:
            self._again(name, self.visited[real])
        else:
            self._tree(name, real)

    def _again(self, name: str, earlier: str) -> None:
        """A folder that was listed already."""
        classes = name.split("/", 1)[0], earlier.split("/", 1)[0]
        if self.labelled and classes[0] != classes[1]:
            raise DataError(
                f"{self.root}: {name} and {earlier} are the same folder, which would be class {classes[0]!r} and class "
                f"{classes[1]!r}; remove one of the links"
            )
        self._note("links to a folder that is listed already", name)

    def _link_images(self) -> None:
        """Links to files, each file once (in each class)."""
        listed = set(self.names) if self.file_links else set()
        known: dict[str, set[str]] = {}  # real path: the classes that have it
        folders: dict[str, str] = {}
        for name in sorted(self.file_links):
            real = real_path(os.path.join(self.root, name), folders)
            if real not in known:
                folder, file = os.path.split(real)
                plain = f"{self.visited.get(folder, '')}/{file}".lstrip("/")
                known[real] = {self._class(plain)} if folder in self.visited and plain in listed else set()
            if self._class(name) in known[real]:
                self._note("links to an image that is listed already", name)
                continue
            if known[real]:
                self._note("images that are in several classes and count in each", name)
            known[real].add(self._class(name))
            self.names.append(name)

    def _class(self, name: str) -> str:
        return name.split("/", 1)[0] if self.labelled else ""

    def _note(self, what: str, name: str) -> None:
        self.notes.setdefault(what, []).append(name)

    def described(self) -> tuple[str, ...]:
        """What is there besides images that count, in words."""
        found = [_counted(what, names) for what, names in sorted(self.notes.items())]
        if self.others:
            kinds = sorted(self.others.items(), key=lambda kind: (-kind[1], kind[0]))[:8]
            counts = ", ".join(f"{count} {suffix}" for suffix, count in kinds)
            found.append(f"other files: {self.others.total()} ({counts})")
        return tuple(found)


def _kind(entry: os.DirEntry) -> str:
    """The word file or folder, or what it is instead, as the head of a note. OSError where that cannot be seen."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    return "broken links" if entry.is_symlink() else "pipes, sockets and devices"


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _counted(what: str, names: Iterable[str]) -> str:
    names = sorted(names)
    return f"{what}: {len(names)} ({', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''})"
