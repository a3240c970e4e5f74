"""Motion capture into a take store: takes with poses and no images, at 30 Hz, in world metres.

Readable: .npz with joint positions, .npz with SMPL-family parameters (AMASS, EE4D-Motion; needs the body model's file) or
SMPL-ordered joints, .bvh, and .amc beside its .asf. Joint names that are not known are given by a joint map.
"""

import argparse
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from dataset_preprocess.errors import RecordingError
from dataset_preprocess.json_input import read_json
from dataset_preprocess.pipeline import SkipTake, add_run_arguments, run_step
from internlm.data.mocap import UNITS, UP_AXES, MocapError, as_joint_map, motion_take, parse_unit, read_motions
from internlm.data.mocap.posture import NOTHING_STATED, Stated
from internlm.data.store import SPLITS, StoreWriter

SUFFIXES = (".npz", ".bvh", ".amc")
NO_MOTION = ("neither positions nor body-model parameters",)


@dataclass(frozen=True)
class MotionFile:
    """One file to read. name: the prefix of its takes' names. searched: found in a folder rather than named by the user."""

    name: str
    path: Path
    searched: bool


@dataclass(frozen=True)
class MotionSettings:
    """What decides about the takes of a file. split: of motions that the file does not mark. skip: frames at 30 Hz that every
    motion loses at its start; the others keep their numbers."""

    split: str = "train"
    labels: dict[str, str] = field(default_factory=dict)
    average_face: bool = False
    stated: Stated = NOTHING_STATED
    body_model: Path | None = None
    skip: int = 0


def find_motion_files(paths: Iterable[Path]) -> list[MotionFile]:
    """The motion files among files and folders (searched in all depths, without what archives and systems hide there).
    RecordingError when there is none or two would give takes of one name."""
    found: dict[str, MotionFile] = {}
    for path in paths:
        if not path.exists():
            raise RecordingError(f"{path}: no such file or folder")
        members = sorted(_search(path)) if path.is_dir() else [path]
        if not members:
            raise RecordingError(f"{path}: holds no motion files ({', '.join(SUFFIXES)})")
        for file in members:
            relative = file.relative_to(path) if path.is_dir() else Path(file.name)
            name = re.sub(r"[^\w.-]+", "_", "_".join(relative.with_suffix("").parts)).strip(".") or "motion"
            if name in found and found[name].path.resolve() != file.resolve():
                raise RecordingError(f"{file} and {found[name].path} would both give takes named {name}; import them apart")
            found[name] = MotionFile(name, file, path.is_dir())
    return list(found.values())


def _search(folder: Path) -> Iterable[Path]:
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path


def import_file(job: MotionFile, *, out: Path, settings: MotionSettings, anew: bool = False) -> dict[str, Any]:
    """Write all motions of a file as takes: <file>, or <file>_<split>_<motion> where the file holds several."""
    try:
        motions = read_motions(job.path, body_model=settings.body_model, **vars(settings.stated))
    except MocapError as error:
        if job.searched and any(text in str(error) for text in NO_MOTION):
            raise SkipTake(str(error)) from None
        raise
    writer = StoreWriter(out)
    names = set()
    for motion in motions:
        if len(motion) <= settings.skip:
            raise RecordingError(f"{job.path}: {motion.name!r} has {len(motion)} frames, --skip {settings.skip} leaves none")
        kept = motion.cut(settings.skip, len(motion))
        info, track = motion_take(kept, split=settings.split, labels=settings.labels, average_face=settings.average_face)
        track = replace(track, frames=track.frames + settings.skip, camera_frames=track.camera_frames + settings.skip)
        name = job.name if len(motions) == 1 else f"{job.name}_{info.name}"
        if name in names:
            raise RecordingError(f"{job.path}: holds two motions named {motion.name!r} of the same split")
        names.add(name)
        info = replace(info, name=name, uid=name, extra={**info.extra, "file": job.path.name, "motion": motion.name})
        writer.extend_take(info, poses=track, replace=anew)
    return {"takes": sorted(names), "poses": sum(len(motion) - settings.skip for motion in motions)}


def read_joint_map(path: Path) -> dict[str, str]:
    """COCO joint name, or head or neck -> name in the motion files. Raises RecordingError and MocapError."""
    return as_joint_map(read_json(path, dict), path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="take store to create or extend")
    add("files", type=Path, nargs="+", metavar="FILE", help=".npz, .bvh, .amc (its .asf beside it), or a folder")
    add("--split", choices=SPLITS, default="train", help="of motions that the file does not mark")
    add("--label", action="append", default=[], metavar="KEY=VALUE", help="label of every take; may be repeated")
    add(
        "--joints",
        type=Path,
        metavar="MAP.json",
        help="COCO joint name (or head, neck) -> name in the files, for names not known",
    )
    add("--rate", type=float, metavar="HZ", help="frames a second, in place of what the file says (.amc files say nothing: 120)")
    add("--up", choices=UP_AXES, help="axis that points up, where file and body do not tell (-y and such: --up=-y)")
    add("--unit", metavar="UNIT", help=f"unit of length, where file and body do not tell: {', '.join(UNITS)}, or metres")
    add("--body-model", type=Path, metavar="MODEL.npz", help="SMPL-family model, for AMASS-like files")
    add(
        "--average-face", action="store_true", help="mark nose, eyes and ears visible that are an average face on a recorded head"
    )
    add(
        "--skip",
        type=int,
        default=0,
        metavar="N",
        help="leave out the first N frames (30 Hz) of every motion: many CMU conversions begin with one frame of a T-pose",
    )
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """0, or 1 when a file failed."""
    labels, joint_map = dict(_pairs(args.label)), read_joint_map(args.joints) if args.joints else None
    unit = parse_unit(args.unit) if args.unit else None
    if args.skip < 0:
        raise RecordingError(f"--skip {args.skip}: cannot be negative")
    stated = Stated(joint_map, args.rate, args.up, unit)  # refused here, not once for every file
    settings = MotionSettings(args.split, labels, args.average_face, stated, args.body_model, args.skip)
    recorded = {
        "split": args.split,
        "labels": labels,
        "average_face": args.average_face,
        "joint_map": joint_map,
        "body_model": args.body_model.name if args.body_model else None,
        "skip": args.skip,
        **{key: value for key in ("rate", "up", "unit") if (value := getattr(stated, key)) is not None},
    }
    files = find_motion_files(args.files)
    return run_step(args, files, partial(import_file, settings=settings), "motion", recorded)


def _pairs(words: Iterable[str]) -> Iterable[tuple[str, str]]:
    for word in words:
        key, mark, value = word.partition("=")
        if not key or not mark or not value:
            raise RecordingError(f"--label {word!r}: give it as key=value")
        yield key, value
