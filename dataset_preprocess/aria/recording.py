"""Project Aria recordings (VRS files), read through projectaria-tools, whose silence about damage is made up for here."""

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset_preprocess.errors import RecordingError
from dataset_preprocess.json_input import parse_json

RGB = "camera-rgb"
CALIBRATION = "calib_json"
# Of a VRS file: two magic numbers, creation id, sizes of file and record header, offsets of index, description, first record.
_FILE_HEADER = struct.Struct("<8sQIIQQQ")
_RECORD_HEADER = struct.Struct("<IIiIdHB")  # size, previous size, stream type, format, time, stream instance, kind
_DATA = 3  # a kind of record
_CLASSIC_INDEX = 2  # a format of the index
_RGB_TYPE = 214  # a type of stream
_MAGIC = b"VisionRe"
_MAX_DESCRIPTION = 16 << 20  # bytes; a recording's has some 30 kB
_NO_RGB = f"has no {RGB} images: recorded with a profile without the RGB camera, or a copy without image streams"
_SUPPORTED = (
    "what is supported: first-generation Project Aria, RGB pictures of 2880 or 1408 pixels square. Of other glasses only a video "
    "can be stored, without camera and poses (projectaria-tools' vrs_to_mp4, then egoagent data videos)"
)


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
    layout = _read_layout(path)
    try:
        provider, problem = data_provider.create_vrs_data_provider(str(path)), "projectaria-tools finds no Aria recording in it"
    except Exception as error:  # the library raises RuntimeError for most damage and for devices it does not know
        provider, problem = None, str(error)
    if provider is None:
        _check_device_of(path, layout)
        if _RGB_TYPE not in check_complete(path):
            raise RecordingError(f"{path}: {_NO_RGB}")
        raise RecordingError(f"{path}: cannot be read: {problem}")
    return provider


def calibration_text(provider, path: Path) -> str:
    """The calibration JSON that an opened recording carries. It is all that is needed of a recording without images."""
    tags = provider.get_file_tags()
    if not tags.get(CALIBRATION):
        device = f"; its device is {tags['device_type']!r}" if tags.get("device_type") else ""
        raise RecordingError(f"{path}: carries no calibration (file tag {CALIBRATION}){device}")
    return tags[CALIBRATION]


def check_device(calibration: dict[str, Any], name: str) -> None:
    """RecordingError, naming device and generation, when a calibration is not of first-generation Aria glasses.

    Calibrations that name no device class pass: what their camera is, their numbers tell.
    """
    about, cameras = calibration.get("DeviceClassInfo"), calibration.get("CameraCalibrations")
    device = about.get("DeviceClass") if isinstance(about, dict) else None
    word = re.sub(r"[^a-z0-9]", "", device.lower()) if isinstance(device, str) else ""
    labels = [str(camera.get("Label")) for camera in cameras if isinstance(camera, dict)] if isinstance(cameras, list) else []
    # "Oatmeal" is the second generation's name in its calibrations; it alone has four SLAM cameras, called front and side.
    second = word == "oatmeal" or re.fullmatch(r"aria.*2", word) or any(re.match(r"slam-(front|side)", label) for label in labels)
    if second:
        raise RecordingError(f"{name}: comes from second-generation Aria glasses (device class {device!r}); {_SUPPORTED}")
    if word and not word.startswith("aria") and calibration.get("CalibrationSource") != "Synthetic":
        raise RecordingError(f"{name}: comes from a device of class {device!r}, not from Project Aria glasses; {_SUPPORTED}")


