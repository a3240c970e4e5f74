"""Frames of Ego-Exo4D's first-person videos into a take store: upright, without the fisheye's distortion, with their camera.

egoagent data undistort RAW STORE                     (or: python -m dataset_preprocess.undistort_egovideos ...)
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataset_preprocess.aria.calibration import AriaCalibration, read_calibration
from dataset_preprocess.aria.remap import Lens, PictureMap, picture_map
from dataset_preprocess.egoexo import FRAME_RATE, SOURCE, EgoExoTake, calibration_files, read_takes, rgb_video
from dataset_preprocess.errors import RecordingError
from dataset_preprocess.pipeline import add_pack_argument, add_run_arguments, run_step
from dataset_preprocess.video import encode_jpeg, open_video
from internlm.data.store import SPLITS, StoreWriter, TakeInfo


@dataclass(frozen=True)
class FrameSettings:
    """What decides about the stored frames. focal: in stored pixels, None = the lens's own; packed: one tar, or loose files.

    video: of Ego-Exo4D's two, the one of "448" pixels, the "full" one, or "any", the small one if there.
    """

    size: int = 448
    stride: int = 5
    quality: int = 90
    lens: Lens = "pinhole"
    focal: float | None = None
    packed: bool = True
    video: str = "any"

    def __post_init__(self):
        for name, low, high in (("size", 16, 2816), ("stride", 1, 10**6), ("quality", 1, 100)):
            if not low <= getattr(self, name) <= high:
                raise RecordingError(f"--{name} {getattr(self, name)}: must lie between {low} and {high}")
        if self.focal is not None and not 0.1 * self.size <= self.focal <= 10 * self.size:
            raise RecordingError(f"--focal {self.focal:g}: pixels, must lie between a tenth of the size and ten times it")
        if self.focal is not None and self.lens != "pinhole":
            raise RecordingError("--focal: only a pinhole picture has a focal length to choose")


@dataclass(frozen=True)
class WearerVideo:
    """The video of one wearer of a take, the take's name for the first wearer and <take>.aria02 for others.

    video and calibrations may be missing: that is for the run to report, take by take.
    """

    name: str
    uid: str
    split: str
    take: EgoExoTake
    aria: str
    video: Path
    calibrations: tuple[Path, ...]


def find_videos(
    root: Path,
    *,
    names: list[str] | None = None,
    aria: str | None = None,
    video: str = "any",
    calibrations: Path | None = None,
    split: str = "train",
) -> list[WearerVideo]:
    """The wearers' videos of a download, by name.

    names: takes to look at, by name or uid; None = all. aria: this one only. video: "448", "full" or "any".
    calibrations: a folder of <take>_<aria>.calib.json that goes before what lies in the take's own folder. split: of takes that
    no split list names. Raises RecordingError when a name is unknown.
    """
    takes = read_takes(root)
    if names is not None:
        known = {name for take in takes for name in (take.name, take.uid)}
        if unknown := [name for name in names if name not in known]:
            raise RecordingError(f"{root}: has no take {unknown[0]!r} among {len(takes)}")
        takes = [take for take in takes if take.name in names or take.uid in names]
    found = []
    for take in takes:
        for place, wearer in enumerate(take.wearers):
            if aria in (None, wearer):
                tail = f".{wearer}" if place else ""
                files = list(calibration_files(take, wearer))
                if calibrations is not None:
                    files = [p for p in [calibrations / f"{take.name}_{wearer}.calib.json"] if p.is_file()] + files
                path = rgb_video(take, wearer, video)
                found.append(
                    WearerVideo(take.name + tail, take.uid + tail, take.split or split, take, wearer, path, tuple(files))
                )
    if not found:
        raise RecordingError(f"{root}: no first-person Aria video among {len(takes)} takes")
    return found


def convert_video(job: WearerVideo, *, out: Path, settings: FrameSettings, anew: bool = False) -> dict[str, Any]:
    """Give a take its frames; poses that the store has of it stay. Every stride-th frame, numbered as in the video."""
    import cv2

    cv2.setNumThreads(1)
    if not job.video.is_file():
        raise RecordingError(f"{job.video}: does not exist; fetch the part downscaled_takes/448 (egoagent data download)")
    if not job.calibrations:
        raise RecordingError(
            f"{job.take.folder}: neither {job.aria}_noimagestreams.vrs nor a calibration JSON of {job.aria}; fetch the part "
            "take_vrs_noimagestream (egoagent data download); another device's calibration would be off by up to 10 pixels"
        )
    calibration = read_calibration(job.calibrations[0])
    with open_video(job.video) as video:
        facts = video.facts
        if abs(facts.frame_rate - FRAME_RATE) > 0.05:
            raise RecordingError(f"{job.video}: has {facts.frame_rate:g} frames/s; frame-aligned videos have {FRAME_RATE:g}")
        check_aligned(job.video, video.seconds, video.skipped)
        options = {"size": settings.size, "lens": settings.lens, "focal": settings.focal, "name": str(job.video)}
        pictures = picture_map(calibration, (facts.width, facts.height), orientation="upright", **options)
        labels = {"task": job.take.task} if job.take.task else {}
        extra = {"aria": job.aria, "geometry": describe_geometry(calibration, pictures, settings.lens)}
        info = TakeInfo(job.name, job.uid, job.split, FRAME_RATE, pictures.camera, labels=labels, source=SOURCE, extra=extra)
        written = 0

        def frames() -> Iterator[tuple[int, bytes]]:
            nonlocal written
            for index, image in video.frames(lambda index: index % settings.stride == 0, channels=4):
                yield index, encode_jpeg(pictures.apply(image), settings.quality)
                written += 1

        StoreWriter(out).extend_take(info, frames(), packed=settings.packed, replace=anew)
    return {"frames": written}


def check_aligned(path: Path, seconds: np.ndarray, skipped: int) -> None:
    """RecordingError unless the frames shown at ``seconds`` [N] are those that annotations count: all, one every 1/30 s.

    With a frame missing, number and time would name different frames from there on.
    """
    if skipped:
        raise RecordingError(f"{path}: lacks {skipped} frames at its start, which annotations count; fetch it again")
    wrong = np.abs(seconds * FRAME_RATE - np.arange(len(seconds))) >= 0.5
    if wrong.any():
        frame = int(np.flatnonzero(wrong)[0])
        raise RecordingError(
            f"{path}: frame {frame} is shown at {seconds[frame]:.3f} s, in a frame-aligned video at {frame / FRAME_RATE:.3f} s; "
            "annotations would belong to other frames; fetch it again"
        )


def describe_geometry(calibration: AriaCalibration, pictures: PictureMap, lens: Lens) -> dict[str, Any]:
    """How stored pictures and poses relate to the device, for take.json."""
    return {
        "lens": lens,
        "orientation": "as recorded" if lens == "upstream" else "upright: the sensor's picture turned by 90 degrees clockwise",
        "pose_convention": "world_from_camera of the upright camera: x right, y down, z forward",
        "source_size": list(pictures.source),
        "sensor": {"model": "fisheye624", "size": calibration.sensor.width, "params": list(calibration.sensor.params)},
        "serial": calibration.serial,
        "lit_share": round(float(pictures.valid.mean()), 4),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("raw", type=Path, metavar="RAW", help="the folder that `egoexo -o` wrote to")
    parser.add_argument("out", type=Path, metavar="OUT", help="take store to create or extend")
    parser.add_argument("--takes", nargs="+", metavar="NAME", help="only these takes, by name or uid")
    parser.add_argument("--aria", metavar="ID", help="only this wearer's camera, such as aria02 (default: every wearer)")
    parser.add_argument("--video", choices=("any", "448", "full"), default="any", help="which video (any: 448 if there)")
    parser.add_argument("--calibrations", type=Path, metavar="DIR", help="folder of <take>_<aria>.calib.json, used before others")
    parser.add_argument("--split", choices=SPLITS, default="train", help="of takes that no split list names (default: train)")
    add_frame_arguments(parser)
    parser.add_argument(
        "--upstream-compat",
        action="store_true",
        help="the pictures of EgoAgent's first release; their geometry is wrong by 5 to 8 of 448 pixels, so no camera is stored",
    )
    add_run_arguments(parser)


def add_frame_arguments(parser: argparse.ArgumentParser, *, stride: int = 5) -> None:
    """Options of every command that stores Aria frames."""
    group = parser.add_argument_group("frames")
    group.add_argument("--size", type=int, default=448, help="pixels of a stored frame's side (default: %(default)s)")
    group.add_argument("--stride", type=int, default=stride, help="store every n-th frame (default: %(default)s)")
    group.add_argument("--quality", type=int, default=90, help="JPEG quality (default: %(default)s)")
    group.add_argument("--lens", choices=("pinhole", "fisheye"), default="pinhole", help="undistort (default), or keep the lens")
    group.add_argument("--focal", type=float, help="of the pinhole, in stored pixels (default: the lens's own, 98 degrees wide)")
    add_pack_argument(group)


def frame_settings(args: argparse.Namespace) -> FrameSettings:
    """The parsed options as settings; RecordingError for values out of range."""
    lens = "upstream" if getattr(args, "upstream_compat", False) else args.lens
    return FrameSettings(args.size, args.stride, args.quality, lens, args.focal, args.pack, getattr(args, "video", "any"))


def run(args: argparse.Namespace) -> int:
    """0, or 1 when a take failed."""
    settings = frame_settings(args)
    jobs = find_videos(
        args.raw, names=args.takes, aria=args.aria, video=settings.video, calibrations=args.calibrations, split=args.split
    )
    return run_step(args, jobs, partial(convert_video, settings=settings), "frames", asdict(settings))


if __name__ == "__main__":
    from internlm.cli import main

    sys.exit(main(["data", "undistort", *sys.argv[1:]]))
