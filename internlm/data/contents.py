"""What the order of a stream's samples depends on, as a checkpoint keeps it: by unit, a count and a digest."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

Contents = dict[str, str]  # by unit (a take, a folder, a recording), in the order of the source

_LIMIT = 20_000  # units that a checkpoint names one by one
_SHOWN = 3  # units that a message names


def described(count: int, noun: str, order: bytes) -> str:
    """One unit: how many of ``noun`` (a frame, a clip) it gives, and a digest of what their order depends on."""
    return f"{count} {noun if count == 1 else noun + 's'}, {hashlib.sha256(order).hexdigest()[:16]}"


def joined(parts: Sequence[Contents]) -> Contents:
    """The units of several paths, one after another; those of the first keep their names, so that a path can be added."""
    named = (
        (f"path {number}: {name}" if number > 1 else name, text)
        for number, part in enumerate(parts, 1)
        for name, text in part.items()
    )
    return dict(named)


def recorded(contents: Contents) -> Contents:
    """What a checkpoint keeps: all units, or of very many one digest over all, as each checkpoint holds it again."""
    if len(contents) <= _LIMIT:
        return contents
    return {"everything": described(len(contents), "unit", "\0".join(map("\0".join, contents.items())).encode())}


def difference(then: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """In words what was added, removed and changed; None where nothing was."""
    if list(then.items()) == list(now.items()):
        return None
    kinds = {
        "added": [name for name in now if name not in then],
        "removed": [name for name in then if name not in now],
        "changed": [f"{name}: was {then[name]}; is {now[name]}" for name in now if name in then and then[name] != now[name]],
    }
    said = [f"{len(names)} {kind} ({listed(names)})" for kind, names in kinds.items() if names]
    return ", ".join(said) or "the same takes or folders in another order"


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
