"""Where the relative paths of a run are, wherever its folder is now and whatever directory a command starts in.

Paths of a config are relative to the working directory. A run's own record of its config (``config.yaml`` in its folder, and
every checkpoint) says in ``paths_from`` what its paths are relative to. What is read back belongs to the folder that it lies in,
and each relative path of its data is looked up

1. from the folder's own place: ``paths_from`` as it was seen from the run folder, so that a run and its data can move together,
2. from ``paths_from`` itself, so that a run can move alone.

A record of an earlier version has no ``paths_from``; its ``run_dir`` alone gives the first place, and the working directory is
the second. Nothing else is searched: data of the same name in some other directory is other data.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUNS = "runs"
LAUNCH = "launch"  # of a run folder: the config as it was launched
RESOLVED_NAME = "config.yaml"
PATHS_FROM = "paths_from"
DATA = (("data", "images"), ("data", "clips"))
PATHS = (*DATA, ("train", "init_from"))
_TRACES = ("checkpoints", "metrics.jsonl", "logs", LAUNCH)
# What a resolved config always had; a file that somebody wrote leaves most of it to the defaults.
_RESOLVED = frozenset("job_name run_dir seed data optim train monitor".split())


@dataclass(frozen=True)
class Record:
    """A config as a run recorded it, and where the record lies.

    folder: the run folder today; of any other file with ``paths_from``, the folder of the file. run_dir: as recorded.
    """

    folder: Path
    run_dir: str | None
    paths_from: str | None
    is_run: bool = True

    def places(self) -> list[Path]:
        """Where to look for a relative path, in order."""
        offset, rest = self._offset()
        own = [] if offset is None else [_joined(form(self.folder), offset) for form in (os.path.abspath, os.path.realpath)]
        return list(dict.fromkeys(map(Path, [*own, rest])))

    def _offset(self) -> tuple[str | None, str]:
        """From the folder to the directory that paths are relative to, and the place to look in after that one."""
        if self.paths_from is not None and not os.path.isabs(self.paths_from):
            return self.paths_from, os.getcwd()
        if self.paths_from is not None:
            run = _joined(self.paths_from, self.run_dir or "")
            return (os.path.relpath(self.paths_from, run) if self.is_run else None), self.paths_from
        run_dir = os.path.normpath(self.run_dir or "")
        if os.path.isabs(run_dir) or run_dir.startswith(os.pardir):
            return None, os.getcwd()
        return os.path.relpath(os.sep, os.sep + run_dir), os.getcwd()


def record_of(path: Path, names: Mapping[str, Any], *, as_folder: bool = False) -> Record | None:
    """The record that a config file with these top-level names is; None for a file that somebody wrote.

    A resolved ``config.yaml`` speaks for its folder where that was given (``as_folder``) or has traces of a run: a copy that
    somebody put elsewhere means the run that it names.
    """
    paths_from = names.get(PATHS_FROM)
    paths_from = paths_from if isinstance(paths_from, str) else None
    run_dir = names.get("run_dir") or os.path.join(RUNS, str(names.get("job_name")))
    traces = as_folder or path.parent.absolute().name == LAUNCH or any((path.parent / name).exists() for name in _TRACES)
    if path.name == RESOLVED_NAME and names.keys() >= _RESOLVED and traces:
        return Record(_run_of(path.parent), str(run_dir), paths_from)
    return Record(path.parent, str(run_dir), paths_from, is_run=False) if paths_from else None


def _run_of(folder: Path) -> Path:
    """The run folder of the folder that holds a resolved config: itself, or the one above its ``launch``."""
    if folder.absolute().name != LAUNCH or (folder / "checkpoints").exists():
        return folder
    return folder.parent if folder.name else Path(os.pardir)


def checkpoint_record(step: Path, meta: Mapping[str, Any]) -> Record:
    """The record that a checkpoint's meta data is; ``step`` is its ``step_*`` folder."""
    config = meta["config"]
    run_dir = config.get("run_dir") or os.path.join(RUNS, str(config.get("job_name")))
    folder = step.parent.parent if step.parent.name == "checkpoints" else step.parent
    return Record(folder, str(run_dir), meta.get(PATHS_FROM))


