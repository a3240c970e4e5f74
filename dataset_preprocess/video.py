"""Video files: which frames there are and when they are shown; the wanted ones as RGB pictures, in bounded memory.

A file is read twice: once for its times (``video_time.py``), once from start to end for the wanted frames.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dataset_preprocess.errors import RecordingError
from dataset_preprocess.video_picture import Converter, read_turn, shown_size, tell_colours, wide_primaries
from dataset_preprocess.video_time import Timeline, read_timeline, usual_rate, whole_packets


@dataclass(frozen=True)
class VideoFacts:
    """width, height: as a player shows the video, turned and with square pixels. frame_rate: the usual one. frames: how many."""

    width: int
    height: int
    frame_rate: float
    frames: int


class Video:
    """A video file that can be read. Use ``open_video``.

    facts: what its frames and times are, not what the header says. seconds: float64 [N], when each frame is shown, from the
    first one on. skipped: frames left out at the start, which a cut file has before its first key frame; torn: whether its last
    frame was left out, inside which it ends. primaries: the name of colours wider than usual, None for usual ones.
    """

    def __init__(self, path: Path, threads: int):
        self.path, self._threads = path, threads
        with _opened(path) as container:
            stream = _video_stream(path, container, threads=1)
            self._aspect = stream.sample_aspect_ratio  # the container's, else what the codec says at its start
            self._timeline = timeline = read_timeline(path, container, stream)
            announced = [float(rate or 0) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate)]
        self.seconds, first = timeline.seconds, timeline.first
        self.skipped, self.torn = timeline.skipped, timeline.torn
        tell_colours(path, first)
        self.primaries = wide_primaries(first)
        rate = usual_rate(self.seconds, announced, float(timeline.unit))
        if not (0 < rate <= 1000) or first.width < 2 or first.height < 2:
            raise RecordingError(f"{path}: has {first.width}x{first.height} at {rate:g} frames/s, which no usable video has")
        aspect = self._pixel_aspect(timeline.pixel_aspect)
        width, height = shown_size(path, first.width, first.height, aspect, read_turn(path, first))
        self.facts = VideoFacts(width, height, rate, len(self.seconds))

    def frames(
        self, wanted: Callable[[int], bool], size: tuple[int, int] | None = None, *, channels: Literal[3, 4] = 3
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Index and RGB picture uint8 [H, W, channels] of every frame whose index (0 = the first shown) is ``wanted``, in order.

        size: (width, height) to resize to while converting, averaging where it becomes smaller; None = of ``facts``. channels:
        4 adds an opaque alpha, with which cv2 resamples twice as fast. A frame that neither is wanted nor serves another one is
        not even decoded. Raises RecordingError when a frame that is needed cannot be decoded, when the picture changes its
        shape, or when its colours cannot be converted.
        """
        from av.error import FFmpegError

        timeline = self._timeline
        convert = Converter(self.path, (self.facts.width, self.facts.height), size, channels=channels)
        stamps = range(len(self.seconds)) if timeline.counted else timeline.stamps.tolist()
        pending = {stamp: index for index, stamp in enumerate(stamps) if wanted(index)}
        place = given = 0
        with _opened(self.path) as container:
            stream = _video_stream(self.path, container, self._threads)
            # Damage is to be reported, not painted over with what the previous frames suggest. A cut file's first frames name
            # references that it lacks, without using them, so there only what was painted over is damage.
            stream.codec_context.options = {"err_detect": "crccheck+bitstream+buffer" + "+explode" * (not self.skipped)}
            try:
                for packet in _packets_to_decode(container, stream, timeline):
                    place += packet.size > 0
                    # The decoder looks at this for each packet. Other frames are built on all but "non-reference" ones.
                    skip = timeline.skippable and packet.pts not in pending
                    stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"
                    for frame in packet.decode():
                        index = pending.pop(given if timeline.counted else frame.pts, None)
                        given += 1
                        if frame.is_corrupt:
                            raise RecordingError(f"{self.path}: is damaged near frame {place}; fetch it again")
                        if index is not None:
                            aspect = self._pixel_aspect(stream.codec_context.sample_aspect_ratio)
                            yield index, convert(frame, aspect, f"frame {index}")
            except FFmpegError as error:
                raise RecordingError(
                    f"{self.path}: cannot be decoded near frame {place}: {error.strerror}; fetch it again"
                ) from None
        if pending:
            raise RecordingError(f"{self.path}: frame {min(pending.values())} could not be decoded; fetch the file again")
        if timeline.counted and given != len(self.seconds):
            raise RecordingError(
                f"{self.path}: holds {len(self.seconds)} frames and gives {given}, so that their times are unknown; "
                "remake it with ffmpeg -i FILE NEW.mp4"
            )

    def _pixel_aspect(self, now: Fraction | None) -> Fraction | None:
        """Width to height of a pixel: the container's word for the whole video, unless the codec's changes on the way."""
        return self._aspect if self._aspect and now == self._timeline.pixel_aspect else now


@contextmanager
def open_video(path: Path, *, threads: int = 1) -> Iterator[Video]:
    """A video file for reading. threads: of the decoder, 0 = as many as there are cores.

    Raises RecordingError when the file is missing, no video, breaks off, does not say when its frames are shown, is of high
    dynamic range, or so damaged that its index cannot be found.
    """
    yield Video(Path(path), threads)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Baseline JPEG, 4:2:0, of a picture uint8 [H, W, 3] in RGB or [H, W, 4] with an alpha that is left out."""
    import simplejpeg

    space = "RGB" if image.shape[2] == 3 else "RGBX"
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorspace=space, colorsubsampling="420")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import av
    from av.error import FFmpegError

    if int(av.__version__.partition(".")[0]) < 17:  # converts BT.709, all video of high definition, by BT.601
        raise RecordingError(f"av {av.__version__} is installed, whose colours are wrong: pip install 'av>=17'")
    if not path.is_file():
        raise RecordingError(f"{path}: does not exist")
    try:
        container = av.open(str(path))
    except FFmpegError as error:
        raise RecordingError(f"{path}: is no readable video ({error.strerror}); a broken download? fetch it again") from None
    with container:
        yield container


def _video_stream(path: Path, container, threads: int):
    """The first video stream that is no cover picture, its decoder set up."""
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise RecordingError(f"{path}: has no video stream; no video, or a download that broke off")
    stream = streams[0]
    stream.thread_type = "SLICE" if threads == 1 else "AUTO"
    stream.codec_context.thread_count = threads
    return stream


def _packets_to_decode(container, stream, timeline: Timeline) -> Iterator[Any]:
    """Packets from the first that can be decoded on."""
    for place, packet in enumerate(whole_packets(container, stream, timeline.torn)):
        early = timeline.leading is not None and packet.pts is not None and packet.pts < timeline.leading
        if place >= timeline.first_packet and not early:
            yield packet
