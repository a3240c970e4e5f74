"""Whether stored poses can be a wearer's: bone lengths, speeds, the face beside the camera, feet below the head."""

from dataclasses import dataclass

import numpy as np

from dataset_preprocess.body_pose.filters import FACE, LIMBS, PAIRS, Filters
from internlm.data.geometry import transform_points
from internlm.data.store import COCO_JOINTS, PoseTrack

LIMITS = Filters()  # what the filters of the annotations hide by default is odd in a store
LENGTHS = (0.1, 0.8)  # metres: the median of any bone, from a child's hips to a tall man's shin
_BRIEF = 0.2  # seconds: over a longer gap there is no speed
_ENOUGH = 5


@dataclass(frozen=True)
class PoseFigures:
    """What was measured in one take, None where there was nothing to measure, and what is odd about it in words."""

    head_distance: float | None  # median, metres
    top_speed: float | None  # the fastest joint, m/s
    odd: list[str]


def measure(track: PoseTrack, frame_rate: float, pose_space: str | None) -> PoseFigures:
    """Figures of a pose track; joints of ``pose_space`` "camera" are also taken to the world where camera poses allow."""
    odd = _bones(track)
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
    return PoseFigures(distance, top, odd + words + fast + _upside_down(world, visible))


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
            odd.append(f"{name} is {length[first]:.2f} m at frame {track.frames[first]}, {usual:.2f} m usually{_more(stray)}")
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
        words.append(f"the face is {distance[first]:.2f} m from the camera at frame {frames[first]}{_more(far)}")
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
        words.append(f"{COCO_JOINTS[joint]} moves at {speed[frame, joint]:.0f} m/s at frame {frames[frame + 1]}{_more(fast)}")
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


def _more(found: np.ndarray) -> str:
    count = int(found.sum())
    return f" (and {count - 1} times more)" if count > 1 else ""
