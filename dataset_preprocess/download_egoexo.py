"""The parts of Ego-Exo4D that this project needs, through the official `egoexo` downloader: as commands to read, or run.

    egoagent data download RAW                      prints the commands, what they are for and how much they fetch
    egoagent data download RAW --run                runs them; given again, it goes on with what is missing
    egoagent data download RAW --run --only-missing fetches video and calibration of the takes that lack one

`egoexo` (pip install ego4d) needs keys that come with the signed licence and are valid for 14 days.
"""

import argparse
import json
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_preprocess.egoexo import EgoExoTake, calibration_files, find_table, read_takes
from dataset_preprocess.errors import RecordingError
from dataset_preprocess.json_input import read_json
from dataset_preprocess.summary import listed
from internlm.core.files import write_text, written

# part: (gigabytes of the whole release, what it is for). The downloader's own part names.
PARTS = {
    "metadata": (0.05, "takes.json: names, uids and cameras of all takes"),
    "annotations": (10.5, "manual body poses, camera poses, splits"),
    "ego_pose_pseudo_gt": (139, "automatic body poses"),
    "downscaled_takes/448": (439, "frame-aligned videos of 448 pixels (all cameras; the wearers' are a part of it)"),
    "take_vrs_noimagestream": (996, "calibration of every pair of glasses"),
}
NEEDS = {
    "poses": ("metadata", "annotations", "ego_pose_pseudo_gt"),
    "frames": ("metadata", "downscaled_takes/448", "take_vrs_noimagestream"),
}
OF_TAKES = ("downscaled_takes/448", "take_vrs_noimagestream")  # parts that can be fetched take by take
WEARERS_ONLY = ("downscaled_takes/448",)  # parts that hold the other cameras too
RECORD = ".egoagent-download.json"


@dataclass(frozen=True)
class Step:
    """One call of the downloader. asked: its takes were named, so that one which stays missing is a failure, not a note."""

    part: str
    command: tuple[str, ...]
    uids: tuple[str, ...] = ()
    asked: bool = True

    @property
    def key(self) -> str:
        """What the record of finished steps calls it: the command without program and output folder."""
        return shlex.join(self.command[3:])


def plan(
    out: Path,
    parts: Sequence[str],
    *,
    uids: Sequence[str] = (),
    splits: Sequence[str] = (),
    release: str = "v2",
    profile: str | None = None,
    batch: int = 50,
    asked: bool = True,
) -> list[Step]:
    """The downloader's calls in order. uids: only these takes, ``batch`` of them in a call; parts not of takes come once."""
    steps = []
    for part in parts:
        options = ["--parts", part, "--release", release]
        options += ["--views", "ego"] if part in WEARERS_ONLY else []
        options += ["--splits", *splits] if splits and part in OF_TAKES else []
        options += ["--s3_profile", profile] if profile else []
        groups = [tuple(uids[i : i + batch]) for i in range(0, len(uids), batch)] if uids and part in OF_TAKES else [()]
        for group in groups:
            chosen = ["--uids", *group] if group else []
            steps.append(Step(part, ("egoexo", "-o", str(out), *options, *chosen, "-y"), group, asked))
    return steps


def download(out: Path, steps: Sequence[Step], *, calibration_only: bool = False, force: bool = False) -> int:
    """Run every step that the record does not call finished; returns how many failed.

    A step that fails does not stop the others. calibration_only: after each step, calibrations are written as JSON beside the
    VRS files, and these are removed. Raises RecordingError when the downloader is not installed.
    """
    if shutil.which("egoexo") is None:
        raise RecordingError("egoexo is not on PATH: pip install ego4d, sign the licence at ego4ddataset.com, aws configure")
    out.mkdir(parents=True, exist_ok=True)
    finished = set() if force else read_record(out)
    failed = 0
    for number, step in enumerate(steps, 1):
        place = f"[{number}/{len(steps)}] {step.part}" + (f", {len(step.uids)} takes" if step.uids else "")
        if step.key in finished:
            print(f"{place}: done before", flush=True)
            continue
        print(f"{place}: {_short(step)}", flush=True)
        code = subprocess.run(step.command, check=False).returncode
        fault = f"egoexo ended with code {code}; are the keys still valid (14 days)?" if code else find_fault(out, step)
        if fault is None and calibration_only and step.part == "take_vrs_noimagestream":
            fault = keep_calibrations(out)
        if fault is None:
            finished.add(step.key)
            write_record(out, finished)
        else:
            failed += 1
            print(f"{place}: failed: {fault}", flush=True)
    return failed


def find_fault(out: Path, step: Step) -> str | None:
    """What a step that ended well should have left and did not; None when it is there."""
    expected = {
        "metadata": lambda: find_table(out) is not None,
        "annotations": lambda: any(out.glob("annotations/ego_pose/*/camera_pose/*.json")),
        "ego_pose_pseudo_gt": lambda: any(out.glob("annotations/ego_pose/*/body/automatic/*.json")),
    }.get(step.part)
    if expected is not None:
        return None if expected() else f"egoexo reports success, but {out} holds nothing of {step.part}"
    missing = [take.name for take in lacking(known_takes(out), step.part) if take.uid in step.uids]
    if missing and not step.asked:
        print(f"  not in this release: {step.part} of {listed(missing, 10)}", flush=True)
    return f"still missing for {listed(missing, 10)}" if missing and step.asked else None


def lacking(takes: Sequence[EgoExoTake], part: str) -> list[EgoExoTake]:
    """Takes of which a wearer has no video or no calibration, whichever the part brings."""
    return [take for take in takes if any(not _has(take, wearer, part) for wearer in take.wearers)]


def known_takes(out: Path) -> list[EgoExoTake]:
    """The takes of takes.json; none before it is there."""
    return read_takes(out) if find_table(out) else []


