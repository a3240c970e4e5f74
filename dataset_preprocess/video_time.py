"""When the frames of a video are shown, from its time stamps; nothing in a file's header is believed without them.

A first reading of the file, without decoding where a packet is a frame. Files disagree on how time is kept:

    mp4, mkv, webm, TS ...   a presentation time with each packet; an edit list may hide packets
    AVI                      places in the order of decoding; a dropped frame is an empty place. Times of packets are guesses
    fields, VP8, MPEG-1/2    packets that are no frame of their own: the decoder tells which frames there are
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dataset_preprocess.errors import RecordingError
from dataset_preprocess.video_length import bytes_missing, ends_inside_packet

REMAKE = "remake it with ffmpeg -i FILE NEW.mp4"
ONE_FRAME_A_PACKET = ("h264", "hevc", "av1", "vp9", "mjpeg", "prores", "dnxhd", "ffv1", "png", "rawvideo")
_CUT_ANYWHERE = ("mpegts", "mpeg")  # broadcast formats; a file may begin and end in the middle of a group of pictures
_JITTER = 0.1  # of a frame: how far an even video's frames are from even times


class Stamp(NamedTuple):
    """One packet's times, in the stream's unit."""

    pts: int | None
    dts: int | None
    key: bool
    hidden: bool  # by an edit list


@dataclass(frozen=True)
class Timeline:
    """Which frames a video shows and when.

    stamps: int64 [N], rising, one for each frame in the order of showing, in ``unit`` seconds. counted: frames are told by their
    place in the decoder's output, not by their stamp. skippable: a packet is a frame, so unwanted ones need not be decoded.
    skipped: frames before the first that can be decoded. first_packet: place of the first packet to give to the decoder;
    leading: stamp of its frame if those that follow it and are shown earlier lack their references. torn: the file ends inside
    its last packet, which is left out. first: the first decoded frame. pixel_aspect: as the decoder knew it then.
    """

    stamps: np.ndarray
    unit: Fraction
    counted: bool
    skippable: bool
    skipped: int
    first_packet: int
    leading: int | None
    torn: bool
    first: Any
    pixel_aspect: Fraction | None

    @property
    def seconds(self) -> np.ndarray:
        """float64 [N]: time of each frame since the first one."""
        return (self.stamps - self.stamps[0]) * float(self.unit)


def read_timeline(path: Path, container, stream) -> Timeline:
    """Reads an open file to its end. Raises RecordingError when it breaks off, or does not say when its frames are shown."""
    from av.error import FFmpegError

    context, avi = stream.codec_context, container.format.name == "avi"
    decode_all = context.codec.canonical_name not in ONE_FRAME_A_PACKET and not avi
    packets: list[Stamp] = []
    shown: list[int | None] = []  # stamps of what the decoder gives, where it is asked for everything
    first = aspect = None
    torn = container.format.name == "mpegts" and ends_inside_packet(path, stream.id)
    try:
        for packet in whole_packets(container, stream, torn):
            if packet.size:
                if packet.is_corrupt and (first is not None or not _cut_anywhere(container)):
                    raise RecordingError(f"{path}: is damaged or breaks off near frame {len(packets)}; fetch it again")
                packets.append(Stamp(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
            if first is None or decode_all:
                for frame in _frames(packet):
                    if first is None:
                        first, aspect = frame, context.sample_aspect_ratio
                        decode_all = decode_all or (frame.interlaced_frame and not avi)
                    shown.append(frame.pts)
    except FFmpegError as error:
        raise RecordingError(
            f"{path}: is damaged or breaks off near frame {len(packets)}: {error.strerror}; fetch it again"
        ) from None
    _check_complete(path, container, stream, len(packets))
    if not packets:
        raise RecordingError(f"{path}: has no frames")
    if first is None:
        raise RecordingError(f"{path}: none of its {len(packets)} frames can be decoded (no key frame?); fetch it again")
    start, first_packet, leading = 0, 0, None
    if avi or all(packet.pts is None for packet in packets):
        stamps, counted = _decoding_places(path, packets, context.reorder_depth), True
    elif decode_all:
        stamps, counted = _complete(path, shown), False
        start = stamps[0]
    else:
        first_packet = next((place for place, packet in enumerate(packets) if packet.key), 0)
        stamps, counted = _complete(path, [p.pts for p in packets[first_packet:] if not p.hidden]), False
        start, leading = _start(packets[first_packet:], first, lenient=_cut_anywhere(container))
    if not counted:
        _check_forward(path, packets)
        stamps = sorted(stamp for stamp in stamps if stamp >= start)
    found = np.array(stamps, np.int64)
    if (np.diff(found) <= 0).any():
        place = int(np.flatnonzero(np.diff(found) <= 0)[0])
        raise RecordingError(f"{path}: shows two frames at the time of frame {place}; {REMAKE}")
    early = (p for place, p in enumerate(packets) if place < first_packet or (p.pts is not None and p.pts < start))
    skipped = 0 if counted else sum(not packet.hidden for packet in early)
    unit, skippable = Fraction(stream.time_base), not counted and not decode_all
    return Timeline(found, unit, counted, skippable, skipped, first_packet, leading, torn, first, aspect)


def whole_packets(container, stream, torn: bool) -> Iterator[Any]:
    """A stream's packets and the empty one at the end, which asks for what the decoder still holds.

    Without the empty packets of dropped frames and, where it is ``torn``, without the last packet.
    """
    held = None
    for packet in container.demux(stream):
        if packet.size:
            if held is not None:
                yield held
            held = packet
        elif packet.pts is None and packet.dts is None:
            if held is not None and not torn:
                yield held
            held = None
            yield packet


def usual_rate(seconds: np.ndarray, announced: list[float], unit: float) -> float:
    """Frames per second of a video whose frames are shown at ``seconds`` [N]; of an uneven one the median.

    One of the ``announced`` rates where the times agree with it (also with frames missing): a header's 30000/1001 is exact,
    time stamps are rounded to ``unit`` seconds. 0 when there is nothing to tell it from.
    """
    if len(seconds) < 2:
        return next((rate for rate in announced if rate > 0), 0.0)
    step = float(np.median(np.diff(seconds)))
    best = (np.inf, 0.0)
    for rate in announced:
        place = seconds * rate
        off = round(float(np.abs(place - np.round(place)).max()), 3)
        usual = abs(step * rate - 1) <= 0.05 + rate * unit and (np.diff(np.round(place)) >= 1).all()
        if usual and off <= _JITTER + rate * unit and off < best[0]:
            best = (off, rate)
    if best[1]:
        return best[1]
    mean = (len(seconds) - 1) / (seconds[-1] - seconds[0])
    return float(mean) if abs(mean * step - 1) < 0.2 else 1 / step


def _frames(packet) -> list:
    """What the decoder makes of a packet; nothing where it fails, which is reported when the frame is needed."""
    from av.error import FFmpegError

    try:
        return packet.decode()
    except FFmpegError:
        return []


def _cut_anywhere(container) -> bool:
    return container.format.name in _CUT_ANYWHERE


def _complete(path: Path, stamps: list[int | None]) -> list[int]:
    if None in stamps:
        raise RecordingError(f"{path}: does not say when its frame {stamps.index(None)} is shown; {REMAKE}")
    return stamps


def _decoding_places(path: Path, packets: list[Stamp], delay: int) -> list[int]:
    """Times of shown frames where only the order of decoding has times.

    An encoder that holds back ``delay`` frames writes its k-th frame's place with the packet k + delay, so the last ones' are
    not in the file; they follow at the step before them, or at the usual one where that is uneven.
    """
    places = _complete(path, [packet.dts for packet in packets])
    steps = np.diff(places)
    even = len(steps) > 1 and steps[-1] == steps[-2]
    step = max(1, int(steps[-1] if even else np.median(steps))) if len(steps) else 1
    delay = min(delay, len(places) - 1)
    return places[delay:] + [places[-1] + step * (k + 1) for k in range(delay)]


def _start(packets: list[Stamp], first, *, lenient: bool) -> tuple[int, int | None]:
    """Stamp of the first frame to use, and the stamp before which packets lack references. packets: from the first key on.

    A file that begins at a key frame which cannot be decoded is damaged, not cut, unless ``lenient``.
    """
    key = packets[0].pts
    if not packets[0].key:  # none is marked as a key: refreshed bit by bit
        return (key if first.pts is None else first.pts), None
    expected = min((p.pts for p in packets if not p.hidden and p.pts >= key), default=key)
    start = expected if first.pts is None else first.pts
    if start > expected and not lenient:
        start = expected
    return start, key if start >= key else None


def _check_forward(path: Path, packets: list[Stamp]) -> None:
    before = None
    for place, packet in enumerate(packets):
        if before is not None and packet.dts is not None and packet.dts < before:
            raise RecordingError(f"{path}: its time goes back near frame {place}; several recordings in one file? {REMAKE}")
        before = packet.dts if packet.dts is not None else before


def _check_complete(path: Path, container, stream, count: int) -> None:
    """RecordingError when the file ends before what it announces."""
    if missing := bytes_missing(path):
        raise RecordingError(f"{path}: breaks off near frame {count}, {missing:,} bytes before its end; fetch it again")
    name = container.format.name
    if "mp4" in name and count < stream.frames and (there := _samples(path, stream.index)) < stream.frames:
        raise RecordingError(f"{path}: breaks off, {there} of {stream.frames} frames are there; fetch it again")


def _samples(path: Path, index: int) -> int:
    """Packets of an mp4 without its edit list, which leaves out what a trimmed video does not show."""
    import av

    with av.open(str(path), options={"ignore_editlist": "1"}) as container:
        return sum(packet.pts is not None for packet in container.demux(container.streams[index]))
