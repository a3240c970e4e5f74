"""Which parts of a take who wrote, and whether what another command brings may join them. Nothing is removed unasked.

A take whose parts come from one source needs no record of that: ``source`` says it. Where two sources meet (motion capture and
a video of it), ``source`` names both, and ``extra["writers"]`` has what each of them said:

    {"mocap": {"parts": ["poses"], "labels": {...}, "extra": {...}}, "video": {"parts": ["frames"], ...}}
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from internlm.data.store.column_files import column_names, files_of, read_column
from internlm.data.store.contract import TakeConflict, TakeInfo
from internlm.data.store.reader import read_frame_index, read_labels, read_track

_PARTS = {"frames": ("frames.tar", "frames.idx.npy", "frames"), "poses": ("poses.npz",), "labels": ("labels.npz",)}
_WRITERS = "writers"
_SLACK = 0.1  # seconds by which a body track and a video of the same motion may end apart
_WAY_OUT = (
    "use another store or another file name, or --replace, which makes the take from this command alone and removes what "
    "the other one wrote"
)


_AGREE = {"split": "give both the same --split, ", "frame_rate": "make both at the same rate (--rate), "}


def parts_of(folder: Path) -> set[str]:
    """Of "frames", "poses", "labels" and the names of columns, those that a take folder has."""
    return {part for part, names in _PARTS.items() if any((folder / name).exists() for name in names)} | {*column_names(folder)}


def part_files(part: str) -> tuple[str, ...]:
    """The files and folders that a part may have, relative to the take's folder."""
    return _PARTS.get(part) or files_of(part)


def joined(old: TakeInfo, new: TakeInfo, have: set[str], given: set[str]) -> TakeInfo:
    """The row of a take that has the parts ``have`` and gets ``given``.

    Raises TakeConflict, naming the parts, when another source wrote one of the given parts, or when the parts that stay are of
    another recording: uid, or with parts that stay split or frame rate, differ.
    """
    writers = _writers(old, have)
    owner = {part: source for source, writer in writers.items() if source != new.source for part in writer.parts}
    if taken := sorted(given & owner.keys()):
        whose = " and ".join(sorted({_described(writers, owner[part]) for part in taken}))
        raise TakeConflict(
            f"take {new.name!r}: {whose} wrote its {_listed(taken)}, and {new.source!r} would replace that: {_WAY_OUT}"
        )
    kept = have - given
    for name in ("uid", "split", "frame_rate") if kept else ("uid",):
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            raise TakeConflict(
                f"take {new.name!r}: has {name} {was!r} in the store, now {now!r}; the {_listed(kept or have)} of {old.source!r} "
                f"and the {_listed(given)} of {new.source!r} would not belong together: {_AGREE.get(name, '')}{_WAY_OUT}"
            )
    mine = writers.pop(new.source, _Writer(set(), {}, {}))
    if mine.parts - given:  # an earlier command of this source, whose part stays
        mine = _Writer(mine.parts | given, {**mine.labels, **new.labels}, {**mine.extra, **new.extra})
    else:
        mine = _Writer(given, new.labels, new.extra)
    writers[new.source] = mine
    camera = new.camera if "frames" in given else new.camera or old.camera
    space = new.pose_space if "poses" in given else new.pose_space or (old.pose_space if "poses" in kept else None)
    sources = sorted(writers)
    labels = {key: value for source in sources for key, value in writers[source].labels.items()}
    extra = {key: value for source in sources for key, value in writers[source].extra.items()}
    if len(writers) > 1:
        extra[_WRITERS] = {source: writer.record() for source, writer in writers.items()}
    return ordered(replace(new, camera=camera, pose_space=space, source="+".join(sources), labels=labels, extra=extra))


def ordered(info: TakeInfo) -> TakeInfo:
    """The same row with its objects in the order of their keys, so that the order of commands does not show."""
    return replace(info, labels=_sorted(info.labels), extra=_sorted(info.extra))


def check_same_length(folder: Path, info: TakeInfo) -> None:
    """TakeConflict when frames and poses of two sources do not end together, or a column goes on after both: then they are not
    of one recording."""
    if _WRITERS not in info.extra:
        return
    track = read_track(folder)
    ends = {"images": read_frame_index(folder)[0], "poses": track.frames if track else ()}
    ends = {what: numbers for what, numbers in ends.items() if len(numbers)}
    last = {what: int(numbers[-1]) for what, numbers in ends.items()}
    steps = [int(np.diff(numbers).min()) for numbers in ends.values() if len(numbers) > 1]
    slack = max(1, *steps, round(_SLACK * info.frame_rate))
    told = f"({info.frame_rate:g} Hz), so {info.source.replace('+', ' and ')} are not of one recording; {_WAY_OUT}"
    if len(last) == 2 and abs(last["images"] - last["poses"]) > slack:
        raise TakeConflict(
            f"take {info.name!r}: its images end at frame {last['images']} and its poses at frame {last['poses']} {told}"
        )
    for name in column_names(folder) if last else ():
        frames = read_column(folder, name).frames
        if len(frames) and frames[-1] > max(last.values()) + slack:
            what = " and ".join(f"its {what} end at frame {number}" for what, number in last.items())
            raise TakeConflict(f"take {info.name!r}: its column {name} goes on to frame {frames[-1]}, but {what} {told}")


def check_labels_kept(old: Path, labels: dict[str, np.ndarray] | None) -> None:
    """TakeConflict when labels that the take has are not among those that replace them."""
    lost = sorted(read_labels(old).keys() - labels.keys()) if labels else []
    if lost:
        raise TakeConflict(f"take {old.name!r}: its labels {', '.join(lost)} would be lost; give them with the new or {_WAY_OUT}")


@dataclass(frozen=True)
class _Writer:
    parts: set[str]
    labels: dict[str, str]
    extra: dict[str, Any]

    def record(self) -> dict[str, Any]:
        return {"parts": sorted(self.parts), "labels": self.labels, "extra": self.extra}


def _writers(info: TakeInfo, have: set[str]) -> dict[str, _Writer]:
    table = info.extra.get(_WRITERS)
    if not isinstance(table, dict):
        return {info.source: _Writer(have, info.labels, info.extra)}
    try:
        return {source: _Writer(set(w["parts"]), dict(w["labels"]), dict(w["extra"])) for source, w in table.items()}
    except (TypeError, KeyError, ValueError):
        raise TakeConflict(f"take {info.name!r}: extra {_WRITERS!r} in its take.json is damaged; {_WAY_OUT}") from None


def _described(writers: dict[str, _Writer], source: str) -> str:
    file = writers[source].extra.get("file")
    return repr(source) + (f" ({file})" if isinstance(file, str) else "")


def _listed(parts: Iterable[str]) -> str:
    return " and ".join(sorted(parts))


def _sorted(value: Any) -> Any:
    return {key: _sorted(value[key]) for key in sorted(value)} if isinstance(value, dict) else value
