"""Aria frames into a store, one core: python benchmarks/undistort.py [--calibration FILE.calib.json]

Prints, from one run on one thread, in processor seconds of this process (other work on the machine disturbs those less, not
nothing: the best of several repetitions is given, of ours and of what stands beside it alike):
- undistortion of a 448-pixel picture against projectaria-tools' distort_by_calibration on the same picture,
- a 448-pixel upright h264 video (30 Hz, "slow", crf 24, as Ego-Exo4D's) to stored JPEG frames at stride 5, in input frames/s;
  beside it what OpenCV needs for decoding alone,
- peak memory of that conversion for a take and for one ten times as long, each in a process of its own.
A real calibration and a real clip are taken from the sample data (EGOAGENT_SHARED_DATA, or ../shared/data) where it lies there;
else an Aria-like calibration and a texture are made up. Without projectaria-tools or a real calibration the ratio is left out.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset_preprocess.aria.calibration import read_calibration
from dataset_preprocess.aria.remap import picture_map
from dataset_preprocess.egoexo import EgoExoTake
from dataset_preprocess.undistort_egovideos import FrameSettings, WearerVideo, convert_video
from internlm.egoworld.camera import default_camera
from internlm.egoworld.raw import device_calibration

SIZE = 448
REPEATS = 4
SAMPLES = Path(os.environ.get("EGOAGENT_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
CALIBRATION = SAMPLES / "aria_gen1" / "calib_json" / "recording.calib.json"
CLIP = SAMPLES / "driving_clips" / "udacity_solidWhiteRight.mp4"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=Path, default=existing(CALIBRATION), help="a real device's calibration JSON")
    parser.add_argument("--clip", type=Path, default=existing(CLIP), help="a real video that fills the test video")
    parser.add_argument("--frames", type=int, default=300, help="of the shorter video (default: %(default)s)")
    parser.add_argument("--convert", nargs=3, metavar=("VIDEO", "CALIBRATION", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if args.convert:
        print(json.dumps(convert(*map(Path, args.convert))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calibration = args.calibration or folder / "made_up.calib.json"
        if args.calibration is None:
            calibration.write_text(json.dumps(device_calibration(default_camera("fisheye624", SIZE), "made-up")))
        pictures = sample_pictures(args.clip)
        figures = {"undistortion": undistortion(calibration, pictures[0], tool=args.calibration is not None)}
        write_video(folder / "1.mp4", pictures, args.frames)
        repeat_video(folder / "1.mp4", folder / "10.mp4", 10)
        for label, times in (("take", 1), ("take 10x as long", 10)):
            video, frames = folder / f"{times}.mp4", times * args.frames
            words = [sys.executable, __file__, "--convert", str(video), str(calibration), str(folder / f"store_{frames}")]
            result = subprocess.run(words, capture_output=True, text=True, check=True)
            figures[label] = {"input_frames": frames, "mp4_kb_per_frame": round(video.stat().st_size / frames / 1000, 2)}
            figures[label] |= json.loads(result.stdout.splitlines()[-1])
            figures[label]["cv2_decoding_alone_per_s"] = round(frames / min(cv2_decoding(video) for _ in range(REPEATS)), 1)
    print(json.dumps(figures, indent=1))


def existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def sample_pictures(clip: Path | None, count: int = 60) -> list[np.ndarray]:
    """Consecutive pictures uint8 [448, 448, 3]: of a real video, or a texture that drifts."""
    if clip is not None:
        from dataset_preprocess.video import open_video

        with open_video(clip) as video:
            return [image for _, image in video.frames(lambda index: index < count, (SIZE, SIZE))]
    coarse = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    large = cv2.resize(coarse, (SIZE + 4 * count, SIZE), interpolation=cv2.INTER_CUBIC)
    return [np.ascontiguousarray(large[:, 4 * k : 4 * k + SIZE]) for k in range(count)]


def write_video(path: Path, pictures: list[np.ndarray], frames: int) -> None:
    """The pictures forth and back, as Ego-Exo4D's small videos are encoded."""
    import av

    order = [*range(len(pictures)), *range(len(pictures) - 1, -1, -1)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "24", "preset": "slow"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            image = pictures[order[number % len(order)]]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def repeat_video(source: Path, target: Path, times: int) -> None:
    """The encoded frames of a video several times over, in one stream."""
    import av

    with av.open(str(target), "w") as out:
        for repeat in range(times):
            with av.open(str(source)) as container:
                stream = container.streams.video[0]
                copy = out.streams.video[0] if repeat else out.add_stream_from_template(stream)
                shift = repeat * stream.duration
                for packet in container.demux(stream):
                    if packet.size:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                        out.mux(packet)


def undistortion(file: Path, image: np.ndarray, repeats: int = 40, *, tool: bool) -> dict[str, float]:
    """Pictures/s of our map and of the tool, alternating so that both see the same machine; ratio of the medians."""
    started = time.process_time()
    pictures = picture_map(read_calibration(file), (SIZE, SIZE), orientation="upright", size=SIZE)
    figures = {"map_ms": round(1e3 * (time.process_time() - started), 1)}
    four = np.dstack([image, np.full_like(image[..., :1], 255)])  # as the decoder gives them
    calls = {"ours": lambda: pictures.apply(four)}
    if tool and importlib.util.find_spec("projectaria_tools"):  # it refuses a made-up device
        from projectaria_tools.core import calibration

        device = calibration.device_calibration_from_json_string(file.read_text())
        raw = device.get_camera_calib("camera-rgb")
        source = raw.rescale(np.array([SIZE, SIZE]), SIZE / raw.get_image_size()[0])
        target = calibration.get_linear_camera_calibration(SIZE, SIZE, source.get_projection_params()[0])
        calls["tool"] = lambda: calibration.distort_by_calibration(image, target, source)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.process_time()
            call()
            seconds[name].append(time.process_time() - started)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    figures |= {f"{name}_per_s": round(1 / value, 1) for name, value in medians.items()}
    return figures | ({"ratio": round(medians["tool"] / medians["ours"], 1)} if "tool" in medians else {})


def cv2_decoding(video: Path) -> float:
    """Processor seconds of OpenCV for decoding a video and converting every fifth frame, nothing else."""
    capture, count, started = cv2.VideoCapture(str(video)), 0, time.process_time()
    while capture.grab():
        if count % 5 == 0:
            capture.retrieve()
        count += 1
    return time.process_time() - started


def convert(video: Path, calibration: Path, out: Path) -> dict[str, float]:
    """Convert one video at stride 5: input frames/s, and this process's peak memory."""
    take = EgoExoTake("take", "take", video.parent, ("aria01",))
    job = WearerVideo("take", "take", "train", take, "aria01", video, (calibration,))
    seconds = []
    for repeat in range(REPEATS):
        started = time.process_time()
        facts = convert_video(job, out=out / str(repeat), settings=FrameSettings(SIZE, 5, 90))
        seconds.append(time.process_time() - started)
    # getrusage would give the parent's peak where that was higher.
    peak_kb = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    return {"input_frames_per_s": round(5 * facts["frames"] / min(seconds), 1), "peak_mb": round(peak_kb / 1024, 1)}


if __name__ == "__main__":
    main()
