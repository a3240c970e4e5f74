"""Video files, read once from start to end in bounded memory; only the wanted frames are converted to RGB."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dataset_preprocess.errors import RecordingError

_REMAKE = "remake it with ffmpeg -i FILE NEW.mp4"
_MOST_WAITING = 600  # packets in the order of decoding until the order of showing is known; a few are usual


@dataclass(frozen=True)
class VideoFacts:
    """What a file says about its video stream. frames: how many there are, 0 when the file does not say."""

    width: int
    height: int
    frame_rate: float
    frames: int


class Video:
    """An open video file: ``facts``, then ``frames`` once. Use ``open_video``, which closes it."""

    def __init__(self, path: Path, container, threads: int):
        self.path, self._container = path, container
        if not container.streams.video:
            raise RecordingError(f"{path}: has no video stream; no video, or a download that broke off")
        self._stream = stream = container.streams.video[0]
        stream.thread_type = "SLICE" if threads == 1 else "AUTO"
        stream.codec_context.thread_count = threads
        # Damage is to be reported, not painted over with what the previous frames suggest.
        stream.codec_context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        width, height = stream.codec_context.width, stream.codec_context.height
        if not (0.1 <= rate <= 1000) or width < 2 or height < 2:
            raise RecordingError(f"{path}: says {width}x{height} at {rate:g} frames/s, which no usable video has")
        self.facts = VideoFacts(width, height, rate, stream.frames)

    def frames(
        self, wanted: Callable[[int], bool], size: tuple[int, int] | None = None, *, channels: Literal[3, 4] = 3
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Index and RGB picture uint8 [H, W, channels] of every frame whose index (0 = the first shown) is ``wanted``, in order.

        size: (width, height) to resize to while converting, averaging where it becomes smaller. channels: 4 adds an opaque alpha,
        with which cv2 resamples twice as fast. A frame that neither is wanted
        nor serves another one is not even decoded. Raises RecordingError when the file breaks off before the frames it
        announces, or when a frame that is needed cannot be decoded.
        """
        from av.error import FFmpegError

        pending: dict[int, int] = {}  # presentation time of a wanted frame -> its index
        context = self._stream.codec_context
        convert = _Converter(size, "rgb24" if channels == 3 else "rgba")
        place = 0
        try:
            for packet, index in self._numbered_packets():
                if index is not None:
                    place = index
                    if wanted(index):
                        pending[packet.pts] = index
                # The decoder looks at this for each packet it is given. Other frames are built on all but "non-reference" ones.
                context.skip_frame = "DEFAULT" if packet.pts in pending else "NONREF"
                for frame in packet.decode():
                    index = pending.pop(frame.pts, None)
                    if frame.is_corrupt:
                        raise RecordingError(f"{self.path}: is damaged near frame {place}; fetch it again")
                    if index is not None:
                        yield index, convert(frame)
        except FFmpegError as error:
            raise RecordingError(f"{self.path}: cannot be decoded near frame {place}: {error.strerror}; fetch it again") from None
        if pending:
            raise RecordingError(f"{self.path}: frame {min(pending.values())} could not be decoded; fetch the file again")

    def _numbered_packets(self) -> Iterator[tuple[Any, int | None]]:
        """Packets in decoding order, each with the index of its frame in showing order; the empty last one with None.

        No packet to come is shown before its decoding time, so indices are known after a few packets of looking ahead.
        """
        waiting: deque = deque()
        times: list[int] = []  # heap of presentation times without an index yet
        indices: dict[int, int] = {}
        shown = count = 0
        previous = None
        for packet in self._container.demux(self._stream):
            last = packet.size == 0
            if not last:
                count += 1
                if packet.is_corrupt:
                    raise RecordingError(f"{self.path}: is damaged or breaks off near frame {shown}; fetch it again")
                if packet.pts is None or len(waiting) > _MOST_WAITING:
                    raise RecordingError(f"{self.path}: does not say when its frames are shown; {_REMAKE}")
                if not packet.is_discard:  # an edit list may hide the first frames
                    heappush(times, packet.pts)
            waiting.append(packet)
            while times and (last or (packet.dts is not None and times[0] <= packet.dts)):
                time = heappop(times)
                if time == previous:
                    raise RecordingError(f"{self.path}: shows two frames at the time of frame {shown}; {_REMAKE}")
                indices[time], previous = shown, time
                shown += 1
            while waiting and (waiting[0].pts in indices or waiting[0].is_discard or last):
                packet = waiting.popleft()
                yield packet, indices.pop(packet.pts, None)
        if count < self.facts.frames:
            raise RecordingError(f"{self.path}: breaks off, {count} of {self.facts.frames} frames are there; fetch it again")
        if not shown:
            raise RecordingError(f"{self.path}: has no frames")


@contextmanager
def open_video(path: Path, *, threads: int = 1) -> Iterator[Video]:
    """A video file for reading. threads: of the decoder, 0 = as many as there are cores.

    Raises RecordingError when the file is missing, no video, or so damaged that its index cannot be found.
    """
    import av
    from av.error import FFmpegError

    if not path.is_file():
        raise RecordingError(f"{path}: does not exist")
    try:
        container = av.open(str(path))
    except FFmpegError as error:
        raise RecordingError(f"{path}: is no readable video ({error.strerror}); a broken download? fetch it again") from None
    with container:
        yield Video(path, container, threads)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Baseline JPEG, 4:2:0, of a picture uint8 [H, W, 3] in RGB or [H, W, 4] with an alpha that is left out."""
    import simplejpeg

    space = "RGB" if image.shape[2] == 3 else "RGBX"
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorspace=space, colorsubsampling="420")


class _Converter:
    """Decoded frames to arrays; one conversion set up once, which costs as much as converting a small picture."""

    def __init__(self, size: tuple[int, int] | None, pixels: str):
        from av.video.reformatter import VideoReformatter

        self._reformatter, self._size, self._pixels = VideoReformatter(), size, pixels

    def __call__(self, frame) -> np.ndarray:
        width, height = self._size or (frame.width, frame.height)
        smaller = width < frame.width or height < frame.height
        kind = "AREA" if smaller else "BILINEAR"
        return self._reformatter.reformat(frame, width, height, self._pixels, interpolation=kind).to_ndarray()
