"""Decoded frames as the pictures that a player shows: turned, with square pixels, in RGB."""

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from dataset_preprocess.errors import RecordingError

# ITU-T H.273: code points of matrix coefficients and transfer characteristics, as in every codec and container.
_BT709, _UNSAID = 1, 2
_MATRICES = {1, 2, 4, 5, 6, 7, 9}  # what libswscale knows: BT.709, unsaid, FCC, BT.601 (two names), SMPTE 240M, BT.2020
_CURVES = {1, 2, 4, 5, 6, 7, 11, 12, 13, 14, 15}  # for displays of usual brightness
_HDR = {16: "PQ", 18: "HLG"}
_PRIMARIES = {9: "bt2020", 10: "xyz", 11: "p3-dci", 12: "p3"}  # wider than what JPEG files are taken for
_TONEMAP = (
    "ffmpeg -i FILE -vf zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable,zscale=t=bt709:m=bt709:r=tv,"
    "format=yuv420p NEW.mp4"
)
_SAME_SHAPE = 0.01


@dataclass(frozen=True)
class Turn:
    """How a coded picture is to be shown: ``swap`` rows and columns first, then mirror columns or rows."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if self == Turn():
            return image
        image = image.swapaxes(0, 1) if self.swap else image
        return np.ascontiguousarray(image[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1])

    def size(self, width: int, height: int) -> tuple[int, int]:
        return (height, width) if self.swap else (width, height)


def read_turn(path: Path, frame) -> Turn:
    """From a frame's display matrix (ISO/IEC 14496-12, 8.3.2: x' = a x + c y, y' = b x + d y). RecordingError if it is aslant."""
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return Turn()
    a, b, _, c, d, *_ = struct.unpack("<9i", bytes(data)[:36])
    straight, crossed = min(abs(a), abs(d)), min(abs(b), abs(c))
    if max(abs(b), abs(c)) <= 0.01 * straight:
        return Turn(mirror_x=a < 0, mirror_y=d < 0)
    if max(abs(a), abs(d)) <= 0.01 * crossed:
        return Turn(swap=True, mirror_x=c < 0, mirror_y=b < 0)
    if not any((a, b, c, d)):
        return Turn()  # no matrix at all, as players take it
    degrees = np.degrees(np.arctan2(b, a))
    raise RecordingError(f"{path}: is to be shown turned by {degrees:.0f} degrees; remake it with ffmpeg -i FILE NEW.mp4")


def shown_size(path: Path, width: int, height: int, aspect: Fraction | None, turn: Turn) -> tuple[int, int]:
    """Width and height as shown, with square pixels. aspect: width to height of a coded pixel; the coded height is kept."""
    aspect = Fraction(aspect or 1)
    if not Fraction(1, 16) <= aspect <= 16:
        raise RecordingError(
            f"{path}: says that its pixels are {float(aspect):.4g} times as wide as high; "
            "if they are not, ffmpeg -i FILE -vf setsar=1 NEW.mp4"
        )
    return turn.size(max(1, round(width * aspect)), height)


class Converter:
    """Decoded frames to arrays of one size and shape; one conversion set up once, which costs as much as a small picture's.

    shape: width and height as shown of the first frame; RecordingError for a frame of another aspect, or of colours that
    cannot be told. size: (width, height) to give. aspect: of pixels, where the container says it, else the decoder's.
    """

    def __init__(self, path: Path, shape: tuple[int, int], size: tuple[int, int] | None = None, *, channels: Literal[3, 4] = 3):
        from av.video.reformatter import VideoReformatter

        self._path, self._shape, self._size = path, shape, size or shape
        self._reformatter, self._pixels = VideoReformatter(), "rgb24" if channels == 3 else "rgba"

    def __call__(self, frame, aspect: Fraction | None, where: str) -> np.ndarray:
        """uint8 [H, W, channels]. where: of the frame, for messages."""
        turn = read_turn(self._path, frame)
        width, height = shown_size(self._path, frame.width, frame.height, aspect, turn)
        if abs(width * self._shape[1] / (height * self._shape[0]) - 1) > _SAME_SHAPE:
            raise RecordingError(
                f"{self._path}: changes its shape at {where}, from {self._shape[0]}x{self._shape[1]} to {width}x{height}; "
                "make a file of each part (ffmpeg -ss START -to END -i FILE PART.mp4)"
            )
        tell_colours(self._path, frame)
        width, height = turn.size(*self._size)  # before turning: swapping is its own inverse
        smaller = width < frame.width or height < frame.height
        kind = "AREA" if smaller else "BILINEAR"
        return turn(self._reformatter.reformat(frame, width, height, self._pixels, interpolation=kind).to_ndarray())


def tell_colours(path: Path, frame) -> None:
    """Marks an untagged frame of high definition as BT.709, as players do; the library converts by a frame's marks.

    RecordingError for high dynamic range, whose values mean another brightness, and for matrices that nobody converts.
    """
    from av.sidedata.sidedata import Type

    dolby = frame.color_trc == _UNSAID and frame.side_data.get(Type.DOVI_METADATA) is not None
    if dolby or frame.color_trc in _HDR:
        kind = "Dolby Vision" if dolby else _HDR[frame.color_trc]
        raise RecordingError(f"{path}: is of high dynamic range ({kind}); bring it to the usual range: {_TONEMAP}")
    if frame.color_trc not in _CURVES:
        raise RecordingError(f"{path}: has transfer characteristics {frame.color_trc} (H.273), no usual video's; {_TONEMAP}")
    if frame.format.is_rgb or frame.format.has_palette:
        return
    if frame.colorspace not in _MATRICES:
        raise RecordingError(
            f"{path}: has colours of matrix {frame.colorspace} (H.273), which cannot be converted; "
            "remake it with ffmpeg -i FILE -vf scale=out_color_matrix=bt709 NEW.mp4"
        )
    if frame.colorspace == _UNSAID and (frame.width >= 1280 or frame.height > 576):
        frame.colorspace = _BT709


def wide_primaries(frame) -> str | None:
    """Name of primaries that JPEG readers will not know of: such colours are stored as they are and look a little pale."""
    return _PRIMARIES.get(frame.color_primaries)
