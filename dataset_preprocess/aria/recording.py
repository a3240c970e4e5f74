"""Project Aria recordings (VRS files), read through projectaria-tools, whose silence about damage is made up for here."""

import os
import struct
from pathlib import Path

import numpy as np

from dataset_preprocess.errors import RecordingError

RGB = "camera-rgb"
# Of a VRS file: two magic numbers, creation id, sizes of file and record header, offsets of index, description, first record.
_FILE_HEADER = struct.Struct("<8sQIIQQQ")
_MAGIC = b"VisionRe"


def open_vrs(path: Path):
    """A projectaria_tools data provider; RecordingError when the file is missing, damaged, or the package is not installed."""
    try:
        from projectaria_tools.core import data_provider
    except ModuleNotFoundError:
        raise RecordingError(
            f"{path}: reading VRS needs projectaria-tools: pip install 'egoagent[aria]' "
            "(or, without its viewer, pip install --no-deps projectaria-tools)"
        ) from None
    if not path.is_file():
        raise RecordingError(f"{path}: does not exist")
    try:
        provider = data_provider.create_vrs_data_provider(str(path))
    except Exception as error:  # the library raises RuntimeError for most damage, other kinds for some
        raise RecordingError(f"{path}: cannot be read: {error}") from None
    if provider is None:
        raise RecordingError(f"{path}: is no readable VRS recording; a download that broke off? fetch it again")
    return provider


def calibration_text(provider, path: Path) -> str:
    """The calibration JSON that an opened recording carries. It is all that is needed of a recording without images."""
    text = provider.get_file_tags().get("calib_json")
    if not text:
        raise RecordingError(f"{path}: carries no calibration (file tag calib_json)")
    return text


def check_complete(path: Path) -> None:
    """RecordingError when a VRS file does not end where its last record does.

    The library drops what lies beyond the end of a file and says so only in its log. Every record begins with its size, so
    the chain of records is followed from the first to the end of the file.
    """
    size = path.stat().st_size
    with open(path, "rb", buffering=0) as file:
        header = os.pread(file.fileno(), _FILE_HEADER.size, 0)
        if len(header) < _FILE_HEADER.size or not header.startswith(_MAGIC):
            raise RecordingError(f"{path}: is no VRS recording")
        *_, record_header, _, _, place = _FILE_HEADER.unpack(header)
        while place < size:
            start = os.pread(file.fileno(), 4, place)
            length = int.from_bytes(start, "little")
            if len(start) < 4 or length < record_header:
                break
            place += length
    if place != size:
        raise RecordingError(f"{path}: is damaged or breaks off at {size:,} bytes; fetch it again")


class RgbStream:
    """The RGB images of a recording: ``stamps_ns`` (device time), ``numbers``, ``frame_rate``, ``image(row)``."""

    def __init__(self, path: Path):
        self.path, self.provider = path, open_vrs(path)
        from projectaria_tools.core.sensor_data import TimeDomain

        check_complete(path)
        self._stream = self.provider.get_stream_id_from_label(RGB)
        count = self.provider.get_num_data(self._stream) if self._stream is not None else 0
        if not count:
            raise RecordingError(f"{path}: has no {RGB} images (a recording without image streams carries only calibration)")
        self.frame_rate = float(self.provider.get_nominal_rate_hz(self._stream))
        if not 0.1 <= self.frame_rate <= 1000:
            raise RecordingError(f"{path}: says that {RGB} runs at {self.frame_rate:g} Hz")
        self.stamps_ns = np.array(self.provider.get_timestamps_ns(self._stream, TimeDomain.DEVICE_TIME), np.int64)
        # By time, so that a dropped frame stays a gap.
        self.numbers = np.round((self.stamps_ns - self.stamps_ns[0]) * 1e-9 * self.frame_rate).astype(np.int64)
        if (np.diff(self.numbers) <= 0).any():
            raise RecordingError(f"{path}: stamps of {RGB} do not rise in steps of {1 / self.frame_rate:g} s")

    def image(self, row: int) -> np.ndarray:
        """RGB picture uint8 [H, W, 3], landscape; decoding happens here."""
        try:
            data = self.provider.get_image_data_by_index(self._stream, row)[0]
            image = data.to_numpy_array() if data.is_valid() else None
        except Exception as error:  # the library raises several kinds for damaged records
            raise RecordingError(f"{self.path}: image {row} of {RGB} cannot be read: {error}") from None
        if image is None or image.ndim != 3 or image.shape[2] != 3:
            raise RecordingError(f"{self.path}: image {row} of {RGB} is damaged or no colour image; fetch the file again")
        return image
