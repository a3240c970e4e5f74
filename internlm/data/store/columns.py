"""What a take may hold besides images, poses and labels: the table of column kinds (its arrays are in ``columns.json``), and the
checks on writing and reading.

A column is rows by frame number. Three forms, by size and nature:

    Column         named arrays with a row for each frame number, in memory          <name>.npz
    PackedColumn   a large array for each frame number, one at a time (StoredRows)  <name>.tar, <name>.idx.npy: .png or .npy
    EventColumn    JSON objects that each span some frame numbers                    events.json

Facts that hold for all rows (``about``: what kind of depth, how many tokens there are) are in <name>.json.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from internlm.data.store.contract import StoreError, check_rising

MAX_OBJECTS, WEARER = 250, 255  # ids between them are reserved
_UNIT_SLACK = 1e-3


@dataclass(frozen=True)
class Column:
    """frames int64 [N], rising; arrays as ``KINDS`` declares them; about: facts of all rows, plain JSON."""

    frames: np.ndarray
    arrays: Mapping[str, np.ndarray]
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PackedColumn:
    """What a writer takes: (frame number, array) with rising numbers, consumed one by one, all arrays of one shape."""

    rows: Iterable[tuple[int, np.ndarray]]
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredRows:
    """What a reader gets of a ``PackedColumn``: a row is read and decoded when it is asked for."""

    frames: np.ndarray  # int64 [N], rising
    about: Mapping[str, Any]
    read_row: Callable[[int], np.ndarray]
    where: str

    def read(self, number: int) -> np.ndarray:
        """The array of a frame number; StoreError when there is none or it is damaged."""
        row = int(np.searchsorted(self.frames, number))
        if row == len(self.frames) or self.frames[row] != number:
            raise StoreError(f"{self.where}: has nothing for frame {number}")
        return self.read_row(row)

    @property
    def rows(self) -> Iterator[tuple[int, np.ndarray]]:
        """All arrays in order, as ``PackedColumn`` takes them."""
        return ((int(number), self.read_row(row)) for row, number in enumerate(self.frames))


@dataclass(frozen=True)
class EventColumn:
    """Objects with ``id``, first and last frame number ``before`` and ``after``, and what else is known (``check_events``)."""

    events: Sequence[Mapping[str, Any]]

    @property
    def frames(self) -> np.ndarray:
        """int64 [N]: the first frame number of each event; equal ones may follow each other."""
        return np.array([event["before"] for event in self.events], np.int64)


AnyColumn = Column | PackedColumn | StoredRows | EventColumn


@dataclass(frozen=True)
class Array:
    """One array of a kind.

    shape: sizes, or letters for sizes that are the same wherever the letter is; N is the number of rows, "..." any further axes.
    valid: the array whose entries that are not zero say which values count (it may be the array itself); "" = all count.
    """

    dtype: str
    shape: tuple[str | int, ...]
    unit: str
    valid: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Kind:
    """One kind of column. rest: what must follow the kind's word in a column's name, lower case since not every file system tells
    the cases apart; told: the same for people; check: what else is wrong, in words."""

    stored: Literal["npz", "tar", "events"]
    arrays: Mapping[str, Array]
    about: Mapping[str, tuple[str, Callable[[Any], bool]]]
    check: Callable[[Column], str | None]
    rest: str = ""
    told: str = ""

    @property
    def packed(self) -> tuple[str, Array]:
        """Name and declaration of the one array of a kind that is stored as a tar."""
        return next(iter(self.arrays.items()))


def kind_of(name: str) -> Kind:
    """The declaration of a column by its name; StoreError when there is none."""
    first, slash, rest = name.partition("/")
    kind = KINDS.get(first)
    if kind is None or not re.fullmatch(kind.rest, slash + rest):
        raise StoreError(f"column {name!r} is unknown; known: {', '.join(NAMES)} (lower case)")
    return kind


def check_column(name: str, column: Column, where: str) -> None:
    """StoreError when the rows, arrays or facts of a column are not as its kind declares."""
    kind = kind_of(name)
    check_about(kind, column.about, where)
    check_rising(column.frames, f"{where}: frames")
    if not len(column.frames):
        raise StoreError(f"{where}: has no rows; leave out a column of which nothing is known")
    if stray := sorted(column.arrays.keys() - kind.arrays.keys()):
        raise StoreError(f"{where}: has the unknown array {stray[0]!r}; known: {', '.join(kind.arrays)}")
    sizes = {"N": len(column.frames)}
    for array_name, declared in kind.arrays.items():
        if array_name in column.arrays:
            if declared.valid and declared.valid not in column.arrays:
                raise StoreError(f"{where}: has {array_name}, but not {declared.valid}, which says where it counts")
            check_array(declared, column.arrays[array_name], sizes, f"{where}: {array_name}")
        elif not declared.optional:
            raise StoreError(f"{where}: lacks {array_name}")
    if fault := kind.check(column):
        raise StoreError(f"{where}: {fault}")


def check_row(kind: Kind, number: int, values: np.ndarray, about: Any, sizes: dict[str, int], where: str) -> None:
    """StoreError when the array of one frame of a packed column is not as declared; ``sizes``: those of the rows before."""
    name, declared = kind.packed
    here, sizes["N"] = f"{where}: {name} of frame {number}", 1
    check_array(declared, values[None], sizes, here)
    if fault := kind.check(Column(np.array([number]), {name: values[None]}, about)):
        raise StoreError(f"{here}: {fault}")


def check_about(kind: Kind, about: Any, where: str) -> None:
    if not isinstance(about, Mapping):
        raise StoreError(f"{where}: its facts are not a JSON object")
    for key, (words, fits) in kind.about.items():
        if key not in about:
            raise StoreError(f"{where}: does not say its {key}: {words}")
        if not fits(about[key]):
            raise StoreError(f"{where}: {key} {about[key]!r} is not {words}")


def check_events(events: Any, where: str) -> None:
    """Each event has an ``id`` of its own and frame numbers ``before`` <= (``contact``) <= ``after``; they come in the order of
    ``before``. ``texts`` maps names to texts; all other keys are free."""
    if not isinstance(events, list | tuple) or not all(isinstance(event, Mapping) for event in events):
        raise StoreError(f"{where}: is not a list of JSON objects")
    previous, ids = 0, set()
    for place, event in enumerate(events):
        here = f"{where}: event {event.get('id', f'number {place + 1}')!r}"
        span = [event.get(key) for key in ("before", "contact", "after") if key != "contact" or event.get(key) is not None]
        if not all(_is_whole(number, 0, 1 << 62) for number in [*span, event.get("id")]):
            raise StoreError(f"{here}: id, before, after (and contact) must be whole numbers from 0")
        if span != sorted(span) or span[0] < previous:
            raise StoreError(f"{here}: spans the frames {span}; they must rise, and events be in the order of 'before'")
        if event["id"] in ids:
            raise StoreError(f"{here}: the id is given twice")
        texts = event.get("texts", {})
        if not isinstance(texts, Mapping) or not all(isinstance(text, str) for pair in texts.items() for text in pair):
            raise StoreError(f"{here}: texts {texts!r} does not map names to texts")
        previous = span[0]
        ids.add(event["id"])


def valid_share(kind: Kind, column: Column) -> float | None:
    """Which share of a column's values count, by the first array that has a rule; None when all do."""
    for name, declared in kind.arrays.items():
        if declared.valid and name in column.arrays:
            return float((column.arrays[declared.valid] != 0).mean())
    return None


