"""``egoagent world``: write an EgoWorld take store, or with --raw the folder layout of Ego-Exo4D."""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``egoagent world``."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the take store (created, or extended by missing takes)")
    parser.add_argument("--takes", type=int, metavar="N", help="training takes (default 40; with --motion one per sequence)")
    parser.add_argument("--val-takes", type=int, metavar="N", help="validation takes (default 8; 0 with --motion)")
    parser.add_argument("--test-takes", type=int, metavar="N", help="test takes (default 8; with --motion one per test sequence)")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a take (default 30)")
    parser.add_argument("--size", type=int, default=64, help="image side in pixels (default 64)")
    parser.add_argument("--image-stride", type=int, default=5, help="an image every so many 30 Hz frames (default 5)")
    parser.add_argument("--camera", choices=("pinhole", "fisheye624"), default="pinhole", help="camera model (default pinhole)")
    parser.add_argument("--places", nargs="+", default=(), metavar="PLACE", help="place classes (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="everything follows from it (default 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; the bytes do not depend on it")
    parser.add_argument("--motion", type=Path, metavar="FILE", help="drive the body by recorded motion: .npz, .bvh or .amc")
    parser.add_argument("--motion-joints", type=Path, metavar="MAP.json", help="COCO joint name (or head, neck) -> name in FILE")
    parser.add_argument("--motion-rate", type=float, metavar="HZ", help="frames a second of FILE, in place of what it says")
    parser.add_argument("--motion-up", metavar="AXIS", help="axis of FILE that points up, where file and body do not tell")
    parser.add_argument("--motion-unit", metavar="UNIT", help="its unit, where file and body do not tell: m, cm, inch or metres")
    parser.add_argument("--motion-split", choices=("train", "test"), help="use only the motions the file marks so")
    parser.add_argument("--raw", action="store_true", help="write Ego-Exo4D's layout (fisheye mp4, calibration, annotations)")
    parser.add_argument("--depth", action="store_true", help="also write depth (z-depth, mm), to takes without it too")


def run(args: argparse.Namespace) -> int:
    """Write the world. Raises SettingsError, MocapError, PlacementError or StoreError, which name what to change."""
    from internlm.egoworld.rooms import PLACES
    from internlm.egoworld.simulate import SettingsError, generate_store

    if unknown := [place for place in args.places if place not in PLACES]:
        raise SettingsError(f"--places {unknown[0]}: unknown; known are {', '.join(PLACES)}")
    for name in ("seconds", "size", "image_stride", "jobs"):
        if getattr(args, name) <= 0:
            raise SettingsError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be positive")
    if args.raw and args.depth:
        raise SettingsError("--depth: recordings in the layout of Ego-Exo4D (--raw) have no depth; leave one of the two out")
    motions = _motions(args)
    takes = _counts(args, motions)
    options = dict(seed=args.seed, size=args.size, seconds=args.seconds, places=args.places, motions=motions, jobs=args.jobs)
    with _progress(sum(takes.values())) as advance:
        if args.raw:
            from internlm.egoworld.raw import generate_raw

            generate_raw(args.out, takes, **options, on_take=advance)
        else:
            only_store = dict(image_stride=args.image_stride, camera=args.camera, depth=args.depth)
            generate_store(args.out, takes, **options, **only_store, on_take=advance)
    counts = ", ".join(f"{count} {split}" for split, count in takes.items() if count)
    print(f"{args.out}: {counts} takes of {'at most ' if motions else ''}{args.seconds:g} s")
    return 0


def _motions(args: argparse.Namespace) -> list:
    from internlm.data.mocap import parse_unit, read_joint_map, read_motions

    if not args.motion:
        return []
    joint_map = read_joint_map(args.motion_joints) if args.motion_joints else None
    unit = parse_unit(args.motion_unit) if args.motion_unit else None
    about = {"joint_map": joint_map, "rate": args.motion_rate, "up": args.motion_up, "unit": unit}
    return read_motions(args.motion, args.motion_split, **about)


def _counts(args: argparse.Namespace, motions: list) -> dict[str, int]:
    """Takes a split. Recorded motion gives one take a sequence unless numbers are asked for; it has no validation part."""
    if motions:
        marked = {split: sum(motion.split == split for motion in motions) for split in ("train", "test")}
        free = sum(motion.split is None for motion in motions)
        defaults = {"train": marked["train"] + free, "val": 0, "test": marked["test"]}
    else:
        defaults = {"train": 40, "val": 8, "test": 8}
    given = {"train": args.takes, "val": args.val_takes, "test": args.test_takes}
    takes = {split: defaults[split] if count is None else count for split, count in given.items()}
    if min(takes.values()) < 0 or not any(takes.values()):
        from internlm.egoworld.simulate import SettingsError

        raise SettingsError(f"--takes, --val-takes, --test-takes {takes}: none may be negative and one must be positive")
    return takes


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A rich progress bar on a terminal, silence elsewhere; calling what it gives marks one take done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("takes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("takes", total=total)
        yield lambda name: bar.update(task, advance=1)
