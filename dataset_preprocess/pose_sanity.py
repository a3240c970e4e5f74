"""Whether stored poses can be a wearer's: the size of the body and of its bones, speeds, the face beside the camera, feet below
the head, and a camera that looks where the body faces."""

from dataclasses import dataclass

import numpy as np

from dataset_preprocess.body_pose.filters import FACE, LIMBS, PAIRS, Filters
from dataset_preprocess.column_sanity import more
from internlm.data.geometry import transform_points
from internlm.data.store import COCO_JOINTS, PoseTrack

LIMITS = Filters()  # what the filters of the annotations hide by default is odd in a store
LENGTHS = (0.1, 0.8)  # metres: the median of any bone, from a child's hips to a tall man's shin
_BRIEF = 0.2  # seconds: over a longer gap there is no speed
_ENOUGH = 5
# Segments as shares of body height (Winter, Biomechanics and Motor Control of Human Movement), by their COCO joints.
SHARES = {(5, 7): 0.186, (7, 9): 0.146, (6, 8): 0.186, (8, 10): 0.146,
          (11, 13): 0.245, (13, 15): 0.246, (12, 14): 0.245, (14, 16): 0.246}  # fmt: skip
HEIGHTS = (1.0, 2.3)  # metres: a child of four, and the tallest players
SEGMENT = 1.7  # a segment is at most so many times longer or shorter than the other segments let expect
WALKING = 0.6  # m/s of the hips
# Degrees that a gaze is to one side: its median over the take, and what four fifths of the frames exceed. Who looks about also
# looks ahead; a camera that is turned on the head never does. Real walkers were up to 11 and 7 off the shoulders, 9 and 6 off
# the way they go.
ASIDE = (15.0, 10.0)
ASIDE_WALKING, SHOULDERS_WALKING = (12.0, 8.0), (9.0, 3.0)
_SECOND = 30  # frames of a gaze: fewer say nothing about a take
_STANDING = 3.0  # seconds of standing: who stands looks aside for longer than who walks, at what is at hand


@dataclass(frozen=True)
class PoseFigures:
    """What was measured in one take, None where there was nothing to measure, and what is odd about it in words."""

    head_distance: float | None  # median, metres
    top_speed: float | None  # the fastest joint, m/s
    odd: list[str]


def measure(track: PoseTrack, frame_rate: float, pose_space: str | None) -> PoseFigures:
    """Figures of a pose track; joints of ``pose_space`` "camera" are also taken to the world where camera poses allow."""
    odd = _size(track) + _bones(track)
    _, at_pose, at_camera = np.intersect1d(track.frames, track.camera_frames, assume_unique=True, return_indices=True)
    cameras = track.world_from_camera[at_camera]
    in_camera, space = pose_space == "camera", track.frames
    if in_camera:
        face, face_frames = _face(track.joints, track.visible), track.frames
        world, visible, space = transform_points(cameras, track.joints[at_pose]), track.visible[at_pose], track.frames[at_pose]
    else:
        face, face_frames = _face(track.joints[at_pose], track.visible[at_pose]) - cameras[:, :3, 3], track.frames[at_pose]
        world, visible = track.joints, track.visible
    distance, words = _distance(face, face_frames)
    top, fast = _speed(world, visible, space, frame_rate)
    posed = np.isin(space, track.frames[at_pose])
    gaze = _gaze(world[posed], visible[posed], cameras, space[posed], frame_rate)
    return PoseFigures(distance, top, odd + words + fast + _upside_down(world, visible) + gaze)


def _size(track: PoseTrack) -> list[str]:
    """The height of a body with such limbs, and limbs that belong to a body of another height."""
    heights = {}
    for (a, b), share in SHARES.items():
        both = track.visible[:, a] & track.visible[:, b]
        if both.sum() >= _ENOUGH:
            heights[a, b] = float(np.median(np.linalg.norm(track.joints[both, a] - track.joints[both, b], axis=-1))) / share
    if len(heights) < 2:
        return []
    height = float(np.median(list(heights.values())))
    odd = []
    if not HEIGHTS[0] < height < HEIGHTS[1]:
        odd.append(f"the limbs are those of a person {height:.3g} m tall; is the unit the metre?")
    for (a, b), own in heights.items():
        if not height / SEGMENT < own < height * SEGMENT:
            name, usual = f"{COCO_JOINTS[a]} to {COCO_JOINTS[b]}", height * SHARES[a, b]
            odd.append(f"{name} is {own * SHARES[a, b]:.2f} m long (median), {usual:.2f} m fits the other limbs; is it that one?")
    return odd


def _gaze(joints: np.ndarray, visible: np.ndarray, cameras: np.ndarray, frames: np.ndarray, rate: float) -> list[str]:
    """The camera looks on the whole where shoulders and way lead, and is upright. All [N, ...] of the same frames, world axes."""
    if len(frames) < _SECOND:
        return []
    odd = []
    right, ahead = cameras[:, :3, 0], cameras[:, :3, 2]
    tilt = np.degrees(np.arctan2(-right[:, 2], -cameras[:, 2, 1]))[np.abs(ahead[:, 2]) < 0.9]
    if len(tilt) >= _SECOND and abs(roll := _usual(tilt)) > 45:
        odd.append(f"the camera is rolled by {abs(roll):.0f} degrees (median): do its images stand upright?")
    level = np.linalg.norm(ahead[:, :2], axis=1) > 0.3
    looking = _direction(ahead)
    shoulders = _facing(joints, 5, 6)
    known = visible[:, 5] & visible[:, 6] & level
    if known.sum() < _SECOND:
        return odd
    aside = _aside(looking[known] - shoulders[known])
    walking = known & visible[:, 11] & visible[:, 12]
    way = np.gradient(joints[:, [11, 12]].mean(1), frames / rate, axis=0)
    # Who walks backwards or sideways does not look where the way leads.
    walking &= (np.linalg.norm(way[:, :2], axis=1) > WALKING) & (np.abs(_turn(_direction(way) - shoulders)) < 45)
    if walking.sum() >= _SECOND:
        walker = _aside(looking[walking] - _direction(way)[walking])
        if walker[0] * aside[0] > 0 and _exceeds(walker, ASIDE_WALKING) and _exceeds(aside, SHOULDERS_WALKING):
            odd.append(
                f"the camera looks {_side(aside)} of where the shoulders face and {_side(walker)} of the way that is walked "
                "(medians); is its orientation right?"
            )
    elif np.ptp(frames[known]) >= _STANDING * rate and _exceeds(aside, ASIDE):
        odd.append(f"the camera looks {_side(aside)} of where the shoulders face (median); is its orientation right?")
    return odd


