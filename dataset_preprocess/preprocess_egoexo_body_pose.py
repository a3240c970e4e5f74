"""Body poses of Ego-Exo4D into a take store, or into the JSON fragments of EgoAgent's first release, or from those.

egoagent data poses RAW STORE                          (or: python -m dataset_preprocess.preprocess_egoexo_body_pose ...)
egoagent data poses RAW FOLDER --upstream-json
egoagent data poses FOLDER STORE --from-upstream-json
"""

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataset_preprocess.body_pose.annotations import AUTOMATIC, CHOICES, read_annotation, usual_step
from dataset_preprocess.body_pose.camera_pose import read_camera_poses
from dataset_preprocess.body_pose.filters import Filters
from dataset_preprocess.body_pose.takes import COORDINATES, PoseFiles, PoseSettings, build_track, find_pose_files, read_pose_files
from dataset_preprocess.body_pose.upstream_json import SHORTEST, find_fragments, read_fragments, write_fragments
from dataset_preprocess.egoexo import FRAME_RATE, SOURCE, read_takes
from dataset_preprocess.errors import RecordingError
from dataset_preprocess.pipeline import SkipTake, add_run_arguments, run_arguments, run_jobs
from internlm.data.store import SPLITS, PoseTrack, StoreWriter, TakeInfo, TakeStore


def write_poses(files: PoseFiles, *, out: Path, settings: PoseSettings, anew: bool = False) -> dict[str, Any]:
    """Give a take its poses; frames that the store has of it stay."""
    annotation, cameras = read_pose_files(files, settings.annotations)
    track, labels, facts = build_track(annotation, cameras, settings)
    step = usual_step(track.frames)
    # A take is its first wearer's; what another wearer saw and did is a take of its own.
    other = f".{cameras.camera}" if files.take.wearers and cameras.camera != files.take.wearers[0] else ""
    space, task = "camera" if settings.coordinates == "camera" else "world", files.take.task
    extra = {"annotations": settings.annotations, "coordinates": settings.coordinates, "pose_camera": cameras.camera}
    extra |= {"pose_step": step, "pose_rate_hz": FRAME_RATE / step}
    about = {"pose_space": space, "labels": {"task": task} if task else {}, "source": SOURCE, "extra": extra}
    info = TakeInfo(files.name + other, files.uid + other, files.split, FRAME_RATE, **about)
    StoreWriter(out).extend_take(info, poses=track, labels=labels, replace=anew)
    return facts


def write_upstream(files: PoseFiles, *, out: Path) -> dict[str, Any]:
    """The fragments of a take, chosen and cut as the first release did: automatic poses, no bouldering."""
    if files.take is None:
        raise SkipTake(f"{files.uid} is annotated, but takes.json does not list it")
    if "bouldering" in files.name or files.automatic is None or files.cameras is None:
        raise SkipTake("bouldering, or no automatic annotation, or no camera poses")
    annotation, cameras = read_annotation(files.automatic, AUTOMATIC), read_camera_poses(files.cameras)
    common = int(np.isin(annotation.frames, cameras.frames).sum())
    if files.split == "train" and common <= SHORTEST:
        raise SkipTake(f"{common} frames with pose and camera; training takes need more than {SHORTEST}")
    count = write_fragments(out / files.split, files.uid, annotation, cameras)
    if not count:
        raise SkipTake(f"{common} frames with pose and camera make no fragment; 100 are needed")
    return {"fragments": count, "frames": common}


@dataclass(frozen=True)
class FragmentFiles:
    """The fragments of one take. name: the take's where the download is at hand, which joins them to its frames; else the uid."""

    name: str
    uid: str
    split: str
    paths: tuple[Path, ...]


