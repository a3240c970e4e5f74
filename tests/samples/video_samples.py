"""Small videos with frames that can be told apart, and what is read back of them."""

import io
import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dataset_preprocess.extract_wtour_frames import TourVideo, VideoSettings, convert_video
from dataset_preprocess.video import open_video
from internlm.data.frames import decode
from internlm.data.store import StoreWriter, Take, TakeStore

av = pytest.importorskip("av")
TICK = Fraction(1, 600)  # seconds: a unit in which 24, 25, 30 and 60 frames/s are whole


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """Moving blobs; the mean brightness is 3 k + 30."""
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    blobs = 20 * np.sin(columns / 7 + number / 3) * np.cos(rows / 5 - number / 4)
    return np.clip(3 * number + 30 + blobs, 0, 255).astype(np.uint8)[..., None].repeat(3, -1)


def number_of(image: np.ndarray) -> int:
    return round((image.mean() - 30) / 3)


def write_video(
    path: Path,
    frames=60,
    size=(96, 64),
    *,
    times=None,
    unit=TICK,
    codec="libx264",
    pixels="yuv420p",
    faststart=False,
    aspect=None,
    rate=30,
    pictures=None,
    **options: str,
) -> Path:
    """h264 with B-frames, unless told otherwise. times: of presentation, in ``unit`` seconds. aspect: of pixels."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
        h264 = {"crf": "20", "preset": "medium"} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=rate, options={**h264, **options})
        stream.width, stream.height = size
        stream.pix_fmt, stream.thread_count = pixels, 1
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        if times is not None:
            stream.codec_context.time_base = unit
        for number in range(frames if times is None else len(times)):
            image = picture(number, size) if pictures is None else pictures[number]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_joined(path: Path, parts: Iterable[tuple[tuple[int, int], Fraction | None]], frames: int = 12) -> Path:
    """One stream whose size or pixel aspect changes on the way, as broadcasts do. parts: (width, height) and aspect."""
    with av.open(str(path), "w") as container:
        stream, start = None, 0
        for size, aspect in parts:
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height = size
            encoder.pix_fmt, encoder.thread_count = "yuv420p", 1
            encoder.time_base, encoder.framerate = Fraction(1, 30), 30
            encoder.options = {"bf": "2"}
            if aspect is not None:
                encoder.sample_aspect_ratio = aspect
            if stream is None:
                stream = container.add_stream("libx264", rate=30)
                stream.width, stream.height = size
                stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 30)
                if aspect is not None:
                    stream.codec_context.sample_aspect_ratio = aspect
            packets = []
            for number in range(frames):
                frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24")
                frame.pts, frame.time_base = start + number, Fraction(1, 30)
                packets += encoder.encode(frame)
            for packet in packets + encoder.encode():
                packet.stream, packet.time_base = stream, Fraction(1, 30)
                container.mux(packet)
            start += frames
    return path


def set_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """Write a display matrix (x' = a x + c y, y' = b x + d y) into an mp4's track header."""
    data = bytearray(path.read_bytes())
    box = data.index(b"tkhd") + 4
    place = box + (40 if data[box] == 0 else 52)
    values = [round(65536 * value) for value in (a, b, 0, c, d, 0, 0, 0)]
    data[place : place + 36] = struct.pack(">9i", *values, 1 << 30)
    path.write_bytes(data)
    return path


def read(path: Path, wanted=lambda index: True, size=None, threads=1) -> dict[int, np.ndarray]:
    with open_video(path, threads=threads) as video:
        return dict(video.frames(wanted, size))


def store(path: Path, out: Path, **settings) -> tuple[dict[str, int], Take]:
    """Facts, and the take that a video becomes."""
    StoreWriter(out)
    job = TourVideo(path.stem, path, "train")
    return convert_video(job, out=out, settings=VideoSettings(**{"size": None, **settings})), TakeStore(out).take(path.stem)


def numbers(take: Take) -> dict[int, int]:
    """Stored number -> number of the source frame, told by its brightness."""
    return {number: number_of(decode(take.read_frame(number))) for number in take.frame_numbers.tolist()}


def lossless(take: Take, number: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(take.read_frame(number)))).astype(int)