def _aside(degrees: np.ndarray) -> tuple[float, float]:
    """Median of the angles, and what four fifths of them are to that side, both signed: left is positive."""
    middle = _usual(degrees)
    side = np.sign(middle) or 1.0
    return middle, float(middle + side * np.quantile(_turn(degrees - middle) * side, 0.2))


def _exceeds(aside: tuple[float, float], limits: tuple[float, float]) -> bool:
    return abs(aside[0]) > limits[0] and aside[1] * np.sign(aside[0]) > limits[1]


def _side(aside: tuple[float, float]) -> str:
    return f"{abs(aside[0]):.0f} degrees {'left' if aside[0] > 0 else 'right'}"


def _direction(vectors: np.ndarray) -> np.ndarray:
    """Degrees [N] about the vertical, counter-clockwise from above."""
    return np.degrees(np.arctan2(vectors[:, 1], vectors[:, 0]))


def _facing(joints: np.ndarray, left: int, right: int) -> np.ndarray:
    line = joints[:, left] - joints[:, right]
    return np.degrees(np.arctan2(-line[:, 0], line[:, 1]))


def _turn(degrees: np.ndarray) -> np.ndarray:
    return (degrees + 180) % 360 - 180


def _usual(degrees: np.ndarray) -> float:
    """Median of angles, which also holds across 180 degrees."""
    middle = np.degrees(np.angle(np.exp(1j * np.radians(degrees)).sum()))
    return float(_turn(middle + np.median(_turn(degrees - middle))))


def _bones(track: PoseTrack) -> list[str]:
    odd = []
    for a, b in LIMBS + PAIRS:
        both = track.visible[:, a] & track.visible[:, b]
        if both.sum() < _ENOUGH:
            continue
        length = np.linalg.norm(track.joints[:, a] - track.joints[:, b], axis=-1)
        usual = float(np.median(length[both]))
        name = f"{COCO_JOINTS[a]} to {COCO_JOINTS[b]}"
        if not LENGTHS[0] < usual < LENGTHS[1]:
            odd.append(f"{name} is {usual:.3g} m long (median); is the unit the metre?")
        stray = both & ((length > usual * LIMITS.bone_ratio) | (length < usual / LIMITS.bone_ratio))
        if stray.any():
            first = int(np.flatnonzero(stray)[0])
            odd.append(
                f"{name} is {length[first]:.2f} m at frame {track.frames[first]}, {usual:.2f} m usually{more(stray.sum())}"
            )
    return odd


def _face(joints: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Middle of the visible face joints [N, 3], NaN where none is."""
    seen = visible[:, FACE, None]
    count = seen.sum(1)
    middle = (joints[:, FACE].astype(float) * seen).sum(1) / np.maximum(count, 1)
    return np.where(count > 0, middle, np.nan)


def _distance(face: np.ndarray, frames: np.ndarray) -> tuple[float | None, list[str]]:
    distance = np.linalg.norm(face, axis=-1)
    known = np.isfinite(distance)
    if not known.any():
        return None, []
    far = known & (distance > LIMITS.head_distance)
    words = []
    if far.any():
        first = int(np.flatnonzero(far)[0])
        words.append(f"the face is {distance[first]:.2f} m from the camera at frame {frames[first]}{more(far.sum())}")
    return float(np.median(distance[known])), words


def _speed(joints: np.ndarray, visible: np.ndarray, frames: np.ndarray, rate: float) -> tuple[float | None, list[str]]:
    if len(frames) < 2:
        return None, []
    seconds = np.diff(frames) / rate
    known = visible[1:] & visible[:-1] & (seconds <= _BRIEF)[:, None]
    if not known.any():
        return None, []
    speed = np.where(known, np.linalg.norm(np.diff(joints, axis=0), axis=-1) / seconds[:, None], 0)
    fast, words = speed > LIMITS.max_speed, []
    if fast.any():
        frame, joint = np.argwhere(fast)[0]
        words.append(
            f"{COCO_JOINTS[joint]} moves at {speed[frame, joint]:.0f} m/s at frame {frames[frame + 1]}{more(fast.sum())}"
        )
    return float(speed.max()), words


def _upside_down(joints: np.ndarray, visible: np.ndarray) -> list[str]:
    """Shoulders are above ankles most of the time, if z is up."""
    shoulders, ankles = [5, 6], [15, 16]
    seen = visible[:, shoulders].all(1) & visible[:, ankles].all(1)
    if seen.sum() < _ENOUGH:
        return []
    height = (joints[seen][:, shoulders, 2] - joints[seen][:, ankles, 2]).mean(1)
    if np.median(height) > 0:
        return []
    return [f"the shoulders are {np.median(height):.2f} m above the ankles (median); is the world's z axis up?"]
