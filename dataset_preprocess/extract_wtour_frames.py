"""Frames of walking tours, or of any video, into a take store at a chosen rate and size.

egoagent data videos STORE FILE.mp4 ...               (or: python -m dataset_preprocess.extract_wtour_frames ...)

Faces should be blurred beforehand, as the WalkingTours authors ask: `pip install deface`, then `deface FILE.mp4`. The command
cannot see whether that was done; a marker can say it, and ``--require-blurred`` makes the marker a condition.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataset_preprocess.errors import RecordingError
from dataset_preprocess.pipeline import add_pack_argument, add_run_arguments, run_step
from dataset_preprocess.video import Video, encode_jpeg, open_video
from internlm.data.store import SPLITS, StoreWriter, TakeInfo

SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".wmv", ".flv",
    ".ogv",
)  # fmt: skip
_ABOVE = 1.01  # how far --rate may be above a video's: 30 is asked of 29.97
_HIGHEST = 1000  # frames per second
_SAME = 1e-6  # seconds: two distances are one


@dataclass(frozen=True)
class VideoSettings:
    """What decides about the stored frames. rate: frames per second, None = every frame; size: of the shorter side."""

    rate: float | None = 5.0
    size: int | None = 448
    quality: int = 90
    packed: bool = True
    require_blurred: bool = False

    def __post_init__(self):
        for name, low, high in (("rate", 0.001, _HIGHEST), ("size", 16, 16384), ("quality", 1, 100)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise RecordingError(f"--{name} {value}: must lie between {low} and {high}")


@dataclass(frozen=True)
class TourVideo:
    """One video file; it becomes the take ``name``."""

    name: str
    path: Path
    split: str


def find_videos(paths: list[Path], split: str) -> list[TourVideo]:
    """Videos among files and folders. RecordingError for a folder without any."""
    jobs = []
    for path in paths:
        files = [path]
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != ".")
            if not files:
                raise RecordingError(f"{path}: holds no video ({', '.join(SUFFIXES)})")
        jobs += [TourVideo(file.stem, file, split) for file in files]
    return jobs


def blur_marker(video: Path) -> Path:
    """The empty file that says of a video that its faces are blurred."""
    return video.with_name(video.name + ".blurred")


def is_blurred(video: Path) -> bool:
    """Whether a marker or deface's file name says that faces are blurred."""
    return blur_marker(video).exists() or video.stem.endswith("_anonymized")


def convert_video(job: TourVideo, *, out: Path, settings: VideoSettings, anew: bool = False) -> dict[str, Any]:
    """Write a video as a take. Frame k of the store is the video's frame nearest to k / rate seconds after its first.

    labels.npz carries ``timestamp_ns``, the time at which each stored frame is shown, since the first.
    """
    blurred = is_blurred(job.path)
    if settings.require_blurred and not blurred:
        raise RecordingError(
            f"{job.path}: is not marked as blurred. Blur it (deface {job.path.name}) and use the result, which is called "
            f"*_anonymized, or if its faces are blurred already, create the empty file {blur_marker(job.path).name} beside it"
        )
    with open_video(job.path) as video:
        facts = video.facts
        rate, chosen, numbers = choose_frames(video, settings.rate)
        size = stored_size(facts.width, facts.height, settings.size)
        extra = {"file": job.path.name, "video_rate": facts.frame_rate, "blurred": blurred}
        extra |= {"primaries": video.primaries} if video.primaries else {}
        info = TakeInfo(job.name, job.name, job.split, rate, source="video", extra=extra)
        number_of = dict(zip(chosen.tolist(), numbers.tolist()))

        def frames() -> Iterator[tuple[int, bytes]]:
            for index, image in video.frames(number_of.__contains__, size):
                yield number_of[index], encode_jpeg(image, settings.quality)

        labels = {"frames": numbers, "timestamp_ns": np.round(1e9 * video.seconds[chosen]).astype(np.int64)}
        StoreWriter(out).extend_take(info, frames(), labels=labels, packed=settings.packed, replace=anew)
    counts = {
        "gaps": int(numbers[-1]) + 1 - len(numbers),
        "frames before the first key frame left out": video.skipped,
        "unfinished at the end left out": int(video.torn),
    }
    return {"frames": len(numbers), **{what: count for what, count in counts.items() if count}}


