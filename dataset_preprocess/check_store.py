"""Is a take store complete and right? One line a take, what is wrong beneath, and an exit code for scripts."""

import argparse
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from dataset_preprocess.column_sanity import chosen, column_findings, tar_faults
from dataset_preprocess.manifest import REFUSED, Entry, Manifest, lost_parts, steps, takes_of
from dataset_preprocess.pose_sanity import measure
from dataset_preprocess.time_sanity import time_faults
from dataset_preprocess.workers import WorkerDied, run_in_processes
from internlm.data.store import PoseTrack, StoreError, Take, TakeInfo, TakeStore
from internlm.data.store.unfinished import remains

_WEARER = re.compile(r"\.aria\d+$")  # what a second wearer's take adds to name and uid
SHOWN = 5  # findings of one take that are printed
HEADINGS = ("split", "images", "Hz", "poses", "visible", "cameras", "posed", "face", "speed", "labels", "columns")


@dataclass
class Findings:
    """What was found in one take. faults: it breaks the contract or is damaged. odd: it can be read, but look at it.
    counts: of images and poses, by the manifest's words.
    """

    cells: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What cannot be read in the block is a fault."""
        try:
            yield
        except (StoreError, OSError) as error:
            self.faults.append(str(error))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument(
        "--decode-every", type=int, default=1, metavar="N", help="decode every N-th image and the last one (default: 1; 0: none)"
    )
    parser.add_argument("--takes-json", type=Path, metavar="FILE", help="Ego-Exo4D's takes.json, to compare names and uids")
    parser.add_argument("--strict", action="store_true", help="what is only odd counts as a fault")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: 0, this one)")


def run(args: argparse.Namespace) -> int:
    """0 = sound; 1 = faults, or nothing in it."""
    return check_store(args.store, **{name: getattr(args, name) for name in ("decode_every", "takes_json", "strict", "workers")})


def check_store(
    path: Path, *, decode_every: int = 1, takes_json: Path | None = None, strict: bool = False, workers: int = 0
) -> int:
    """Read every take, print a table and the findings; returns 1 when there is a fault (strict: or anything odd), else 0."""
    broken: list[tuple[str, StoreError]] = []
    store = TakeStore(path, broken=broken)
    found = {name: Findings(faults=[str(error)]) for name, error in broken}
    found.update(_check_all(store, decode_every, workers))
    _check_uids(store.infos, found)
    if takes_json is not None:
        _check_names(store.infos, found, takes_json)
    notes = _check_manifest(Path(path), found)
    _print_table(found)
    for note in notes:
        print(note)
    faulty = [name for name, of in found.items() if of.faults or (strict and of.odd)]
    splits = Counter(info.split for info in store.infos)
    counted = ", ".join(f"{name} {count}" for name, count in sorted(splits.items())) or "none"
    odd = sum(bool(of.odd) for of in found.values())
    print(f"{len(found)} takes ({counted}), {len(faulty)} with faults" + (f", {odd} odd" if odd else ""))
    return int(bool(faulty) or not found)


def check_take(take: Take, *, decode_every: int = 1) -> Findings:
    """Whether all parts of a take can be read and fit together; never raises for what is in the files."""
    found = Findings({"split": take.info.split, "Hz": f"{take.info.frame_rate:g}"})
    numbers, poses = np.empty(0, np.int64), None
    with found.reading():
        numbers = take.frame_numbers
        found.cells["images"], found.counts["frames"] = f"{len(numbers):,}{_spacing(numbers)}", len(numbers)
        _check_images(take, numbers, decode_every, found)
    with found.reading():
        poses = take.poses()
        if poses is not None:
            found.counts["poses"] = len(poses.frames)
            _check_poses(take.info, poses, numbers, found)
        elif not len(numbers) and not found.faults and not take.columns:
            found.faults.append("neither images nor poses")
    with found.reading():
        found.cells["labels"] = " ".join(sorted(take.labels().keys() - {"frames"}))
        found.faults.extend(time_faults(take))
    found.cells["columns"] = " ".join(take.columns)
    for name in take.columns:
        faults, odd = column_findings(take, name, numbers, poses, decode_every)
        found.faults.extend(faults)
        found.odd.extend(odd)
    return found


def _check_all(store: TakeStore, decode_every: int, workers: int) -> dict[str, Findings]:
    names = [info.name for info in store.infos]
    check = partial(_check_named, store, decode_every)
    results = run_in_processes(names, check, min(workers, len(names))) if workers > 0 else ((name, check(name)) for name in names)
    found = {
        name: Findings(faults=[f"could not be checked: {result.reason}"]) if isinstance(result, WorkerDied) else result
        for name, result in results
    }
    return {name: found[name] for name in names}


def _check_named(store: TakeStore, decode_every: int, name: str) -> Findings:
    return check_take(store.take(name), decode_every=decode_every)


def _check_images(take: Take, numbers: np.ndarray, decode_every: int, found: Findings) -> None:
    camera = take.info.camera
    expected = camera and (camera.width, camera.height)
    found.faults.extend(tar_faults(take.path, "frames"))
    for number in chosen(numbers, decode_every):
        try:
            size = _decoded_size(take.read_frame(number), expected)
        except Exception as error:  # image libraries raise errors of many kinds for damaged data
            found.faults.append(f"frame {number}: {error}")
            continue
        expected = expected or size
        if size != expected:
            whose = "the camera says" if camera else "the first image is"
            found.faults.append(f"frame {number}: is {size[0]}x{size[1]}, {whose} {expected[0]}x{expected[1]}")


def _decoded_size(data: bytes, expected: tuple[int, int] | None) -> tuple[int, int]:
    """Width and height of an encoded image that can be decoded; a picture of another size than expected is left alone.

    ValueError for one that stands upright only once the orientation in its EXIF is applied: its camera is that of its pixels.
    """
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
        if expected in (None, image.size):
            image.load()
        if (orientation := image.getexif().get(0x0112, 1)) not in (0, 1):
            raise ValueError(f"EXIF orientation {orientation}: stored images are upright; turn the pixels and remove the note")
        return image.size


def _check_poses(info: TakeInfo, poses: PoseTrack, numbers: np.ndarray, found: Findings) -> None:
    cells = found.cells
    cells["poses"] = f"{len(poses.frames):,}{_spacing(poses.frames)}"
    cells["cameras"] = f"{len(poses.camera_frames):,}{_spacing(poses.camera_frames)}"
    if len(poses.frames):
        cells["visible"] = f"{poses.visible.mean():.0%}"
        if info.pose_space is None:
            found.faults.append("has poses, but take.json does not say in which space (pose_space)")
        if not poses.visible.any():
            found.odd.append("no joint of any pose is visible")
    if len(numbers):
        cells["posed"] = f"{int(np.isin(numbers, poses.frames).sum()):,}"
    figures = measure(poses, info.frame_rate, info.pose_space)
    cells["face"] = "" if figures.head_distance is None else f"{100 * figures.head_distance:.0f} cm"
    cells["speed"] = "" if figures.top_speed is None else f"{figures.top_speed:.1f} m/s"
    found.odd.extend(figures.odd)
    for what, frames in (("camera pose", poses.camera_frames), ("body pose", poses.frames)):
        # Part of a take without poses is usual; no image at all that has one means that the two were numbered differently.
        if len(numbers) and len(frames) and not np.isin(numbers, frames).any():
            found.odd.append(f"no image has a {what}: images {_range(numbers)}, poses {_range(frames)}")
    if len(numbers) and info.camera is None:
        found.odd.append("has images and poses, but no camera: nothing can be projected")


def _check_uids(infos: Sequence[TakeInfo], found: dict[str, Findings]) -> None:
    """One recording under two names would be trained on twice; in two splits it would be tested on what was trained on."""
    by_uid, by_recording = defaultdict(list), defaultdict(list)
    for info in infos:
        by_uid[info.uid].append(info)
        by_recording[_WEARER.sub("", info.uid)].append(info)
    for uid, same in by_uid.items():
        for info in same if len(same) > 1 else ():
            found[info.name].faults.append(f"uid {uid!r} belongs to several takes: {', '.join(i.name for i in same)}")
    for uid, same in by_recording.items():
        splits = sorted({info.split for info in same})
        for info in same if len(splits) > 1 else ():
            found[info.name].faults.append(f"recording {uid!r} is in the splits {', '.join(splits)}")


def _check_names(infos: Sequence[TakeInfo], found: dict[str, Findings], takes_json: Path) -> None:
    from dataset_preprocess.json_input import read_json

    entries = [entry for entry in read_json(takes_json, list) if isinstance(entry, dict)]
    names = {str(entry.get("take_uid")): str(entry.get("take_name")) for entry in entries}
    for info in infos:
        uid = _WEARER.sub("", info.uid)
        if uid not in names:
            found[info.name].faults.append(f"uid {uid!r} is not in {takes_json}")
        elif info.name != names[uid] + info.uid[len(uid) :]:
            found[info.name].faults.append(f"uid {uid!r} is the take {names[uid]!r} in {takes_json}")


def _check_manifest(path: Path, found: dict[str, Findings]) -> list[str]:
    """What the manifest calls done must be there, and no step may have failed; what was skipped or left unfinished is told."""
    notes = []
    for step in steps(path):
        manifest, became = Manifest(path, step), Counter()
        for name in manifest.names():
            entry = manifest.read(name)
            status = entry.status if entry else "unreadable"
            if status == "failed" and entry.facts.get(REFUSED):
                status = REFUSED
                found.setdefault(name, Findings()).odd.append(f"step {step} was refused when it was last tried: {entry.reason}")
            became[status] += 1
            if status == "done":
                _check_claims(path, step, name, entry, found)
            if status == "failed":
                found.setdefault(name, Findings()).faults.append(f"step {step} failed when it was last tried: {entry.reason}")
        notes.append(f"step {step}: " + ", ".join(f"{count} {status}" for status, count in sorted(became.items())))
    if unfinished := remains(path / "takes"):
        notes.append(f"unfinished: {', '.join(unfinished)}; being written, or left by a killed run: repeat its command")
    if strangers := sorted(e.name for e in (path / "takes").iterdir() if e.name[0] != "." and e.name not in found and e.is_dir()):
        notes.append(f"not takes, left alone: {', '.join(strangers)}")
    return notes


def _check_claims(path: Path, step: str, name: str, entry: Entry, found: dict[str, Findings]) -> None:
    """Takes, parts and, where an entry is of one take, as many frames and poses as the entry says."""
    claim = f"manifest/{step}/{name}.json"
    lost = lost_parts(path, name, entry)
    for take, parts in lost.items():
        what = "it is not there" if parts == "the take" else f"its {parts} are not there"
        way_out = "another command may have removed them; repeat the command of this step"
        found.setdefault(take, Findings()).faults.append(f"{claim} calls it done, but {what}: {way_out}")
    made = takes_of(name, entry)
    for part, count in found[made[0]].counts.items() if len(made) == 1 and made[0] in found and not lost else ():
        claimed = entry.facts.get(part)
        if isinstance(claimed, int) and claimed != count:
            found[made[0]].faults.append(f"{claim} says {claimed:,} {part}, {count:,} are there")


def _print_table(found: dict[str, Findings]) -> None:
    headings = [heading for heading in HEADINGS if any(of.cells.get(heading) for of in found.values())]
    rows = [("take", *headings)] + [(name, *(of.cells.get(h, "") for h in headings)) for name, of in sorted(found.items())]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        of = found.get(row[0]) if row is not rows[0] else None
        for word, texts in (("fault", of.faults), ("odd", of.odd)) if of else ():
            for text in texts[:SHOWN]:
                print(f"  {word}: {text}")
            if len(texts) > SHOWN:
                print(f"  {word}: and {len(texts) - SHOWN} more")


def _spacing(numbers: np.ndarray) -> str:
    """The usual step between frame numbers and how often it is broken: `` every 5, 2 gaps``."""
    if len(numbers) < 2:
        return ""
    usual, times = Counter(np.diff(numbers).tolist()).most_common(1)[0]
    gaps = len(numbers) - 1 - times
    return f" every {usual}" + (f", {gaps} gap{'s' * (gaps > 1)}" if gaps else "")


def _range(numbers: np.ndarray) -> str:
    return f"{numbers[0]} to {numbers[-1]}{_spacing(numbers)}"