def keep_calibrations(out: Path) -> str | None:
    """Write <aria>_noimagestreams.calib.json beside every such VRS file below ``out`` and remove that; what failed, or None."""
    from dataset_preprocess.aria.calibration import read_calibration
    from dataset_preprocess.aria.recording import calibration_text, open_vrs

    faults = []
    for path in sorted(out.glob("takes/*/*_noimagestreams.vrs")):
        target = path.with_suffix(".calib.json")
        try:
            with written(target) as temporary:
                temporary.write_text(calibration_text(open_vrs(path), path))
                read_calibration(temporary)
            path.unlink()
        except RecordingError as error:
            faults.append(str(error))
    return "; ".join(faults[:3]) + (f" and {len(faults) - 3} more" if len(faults) > 3 else "") if faults else None


def read_record(out: Path) -> set[str]:
    """Keys of the finished steps; a damaged record counts as empty, since the downloader checks its files itself."""
    try:
        return {key for key in read_json(out / RECORD, list) if isinstance(key, str)}
    except RecordingError:
        return set()


def write_record(out: Path, finished: set[str]) -> None:
    """Replace the record; a kill leaves the old one."""
    write_text(out / RECORD, json.dumps(sorted(finished), indent=1))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="RAW", help="folder of the download")
    parser.add_argument("--run", action="store_true", help="run the commands (default: print them)")
    parser.add_argument("--need", choices=(*NEEDS, "all"), default="all", help="what for (default: frames and poses)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, metavar="PART", help="exactly these parts instead")
    parser.add_argument("--takes", nargs="+", metavar="NAME", help="only these takes, by name or uid (video and calibration)")
    parser.add_argument("--takes-file", type=Path, metavar="FILE", help="the same, one a line")
    parser.add_argument("--only-missing", action="store_true", help="only takes whose video or calibration is not on disk")
    parser.add_argument("--splits", nargs="+", choices=("train", "val", "test"), help="of the whole corpus (default: all)")
    parser.add_argument("--release", default="v2", help="default: %(default)s")
    parser.add_argument("--s3-profile", metavar="NAME", help="profile of the keys in ~/.aws/credentials")
    parser.add_argument("--batch", type=int, default=50, metavar="N", help="takes in one call of egoexo (default: %(default)s)")
    parser.add_argument(
        "--calibration-only", action="store_true", help="keep 6 KB of calibration from each VRS file and remove the file"
    )
    parser.add_argument("--force", action="store_true", help="run steps again that are recorded as finished")


def run(args: argparse.Namespace) -> int:
    """0, or 1 when a step failed."""
    parts = args.parts or [part for part in PARTS if args.need == "all" or part in NEEDS[args.need]]
    options = dict(splits=args.splits or (), release=args.release, profile=args.s3_profile, batch=max(1, args.batch))
    # Takes are known once takes.json is there: it comes first, alone.
    named = bool(args.takes or args.takes_file or args.only_missing or args.calibration_only)
    first = plan(args.out, ["metadata"] if named and not find_table(args.out) else [], **options)
    if first and args.run and (failed := download(args.out, first, force=args.force)):
        return failed
    if first and not args.run:
        _print_plan(first)
        print("# takes.json is needed to tell the takes apart: run this first, then give the command again")
        return 0
    if args.only_missing:
        takes = known_takes(args.out)
        wanted = [part for part in parts if part in OF_TAKES]
        steps = []
        for part in wanted:
            uids = [take.uid for take in lacking(takes, part)]
            print(f"# {part}: {len(uids)} of {len(takes)} takes lack it")
            steps += plan(args.out, [part], uids=uids, **options) if uids else []
    else:
        steps, uids = [], _uids(args)
        for part in parts:
            # Recordings of the whole release would fill the disk before the first calibration is taken out of them.
            every = args.calibration_only and part == "take_vrs_noimagestream" and not uids
            chosen = [take.uid for take in known_takes(args.out)] if every else uids
            steps += plan(args.out, [part], uids=chosen, asked=not every, **options)
    if not args.run:
        _print_plan(steps)
        return 0
    failed = download(args.out, steps, calibration_only=args.calibration_only, force=args.force or args.only_missing)
    print(f"download: {len(steps) - failed} of {len(steps)} steps done, {failed} failed")
    return int(failed > 0)


def _uids(args: argparse.Namespace) -> list[str]:
    """Uids of the takes asked for; RecordingError for an unknown name."""
    names = list(args.takes or ())
    if args.takes_file is not None:
        try:
            names += [line.strip() for line in args.takes_file.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise RecordingError(f"{args.takes_file}: cannot be read: {error}") from None
        if not names:
            raise RecordingError(f"{args.takes_file}: names no take")
    uid_of = {key: take.uid for take in known_takes(args.out) for key in (take.name, take.uid)} if names else {}
    if unknown := [name for name in names if name not in uid_of]:
        raise RecordingError(f"{args.out}: takes.json has no take {unknown[0]!r}")
    return list(dict.fromkeys(uid_of[name] for name in names))


def _print_plan(steps: Sequence[Step]) -> None:
    said = set()
    for step in steps:
        if step.part not in said:
            size, purpose = PARTS[step.part]
            print(f"# {purpose}; {size:g} GB in the whole release")
            said.add(step.part)
        print(shlex.join(step.command))


def _has(take: EgoExoTake, wearer: str, part: str) -> bool:
    if part == "take_vrs_noimagestream":
        return any(True for _ in calibration_files(take, wearer))
    return (take.folder / "frame_aligned_videos" / "downscaled" / "448" / f"{wearer}_214-1.mp4").is_file()


def _short(step: Step) -> str:
    words = [word for word in step.command if word not in step.uids]
    return shlex.join(words)
