"""What is in a take store, and whether all of it can be read."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from internlm.data.store import StoreError, Take, TakeStore


def check_store(path: Path, *, decode_every: int = 1) -> int:
    """Read every take and print one line for each; returns 1 when there is any fault, else 0."""
    store = TakeStore(path)
    faulty = 0
    for take in store.select():
        try:
            summary, faults = check_take(take, decode_every=decode_every)
        except StoreError as error:
            summary, faults = "unreadable", [str(error)]
        print(f"{take.info.name}  [{take.info.split}]  {summary}")
        for fault in faults:
            print(f"  fault: {fault}")
        faulty += bool(faults)
    splits = Counter(info.split for info in store.infos)
    counted = ", ".join(f"{name} {count}" for name, count in sorted(splits.items())) or "none"
    print(f"{len(store)} takes ({counted}), {faulty} with faults")
    return int(faulty > 0 or not len(store))


def check_take(take: Take, *, decode_every: int = 1) -> tuple[str, list[str]]:
    """One line about a take, and its faults: images that do not decode or differ from the camera's size."""
    numbers, faults = take.frame_numbers, []
    for number in numbers[::decode_every].tolist():
        try:
            size = _decode(take.read_frame(number)).size
        except (StoreError, OSError, SyntaxError, ValueError) as error:
            faults.append(f"frame {number}: {error}")
            continue
        camera = take.info.camera
        if camera is not None and size != (camera.width, camera.height):
            faults.append(f"frame {number}: is {size[0]}x{size[1]}, the camera says {camera.width}x{camera.height}")
    parts = [f"{len(numbers)} frames {_spacing(numbers)} at {take.info.frame_rate:g} Hz"]
    poses = take.poses()
    if poses is not None:
        parts.append(f"{len(poses.frames)} poses {_spacing(poses.frames)}, {poses.visible.mean():.0%} of joints visible")
        parts.append(f"{len(poses.camera_frames)} camera poses {_spacing(poses.camera_frames)}")
        unseen = len(np.setdiff1d(numbers, poses.camera_frames))
        if len(poses.camera_frames) and unseen:
            parts.append(f"{unseen} frames without camera pose")
    labels = sorted(set(take.labels()) - {"frames"})
    return "; ".join(parts + (["labels " + ", ".join(labels)] if labels else [])), faults


def show_take(path: Path, name: str, out: Path, *, count: int = 8, height: int = 224) -> None:
    """Write a strip of frames, spread over the take, as one picture."""
    take = TakeStore(path).take(name)
    numbers = take.frame_numbers
    if not len(numbers):
        raise StoreError(f"{take.path}: has no frames to show")
    chosen = numbers[np.unique(np.linspace(0, len(numbers) - 1, max(1, count)).round().astype(int))]
    images = [_decode(take.read_frame(int(number))) for number in chosen]
    images = [image.resize((max(1, round(image.width * height / image.height)), height)) for image in images]
    strip = Image.new("RGB", (sum(image.width for image in images), height))
    left = 0
    for image in images:
        strip.paste(image, (left, 0))
        left += image.width
    strip.save(out)
    print(f"{out}: frames {', '.join(map(str, chosen.tolist()))} of {name}")


def _decode(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def _spacing(numbers: np.ndarray) -> str:
    """The usual step between frame numbers and how often it is broken."""
    if len(numbers) < 2:
        return ""
    steps = Counter(np.diff(numbers).tolist())
    usual, times = steps.most_common(1)[0]
    gaps = len(numbers) - 1 - times
    return f"every {usual}" + (f" with {gaps} gaps" if gaps else "")