def import_upstream(files: FragmentFiles, *, out: Path, anew: bool = False) -> dict[str, Any]:
    """A take of the store from its fragments: poses in the upright camera of their own frame, no camera poses."""
    poses = read_fragments(list(files.paths))
    step = usual_step(poses.frames)
    extra = {"coordinates": "camera", "pose_step": step, "pose_rate_hz": FRAME_RATE / step}
    info = TakeInfo(files.name, files.uid, files.split, FRAME_RATE, pose_space="camera", source=SOURCE, extra=extra)
    nowhere = np.empty((0, 4, 4))
    track = PoseTrack(poses.frames, poses.joints.astype(np.float32), poses.visible, poses.frames[:0], nowhere)
    StoreWriter(out).extend_take(info, poses=track, replace=anew)
    return {"pose_rate": f"{FRAME_RATE / step:g} Hz", "poses": len(poses), "gaps": int((np.diff(poses.frames) != step).sum())}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("raw", type=Path, metavar="RAW", help="the folder that `egoexo -o` wrote to (or of fragments)")
    parser.add_argument("out", type=Path, metavar="OUT", help="take store to create or extend (or folder for fragments)")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, help="of the body-pose benchmark (default: all)")
    parser.add_argument("--takes", nargs="+", metavar="NAME", help="only these takes, by name or uid")
    add_pose_arguments(parser)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--upstream-json", action="store_true", help="write the first release's JSON fragments to OUT, not a store")
    kind.add_argument("--from-upstream-json", action="store_true", help="RAW holds such fragments; write them to the store OUT")
    parser.add_argument("--download", type=Path, metavar="RAW", help="with --from-upstream-json: names takes by its takes.json")
    add_run_arguments(parser)


def add_pose_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of every command that stores Ego-Exo4D poses."""
    limits = Filters()
    group = parser.add_argument_group("poses")
    add = group.add_argument
    add(
        "--annotations",
        choices=CHOICES,
        default="either",
        help="either: automatic, or manual where a take has no automatic (default); merged: all frames, manual before automatic",
    )
    add(
        "--coordinates",
        choices=COORDINATES,
        default="world",
        help="of the stored joints: world (default), each frame's camera, or the first frame's camera",
    )
    add("--min-views", type=int, default=limits.min_views, help="cameras that saw a joint (default: %(default)s)")
    add("--bone-ratio", type=float, default=limits.bone_ratio, help="a bone's length against its median (default: %(default)s)")
    add("--max-speed", type=float, default=limits.max_speed, help="of a joint, m/s (default: %(default)s)")
    add("--head-distance", type=float, default=limits.head_distance, help="face to head camera, metres (default: %(default)s)")
    add("--no-filters", action="store_true", help="keep every joint as annotated")


def pose_settings(args: argparse.Namespace) -> PoseSettings:
    """The parsed options as settings; RecordingError for limits that make no sense."""
    limits = Filters(args.min_views, args.bone_ratio, args.max_speed, args.head_distance)
    if min(limits.min_views, limits.max_speed, limits.head_distance) < 0 or 0 < limits.bone_ratio <= 1 or limits.bone_ratio < 0:
        raise RecordingError(f"filters {limits}: none may be negative, and --bone-ratio must exceed 1 (0 = off)")
    return PoseSettings(args.annotations, args.coordinates, Filters(0, 0, 0, 0) if args.no_filters else limits)


def choose(files: list[PoseFiles], names: list[str] | None) -> list[PoseFiles]:
    """Those of the given names or uids; RecordingError naming one that is not there."""
    if names is None:
        return files
    known = {name for item in files for name in (item.name, item.uid)}
    if unknown := [name for name in names if name not in known]:
        raise RecordingError(f"take {unknown[0]!r} has no body annotation in this download")
    return [item for item in files if item.name in names or item.uid in names]


def run(args: argparse.Namespace) -> int:
    """0, or 1 when a take failed."""
    options = {"out": args.out, **run_arguments(args)}
    if args.from_upstream_json:
        names = {take.uid: take.name for take in read_takes(args.download)} if args.download else {}
        found = find_fragments(args.raw)
        jobs = [FragmentFiles(names.get(uid, uid), uid, split, tuple(paths)) for (split, uid), paths in found.items()]
        jobs = [job for job in jobs if job.split in (args.splits or SPLITS)]
        jobs = [job for job in jobs if not args.takes or {job.name, job.uid} & set(args.takes)]
        StoreWriter(args.out)
        return run_jobs(jobs, partial(import_upstream, out=args.out), step="poses", **options).exit_code
    if args.upstream_json:
        if TakeStore.is_store(args.out):
            raise RecordingError(f"{args.out}: is a take store; give --upstream-json a folder of its own for the fragments")
        files = choose(find_pose_files(args.raw, tuple(args.splits or ("train", "val"))), args.takes)
        return run_jobs(files, partial(write_upstream, out=args.out), step="upstream-json", **options).exit_code
    files = choose(find_pose_files(args.raw, tuple(args.splits or SPLITS)), args.takes)
    settings = pose_settings(args)
    StoreWriter(args.out)
    work = partial(write_poses, out=args.out, settings=settings)
    return run_jobs(files, work, step="poses", settings=settings.recorded(), **options).exit_code


if __name__ == "__main__":
    from internlm.cli import main

    sys.exit(main(["data", "poses", *sys.argv[1:]]))
