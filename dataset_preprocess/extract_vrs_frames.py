"""RGB frames of Project Aria recordings (VRS) as takes: upright, resized, with the camera model turned and scaled alike."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from internlm.data.camera import scale_camera, turn_clockwise
from internlm.data.store import Camera, StoreError, StoreWriter, TakeInfo

RGB = "camera-rgb"


class VrsError(Exception):
    """A recording cannot be read; the message names it and the way out."""


def extract_recordings(
    out: Path, files: Sequence[Path], *, size: int = 448, quality: int = 92, split: str = "train", overwrite: bool = False
) -> int:
    """Write one take per recording, printing one line for each; returns 1 when any failed, else 0.

    The take is named <folder>_<file>. Takes that exist are skipped, so that an interrupted command can be repeated.
    """
    writer = StoreWriter(out)
    failures = 0
    for file in files:
        name = f"{file.resolve().parent.name}_{file.stem}"
        if writer.has(name) and not overwrite:
            print(f"{name}: exists, skipped")
            continue
        try:
            count, camera = extract(writer, file, name, size=size, quality=quality, split=split, overwrite=overwrite)
        except (VrsError, StoreError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failures += 1
        else:
            print(f"{name}: {count} frames of {camera.width}x{camera.height} ({camera.model})")
    return int(failures > 0)


def extract(
    writer: StoreWriter, file: Path, name: str, *, size: int, quality: int, split: str, overwrite: bool
) -> tuple[int, Camera]:
    """Write the RGB stream of one recording as a take; returns the number of frames and the stored camera.

    Frame number = the camera's own counter from the first frame on, so that a dropped frame stays a gap.
    labels.npz carries ``timestamp_ns``, the device time of each frame.
    """
    provider = _open(file)
    stream = provider.get_stream_id_from_label(RGB)
    count = provider.get_num_data(stream) if stream is not None else 0
    if not count:
        raise VrsError(f"{file}: has no {RGB} images (a recording without image streams carries only calibration)")
    calibration = provider.get_device_calibration().get_camera_calib(RGB)
    sensor = aria_camera(calibration)
    if size > min(sensor.width, sensor.height):
        raise VrsError(f"{file}: size {size} exceeds the recorded {sensor.width}x{sensor.height}")
    camera = scale_camera(turn_clockwise(sensor), size)
    # Filled while the frames are written: reading a record means decoding its image, once is enough.
    numbers, stamps = np.zeros(count, np.int64), np.zeros(count, np.int64)

    def frames() -> Iterator[tuple[int, bytes]]:
        import simplejpeg

        first = None
        for index in range(count):
            data, record = provider.get_image_data_by_index(stream, index)
            first = record.frame_number if first is None else first
            numbers[index], stamps[index] = record.frame_number - first, record.capture_timestamp_ns
            image = upright(data.to_numpy_array(), size)
            yield int(numbers[index]), simplejpeg.encode_jpeg(image, quality=quality, colorsubsampling="420")

    info = TakeInfo(
        name=name,
        uid=name,
        split=split,
        frame_rate=float(provider.get_nominal_rate_hz(stream)),
        camera=camera,
        source="aria-vrs",
        extra={"file": file.name, "serial": calibration.get_serial_number()},
    )
    writer.add_take(info, frames(), labels={"frames": numbers, "timestamp_ns": stamps}, overwrite=overwrite)
    return count, camera


def aria_camera(calibration) -> Camera:
    """The store's camera of a projectaria calibration; VrsError when it is no FISHEYE624."""
    model = str(calibration.get_model_name()).rsplit(".", 1)[-1]
    if model != "FISHEYE624":
        raise VrsError(f"camera {calibration.get_label()} has model {model}, expected FISHEYE624")
    width, height = (int(side) for side in calibration.get_image_size())
    return Camera("fisheye624", width, height, tuple(calibration.get_projection_params()))


def upright(image: np.ndarray, width: int) -> np.ndarray:
    """Sensor image uint8 [H, W, 3] turned 90 degrees clockwise and resized to ``width``."""
    import cv2

    turned = cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)
    height = round(turned.shape[0] * width / turned.shape[1])
    return cv2.resize(turned, (width, height), interpolation=cv2.INTER_AREA)


def _open(file: Path):
    try:
        from projectaria_tools.core import data_provider
    except ModuleNotFoundError:
        raise VrsError(
            "reading VRS needs projectaria-tools: pip install 'egoagent[aria]' "
            "(or, without its viewer, pip install --no-deps projectaria-tools)"
        ) from None
    if not file.is_file():
        raise VrsError(f"{file}: does not exist")
    try:
        provider = data_provider.create_vrs_data_provider(str(file))
    except RuntimeError as error:
        raise VrsError(f"{file}: {error}") from None
    if provider is None:
        raise VrsError(f"{file}: is no readable VRS recording")
    return provider
