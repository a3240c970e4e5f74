"""A picture strip of a take, the wearer's skeleton drawn through the stored camera; its columns are listed."""

import argparse
import io
from pathlib import Path

import numpy as np

from dataset_preprocess.column_sanity import describe_column
from internlm.data.camera import project
from internlm.data.geometry import camera_coordinates
from internlm.data.skeleton import BONES
from internlm.data.store import COCO_JOINTS, PoseTrack, StoreError, Take, TakeStore

LEFT, RIGHT, MIDDLE = (255, 120, 0), (0, 190, 255), (170, 255, 60)
_PIECES = 32  # of a bone: a fisheye bends it, and part of it may lie outside the picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("take", metavar="TAKE")
    parser.add_argument("out", type=Path, metavar="OUT.png")
    parser.add_argument("--frames", type=int, default=8, metavar="N", help="how many, spread over the take (default: 8)")
    parser.add_argument("--height", type=int, default=224, metavar="PIXELS", help="of the strip (default: 224)")
    parser.add_argument("--no-skeleton", action="store_true", help="only the images")


def run(args: argparse.Namespace) -> int:
    show_take(args.store, args.take, args.out, count=args.frames, height=args.height, skeleton=not args.no_skeleton)
    return 0


def show_take(path: Path, name: str, out: Path, *, count: int = 8, height: int = 224, skeleton: bool = True) -> None:
    """Write frames, spread over the take, as one picture; with ``skeleton`` those that have a pose are preferred.

    Raises StoreError when the take has no images or an image is damaged.
    """
    from PIL import Image

    take = TakeStore(path).take(name)
    for column in take.columns:
        print(f"{column}: {describe_column(take, column)}")
    numbers = take.frame_numbers
    if not len(numbers):
        raise StoreError(f"{take.path}: has no images to show")
    track = take.poses() if skeleton and take.info.camera else None
    drawable = numbers[np.isin(numbers, frames_with_joints(take, track))] if track else numbers
    pool = drawable if len(drawable) else numbers
    chosen = pool[np.unique(np.linspace(0, len(pool) - 1, max(1, count)).round().astype(int))]
    images, drawn = [], 0
    for number in chosen.tolist():
        image = _decode(take, number)
        scale = height / image.height
        image = image.resize((max(1, round(image.width * scale)), height))
        drawn += draw_skeleton(image, take, track, number, scale) if track else 0
        images.append(image)
    strip = Image.new("RGB", (sum(image.width for image in images), height))
    left = 0
    for image in images:
        strip.paste(image, (left, 0))
        left += image.width
    strip.save(out, format="PNG")
    told = f"; {drawn} joints drawn" if track else ""
    print(f"{out}: frames {', '.join(map(str, chosen.tolist()))} of {name}{told}")


def frames_with_joints(take: Take, track: PoseTrack) -> np.ndarray:
    """Frame numbers whose joints can be set in the camera of their own frame."""
    if take.info.pose_space == "camera":
        return track.frames
    return np.intersect1d(track.frames, track.camera_frames)


def joints_in_camera(take: Take, track: PoseTrack, number: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Joints [17, 3] in the camera of frame ``number`` and which are visible [17]; None when the frame has no such pose."""
    if number not in frames_with_joints(take, track):
        return None
    row = int(np.searchsorted(track.frames, number))
    joints = track.joints[row].astype(np.float64)
    if take.info.pose_space == "world":
        camera = track.world_from_camera[np.searchsorted(track.camera_frames, number)]
        joints = camera_coordinates(joints, camera)
    return joints, track.visible[row]


def draw_skeleton(image, take: Take, track: PoseTrack, number: int, scale: float) -> int:
    """Draw what the camera can see of the skeleton (in front, inside the valid circle) onto a PIL image that was resized by
    ``scale``; returns the number of joints drawn."""
    from PIL import ImageDraw

    found = joints_in_camera(take, track, number)
    if found is None:
        return 0
    joints, visible = found
    draw = ImageDraw.Draw(image)
    for a, b in BONES:
        if visible[a] and visible[b]:
            along = np.linspace(0, 1, _PIECES + 1)[:, None]
            pixels, inside = project(take.info.camera, joints[a] * (1 - along) + joints[b] * along)
            pixels = (pixels + 0.5) * scale - 0.5
            for piece in np.flatnonzero(inside[1:] & inside[:-1]):
                draw.line([*map(tuple, pixels[piece : piece + 2])], fill=_colour(a, b), width=max(1, image.height // 110))
    pixels, inside = project(take.info.camera, joints)
    radius = max(1.0, image.height / 90)
    for x, y in ((pixels + 0.5) * scale - 0.5)[inside & visible]:
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=(255, 255, 255), outline=(0, 0, 0))
    return int((inside & visible).sum())


def _decode(take: Take, number: int):
    from PIL import Image

    try:
        with Image.open(io.BytesIO(take.read_frame(number)), formats=("JPEG", "PNG")) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise StoreError(f"{take.path}: frame {number} cannot be decoded: {error}") from None


def _colour(*joints: int) -> tuple[int, int, int]:
    """Of a bone: its side's, or a third where it joins both sides."""
    sides = {COCO_JOINTS[joint].partition("-")[0] for joint in joints} - {"nose"}
    return MIDDLE if len(sides) > 1 else LEFT if "left" in sides else RIGHT
