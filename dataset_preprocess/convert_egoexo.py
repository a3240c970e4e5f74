"""An Ego-Exo4D download as one take store: frames by ``undistort`` and poses by ``poses``, joined by take and frame number.

egoagent data egoexo RAW STORE
"""

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path

from dataset_preprocess.body_pose.takes import find_pose_files
from dataset_preprocess.errors import RecordingError
from dataset_preprocess.pipeline import add_run_arguments, run_arguments, run_jobs
from dataset_preprocess.preprocess_egoexo_body_pose import add_pose_arguments, pose_settings, write_poses
from dataset_preprocess.undistort_egovideos import add_frame_arguments, convert_video, find_videos, frame_settings
from internlm.data.store import SPLITS, StoreWriter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("raw", type=Path, metavar="RAW", help="the folder that `egoexo -o` wrote to")
    parser.add_argument("out", type=Path, metavar="OUT", help="take store to create or extend")
    parser.add_argument("--takes", nargs="+", metavar="NAME", help="only these takes, by name or uid")
    parser.add_argument("--posed", action="store_true", help="only takes with a body annotation (default: frames of all takes)")
    parser.add_argument("--calibrations", type=Path, metavar="DIR", help="folder of <take>_<aria>.calib.json, used before others")
    parser.add_argument("--split", choices=SPLITS, default="train", help="of takes that no split list names (default: train)")
    add_frame_arguments(parser)
    add_pose_arguments(parser)
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """0, or 1 when a take failed in either step."""
    options = run_arguments(args)
    if options["slurm"] is not None and not options["slurm"].wait:
        raise RecordingError(
            "the frames must be there before the poses begin: leave out --slurm-no-wait, or submit egoagent data undistort "
            "and egoagent data poses one after the other"
        )
    frames, poses = frame_settings(args), pose_settings(args)
    videos = find_videos(args.raw, names=args.takes, calibrations=args.calibrations, split=args.split)
    files = [item for item in find_pose_files(args.raw) if not args.takes or {item.name, item.uid} & set(args.takes)]
    if args.posed:
        uids = {item.uid for item in files}
        videos = [video for video in videos if video.take.uid in uids]
    StoreWriter(args.out)
    options["out"] = args.out
    write = partial(convert_video, out=args.out, settings=frames)
    first = run_jobs(videos, write, step="frames", settings=asdict(frames), **options)
    if options.pop("replace"):
        options["force"] = True  # the takes were made anew by their frames; poses that replaced them once more would remove those
    pose = partial(write_poses, out=args.out, settings=poses)
    second = run_jobs(files, pose, step="poses", settings=poses.recorded(), **options)
    return max(first.exit_code, second.exit_code)
