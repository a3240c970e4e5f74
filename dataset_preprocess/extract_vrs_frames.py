"""RGB frames of Project Aria recordings (VRS) as takes: upright, undistorted or with the lens kept, with their camera.

egoagent data vrs STORE FILE.vrs ...                  (or: python -m dataset_preprocess.extract_vrs_frames ...)
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataset_preprocess.aria.adt import find_adt, read_adt_poses
from dataset_preprocess.aria.calibration import parse_calibration
from dataset_preprocess.aria.recording import RgbStream, calibration_text
from dataset_preprocess.aria.remap import picture_map
from dataset_preprocess.json_input import parse_json
from dataset_preprocess.pipeline import add_run_arguments, run_step
from dataset_preprocess.undistort_egovideos import FrameSettings, add_frame_arguments, describe_geometry, frame_settings
from dataset_preprocess.video import encode_jpeg
from internlm.data.store import SPLITS, StoreWriter, TakeInfo


@dataclass(frozen=True)
class Recording:
    """One VRS file. adt: its folder is an Aria Digital Twin sequence, whose skeleton and trajectory become poses."""

    name: str
    path: Path
    split: str
    adt: bool = False


def convert_recording(job: Recording, *, out: Path, settings: FrameSettings, anew: bool = False) -> dict[str, Any]:
    """Write a recording as a take; labels.npz carries ``timestamp_ns``, the device time of each frame."""
    import cv2

    cv2.setNumThreads(1)
    stream = RgbStream(job.path)
    text = calibration_text(stream.provider, job.path)
    calibration = parse_calibration(parse_json(text, dict, f"{job.path}: its calibration"), str(job.path))
    rows = np.flatnonzero(stream.numbers % settings.stride == 0)
    height, width = stream.image(0).shape[:2]
    options = {"size": settings.size, "lens": settings.lens, "focal": settings.focal, "name": str(job.path)}
    pictures = picture_map(calibration, (width, height), orientation="landscape", **options)
    poses = None
    if job.adt:
        poses = read_adt_poses(find_adt(job.path.parent), stream.numbers, stream.stamps_ns, calibration.device_from_camera)
    space, source = ("world" if poses is not None else None), "aria-digital-twin" if job.adt else "aria-vrs"
    extra = {"file": job.path.name, "geometry": describe_geometry(calibration, pictures, settings.lens)}
    info = TakeInfo(job.name, job.name, job.split, stream.frame_rate, pictures.camera, space, source=source, extra=extra)

    def frames() -> Iterator[tuple[int, bytes]]:
        for row in rows.tolist():
            yield int(stream.numbers[row]), encode_jpeg(pictures.apply(stream.image(row)), settings.quality)

    labels = {"frames": stream.numbers[rows], "timestamp_ns": stream.stamps_ns[rows]}
    StoreWriter(out).extend_take(info, frames(), poses, labels, packed=settings.packed, replace=anew)
    return {"frames": len(rows), **({"poses": len(poses.frames)} if poses is not None else {})}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="take store to create or extend")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.vrs")
    parser.add_argument("--split", choices=SPLITS, default="train", help="of the takes (default: train)")
    parser.add_argument(
        "--adt", action="store_true", help="Aria Digital Twin: skeleton and trajectory beside each file become poses"
    )
    add_frame_arguments(parser, stride=1)
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """0, or 1 when a recording failed. A take is named <folder>_<file>."""
    settings = frame_settings(args)
    jobs = [Recording(f"{file.resolve().parent.name}_{file.stem}", file, args.split, args.adt) for file in args.files]
    recorded = {**asdict(settings), "adt": args.adt, "split": args.split}
    return run_step(args, jobs, partial(convert_recording, settings=settings), "frames", recorded)


if __name__ == "__main__":
    from internlm.cli import main

    sys.exit(main(["data", "vrs", *sys.argv[1:]]))