def plain_json(value: Any, where: str) -> Any:
    """The value as JSON would give it back; StoreError when it is not plain JSON."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"{where}: is not plain JSON: {error}") from None


def check_array(declared: Array, array: np.ndarray, sizes: dict[str, int], where: str) -> None:
    """StoreError when type, shape or values are not as declared. ``sizes`` of the letters that are known gets the others."""
    right = array.dtype.kind == "U" if declared.dtype == "str" else array.dtype == np.dtype(declared.dtype)
    expected = declared.shape[:-1] if (open_end := declared.shape[-1] == "...") else declared.shape
    fits = array.ndim >= len(expected) if open_end else array.ndim == len(expected)
    for axis, size in zip(expected, array.shape):
        fits = fits and size == (sizes.setdefault(axis, size) if isinstance(axis, str) else axis)
    if not (right and fits and array.size):
        shape = ", ".join(f"{sizes.get(axis, axis)}" for axis in declared.shape)
        raise StoreError(f"{where} is {array.dtype} {list(array.shape)}, expected {declared.dtype} [{shape}]")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise StoreError(f"{where} is not finite in row {np.argwhere(~np.isfinite(array))[0][0]}")


def _check_gaze(column: Column) -> str | None:
    if (direction := column.arrays.get("direction")) is None:
        return None
    wrong = column.arrays["valid"] & (np.abs(np.linalg.norm(direction.astype(np.float64), axis=-1) - 1) > _UNIT_SLACK)
    return f"direction is not of length 1 at frame {column.frames[wrong][0]}" if wrong.any() else None


def _check_actions(column: Column) -> str | None:
    size = column.arrays["action"].shape[1]
    for key in ("names", "low", "high"):
        if (given := column.about.get(key)) is None and key != "names":
            continue
        kind = str if key == "names" else int | float
        if not isinstance(given, list | tuple) or len(given) != size or not all(isinstance(value, kind) for value in given):
            return f"{key} {given!r} does not have one entry for each of the {size} numbers of an action"
    return None


def _check_ids(column: Column) -> str | None:
    ids = column.arrays["id"]
    wrong = ids[(ids > MAX_OBJECTS) & (ids < WEARER)]
    return f"holds the id {wrong[0]}; objects have 1 to {MAX_OBJECTS}, the wearer {WEARER}" if wrong.size else None


def _check_objects(column: Column) -> str | None:
    arrays = column.arrays
    if len(arrays["kinds"]) > MAX_OBJECTS:
        return f"has {len(arrays['kinds'])} objects, ids have room for {MAX_OBJECTS}"
    if (arrays["half_size"] <= 0).any():
        return "half_size is not positive"
    seen, box = arrays["pixels"] > 0, arrays["box"]
    wrong = np.where(seen, (box[..., :2] < 0).any(-1) | (box[..., 2:] < box[..., :2]).any(-1), (box != -1).any(-1))
    wrong |= (arrays["pixels"] < 0) | (arrays["full"] < arrays["pixels"])
    if not wrong.any():
        return None
    row, thing = np.argwhere(wrong)[0]
    return f"box and pixels of object {thing} contradict each other at frame {column.frames[row]}"


def _check_tokens(column: Column) -> str | None:
    highest, vocabulary = column.arrays["codes"][column.arrays["valid"]].max(initial=0), column.about["vocabulary"]
    return f"holds the code {highest}, the vocabulary has {vocabulary}" if highest >= vocabulary else None


def _check_features(column: Column) -> str | None:
    grid, count = column.about["grid"], column.arrays["values"].shape[1]
    return None if len(grid) == 2 and grid[0] * grid[1] == count else f"has {count} vectors a frame, its grid is {grid}"


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _one_of(*words: str) -> tuple[str, Callable[[Any], bool]]:
    return " or ".join(map(repr, words)), lambda value: value in words


def _list_of(words: str, fits: Callable[[Any], bool]) -> tuple[str, Callable[[Any], bool]]:
    return words, lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(fits, value))


_TEXT = ("a text", lambda value: isinstance(value, str) and value != "")

_FACTS: dict[str, Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "depth": {"kind": _one_of("z", "ray")},
    "actions": {
        "kind": _one_of("continuous", "discrete"),
        "names": _list_of("a list of names, one for each number of an action", lambda name: isinstance(name, str)),
    },
    "tokens": {"vocabulary": ("a number of codes from 1 to 65536", lambda value: _is_whole(value, 1, 1 << 16))},
    "features": {
        "grid": _list_of("[height, width] of the vectors of an image", lambda size: _is_whole(size, 1, 1 << 16)),
        "weights": _TEXT,
        "preprocessing": _TEXT,
    },
}
_CHECKS = {
    "ids": _check_ids, "gaze": _check_gaze, "actions": _check_actions, "objects": _check_objects, "tokens": _check_tokens,
    "features": _check_features,
}  # fmt: skip


def _kind(name: str, arrays: dict[str, dict[str, Any]], **declared: str) -> Kind:
    table = {key: Array(**{**array, "shape": tuple(array["shape"])}) for key, array in arrays.items()}
    return Kind(arrays=table, about=_FACTS.get(name, {}), check=_CHECKS.get(name, lambda column: None), **declared)


_TABLE = json.loads(Path(__file__).with_name("columns.json").read_text(encoding="utf-8"))
KINDS: dict[str, Kind] = {name: _kind(name, **row) for name, row in _TABLE.items()}
NAMES = tuple(name + kind.told for name, kind in KINDS.items())  # as they are told to people