def check_complete(path: Path) -> set[int]:
    """The types of the streams that a VRS file has data of; RecordingError when it does not end where its last record does.

    The library drops what lies beyond the end of a file and says so only in its log. Every record begins with its size, so
    the chain of records is followed from the first to the end of the file. A recording that was never closed (power loss) has no
    index; the library makes one, so that it can be read where all its records are whole. So can one whose index alone is cut.
    """
    layout = _read_layout(path)
    with open(path, "rb", buffering=0) as file:
        place, records, types = layout.first, 0, set()
        while place + _RECORD_HEADER.size <= layout.size:
            length, _, stream, _, _, _, kind = _RECORD_HEADER.unpack(os.pread(file.fileno(), _RECORD_HEADER.size, place))
            if length < layout.record_header or place + length > layout.size:
                break
            place, records = place + length, records + 1
            if kind == _DATA:
                types.add(stream)
        listed = _listed_records(file.fileno(), layout)
    follows = layout.index >= layout.first
    records -= follows and layout.index < place  # an index that follows the records is one itself
    whole = layout.index <= place if follows else place == layout.size
    if whole and records >= listed:
        return types
    if not layout.index:
        raise RecordingError(
            f"{path}: was never closed (its index is missing: power loss or a full disk while recording?) and is cut at byte "
            f"{place:,}, after {records:,} whole records; VRS's own tool saves what is whole: vrs copy {path.name} --to NEW.vrs"
        )
    raise RecordingError(
        f"{path}: is damaged or breaks off: of {layout.size:,} bytes, no whole record begins at byte {place:,}; fetch it again"
    )


@dataclass(frozen=True)
class _Layout:
    """Where things are in a VRS file, in bytes; index 0 = the file has none, or an empty one."""

    size: int
    record_header: int
    index: int
    description: int
    first: int


def _read_layout(path: Path) -> _Layout:
    size = path.stat().st_size
    with open(path, "rb", buffering=0) as file:
        header = os.pread(file.fileno(), _FILE_HEADER.size, 0)
        if len(header) < _FILE_HEADER.size or not header.startswith(_MAGIC):
            raise RecordingError(f"{path}: is no VRS recording; it has {size:,} bytes and begins with {header[:24]!r}")
        _, _, file_header, record_header, index, description, first = _FILE_HEADER.unpack(header)
        # Old files do not say where their records begin: behind the description, or behind the header without one.
        first = first or file_header
        for record in (description, index):
            if record and first == record:
                first += int.from_bytes(os.pread(file.fileno(), 4, record), "little")
        if index and index < first and int.from_bytes(os.pread(file.fileno(), 4, index), "little") <= record_header:
            index = 0  # begun in front of the records, and never written
    return _Layout(size, record_header, index, description, first)


def _listed_records(descriptor: int, layout: _Layout) -> int:
    """How many records the index lists, where it is of the usual form: streams, 6 bytes each, and records; 0 = not known."""
    if not layout.index:
        return 0
    start = os.pread(descriptor, layout.record_header + 4, layout.index)
    if len(start) < layout.record_header + 4 or _RECORD_HEADER.unpack_from(start)[3] != _CLASSIC_INDEX:
        return 0
    streams = int.from_bytes(start[layout.record_header :], "little")
    return int.from_bytes(os.pread(descriptor, 4, layout.index + len(start) + 6 * streams), "little")


def _check_device_of(path: Path, layout: _Layout) -> None:
    """What ``check_device`` says of the calibration in a recording that the library cannot open."""
    with open(path, "rb", buffering=0) as file:
        length = int.from_bytes(os.pread(file.fileno(), 4, layout.description), "little")
        description = os.pread(file.fileno(), min(length, _MAX_DESCRIPTION), layout.description)
    key = len(CALIBRATION).to_bytes(4, "little") + CALIBRATION.encode()  # texts follow their length
    place = description.find(key) + len(key)
    text = description[place + 4 : place + 4 + int.from_bytes(description[place : place + 4], "little")]
    try:
        calibration = parse_json(text, dict, str(path)) if key in description else {}
    except RecordingError:
        return  # damage, which the records tell
    check_device(calibration, str(path))


class RgbStream:
    """The RGB images of a recording: ``stamps_ns`` (device time), ``numbers``, ``frame_rate``, ``image(row)``."""

    def __init__(self, path: Path):
        self.path, self.provider = path, open_vrs(path)
        from projectaria_tools.core.sensor_data import TimeDomain

        check_complete(path)
        self._stream = self.provider.get_stream_id_from_label(RGB)
        count = self.provider.get_num_data(self._stream) if self._stream is not None else 0
        if not count:
            raise RecordingError(f"{path}: {_NO_RGB}")
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