def settle(values: dict[str, Any], record: Record, *, only: Callable[[str], bool] = lambda key: True) -> list[str]:
    """Rewrite the paths of a record's nested values in place, as the working directory needs them.

    ``run_dir`` becomes the folder that the record lies in. ``only`` says by dotted key which may be changed. Returns what is
    worth saying: data outside the working directory, and data that is not there; the latter's paths become those of the first
    place.
    """
    if only("run_dir"):
        if record.is_run:
            values["run_dir"] = str(record.folder)
        elif values.get("run_dir") and record.paths_from and os.path.isabs(record.paths_from):
            values["run_dir"] = _from_here(values["run_dir"], Path(record.paths_from))
    places, said = record.places(), []
    for section, leaf in PATHS:
        key, inside = f"{section}.{leaf}", values.get(section)
        if not isinstance(inside, dict) or not only(key):
            continue
        for path, put in _relative(inside, leaf):
            found = next((place for place in places if os.path.exists(place / path)), None)
            put(_from_here(path, found or places[0]))
            if found is None and (section, leaf) in DATA:
                looked = " nor in ".join(map(str, places))
                said.append(f"{record.folder}: {key} {path} is not in {looked}; {key}=[PATH] says where it is now")
            elif found is not None and not _is_below(_joined(str(found), path)):
                said.append(f"{record.folder}: {key} {path} is {_joined(str(found), path)}")
    return said


def portable(values: dict[str, Any], run: str | Path | None = None) -> tuple[dict[str, Any], str]:
    """A config's nested values with their relative paths as a record keeps them, and the directory that those are relative to.

    It is the one that holds both the run and its data, so that it does not matter where the run was started or continued from;
    the working directory where no directory but the root of the file system holds both.
    """
    here = os.getcwd()
    run_dir = str(run or values.get("run_dir") or os.path.join(RUNS, str(values.get("job_name"))))
    values = {key: dict(below) if isinstance(below, dict) else below for key, below in values.items()}
    relative = [(path, put) for section, leaf in PATHS for path, put in _relative(values.get(section, {}), leaf)]
    base = os.path.commonpath([os.path.abspath(path) for path in (run_dir, *(path for path, _ in relative))])
    if not relative or base == os.path.dirname(base):
        values |= {"run_dir": os.path.abspath(run)} if run else {}
        return values, here
    for path, put in relative:
        put(os.path.relpath(path, base))
    if run or values.get("run_dir") or base != here:
        values["run_dir"] = os.path.relpath(run_dir, base)
    return values, base


def _relative(section: dict[str, Any], leaf: str) -> Iterator[tuple[str, Callable[[str], None]]]:
    """Each relative path of a key, and what sets it."""
    value = section.get(leaf)
    if isinstance(value, str):
        if value and not os.path.isabs(value):
            yield value, lambda path: section.__setitem__(leaf, path)
    elif isinstance(value, list | tuple):
        section[leaf] = changed = list(value)
        for index, path in enumerate(value):
            if isinstance(path, str) and path and not os.path.isabs(path):
                yield path, lambda path, index=index: changed.__setitem__(index, path)


def _from_here(path: str, place: Path) -> str:
    """A path relative to ``place``, as the working directory needs it."""
    return path if _is_here(place) else os.path.relpath(_joined(str(place), path))


def _is_here(place: Path) -> bool:
    return os.path.realpath(place) == os.path.realpath(os.curdir)


def _is_below(path: str) -> bool:
    """Whether a path is in the working directory."""
    here = os.path.realpath(os.curdir)
    return os.path.commonpath([here, os.path.realpath(path)]) == here


def _joined(*parts: str) -> str:
    return os.path.normpath(os.path.join(*parts))


def missing(paths: Iterable[str]) -> list[str]:
    """Those of some paths that are not there."""
    return [path for path in paths if not os.path.exists(path)]