def choose_frames(video: Video, rate: float | None) -> tuple[float, np.ndarray, np.ndarray]:
    """Rate of the take, indices [M] of the video's frames to store, and their frame numbers [M], both rising.

    rate None: every frame, at the video's usual rate, or where frames are too near for it at the lowest that keeps them apart.
    Raises RecordingError where the video has fewer frames than asked for.
    """
    seconds, usual = video.seconds, video.facts.frame_rate
    if rate is None:
        every, step = np.arange(len(seconds)), np.diff(seconds)
        shortest = step.min(initial=1 / usual)
        for rate in (usual, float(f"{1 / shortest:.9g}"), float(f"{1.001 / shortest:.9g}")):
            numbers = np.round(seconds * rate).astype(np.int64)
            if rate <= _HIGHEST and (np.diff(numbers) >= 1).all():
                return float(rate), every, numbers
        raise RecordingError(f"{video.path}: has frames less than {1 / _HIGHEST:g} s apart, too near to store all; give a --rate")
    if len(seconds) > 1 and rate > _ABOVE * usual:
        raise RecordingError(
            f"{video.path}: has {usual:.4g} frames/s, fewer than --rate {rate:g}; give {usual:.4g} or less, or 0 for every frame"
        )
    return rate, *nearest_frames(seconds, rate, 0.5 / usual)


def nearest_frames(seconds: np.ndarray, rate: float, beyond: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices [M] of the frames nearest to the times k / rate, and each one's k [M]; ties go to the later frame.

    seconds: [N], rising from 0, when frames are shown. A k that has no frame within half a step is left out: a gap in the video
    is a gap in the store. beyond: how long after the last frame there may still be a k, in seconds.
    """
    near = np.floor(seconds * rate + 0.5).astype(np.int64)
    near = np.minimum(near, int((seconds[-1] + beyond + _SAME) * rate))
    distance = np.round(np.abs(seconds - near / rate) / _SAME)
    order = np.lexsort((-np.arange(len(seconds)), distance, near))
    numbers, first = np.unique(near[order], return_index=True)
    inside = distance[order[first]] * _SAME <= 0.5 / rate + _SAME
    return order[first][inside], numbers[inside]


def stored_size(width: int, height: int, shorter: int | None) -> tuple[int, int]:
    """Width and height with the shorter side brought down to ``shorter``; a video is never enlarged."""
    scale = 1.0 if shorter is None else min(1.0, shorter / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="take store to create or extend")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="videos, or folders of videos")
    parser.add_argument(
        "--rate", type=float, default=5.0, help="frames per second to store, 0 = all the video has (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, default=448, help="pixels of the shorter side, 0 = as it is (default: %(default)s)")
    parser.add_argument("--quality", type=int, default=90, help="JPEG quality (default: %(default)s)")
    parser.add_argument("--split", choices=SPLITS, default="train", help="of the takes (default: train)")
    add_pack_argument(parser)
    parser.add_argument(
        "--require-blurred",
        action="store_true",
        help="refuse videos that are not marked as blurred: named *_anonymized by deface, or with an empty FILE.blurred beside",
    )
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """0, or 1 when a video failed."""
    settings = VideoSettings(args.rate or None, args.size or None, args.quality, args.pack, args.require_blurred)
    recorded = {**asdict(settings), "split": args.split}
    return run_step(args, find_videos(args.files, args.split), partial(convert_video, settings=settings), "frames", recorded)


if __name__ == "__main__":
    from internlm.cli import main

    sys.exit(main(["data", "videos", *sys.argv[1:]]))
