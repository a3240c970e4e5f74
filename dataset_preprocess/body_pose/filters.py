"""Hiding joints that cannot be right. Every filter returns what it hides, so that a run can say how much and why.

A filter never moves or invents a point: a hidden joint is one that was not observed.
"""

from dataclasses import dataclass

import numpy as np

from dataset_preprocess.body_pose.annotations import UNKNOWN_VIEWS, usual_step
from dataset_preprocess.egoexo import FRAME_RATE
from dataset_preprocess.errors import RecordingError

# (joint towards the trunk, joint that is hidden when the bone has an impossible length)
LIMBS = ((5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16))
PAIRS = ((5, 6), (11, 12))  # across the trunk: both are hidden
THIGHS = ((11, 13), (12, 14))
FACE = slice(0, 5)
_ENOUGH = 10  # observations that a median length needs


@dataclass(frozen=True)
class Filters:
    """Limits; 0 switches a filter off.

    min_views: cameras that must have seen a joint (joints without that figure pass). bone_ratio: a bone may be longer or
    shorter than its median in the take by this factor. max_speed: metres a second. head_distance: metres from the head
    camera to the middle of the face; beyond it the whole pose belongs to somebody else or to a wrong time.
    """

    min_views: int = 3
    bone_ratio: float = 1.6
    max_speed: float = 15.0
    head_distance: float = 0.3


def apply_filters(
    filters: Filters,
    frames: np.ndarray,
    joints: np.ndarray,
    visible: np.ndarray,
    num_views: np.ndarray,
    camera_positions: np.ndarray,
) -> tuple[np.ndarray, dict[str, int]]:
    """visible [N, 17] after all filters, and the number of joints that each one hid.

    joints [N, 17, 3] world metres of rising frames [N]; camera_positions [N, 3], NaN where unknown.
    Raises RecordingError when the thighs show that the unit is not the metre.
    """
    _check_unit(joints, visible)
    visible, counts = visible.copy(), {}
    steps = (
        ("few_views", filters.min_views, lambda: few_views(num_views, filters.min_views)),
        ("far_from_camera", filters.head_distance, lambda: far_from(joints, visible, camera_positions, filters.head_distance)),
        ("bone_length", filters.bone_ratio, lambda: odd_bones(joints, visible, filters.bone_ratio)),
        ("speed", filters.max_speed, lambda: spikes(frames, joints, visible, filters.max_speed)),
    )
    for name, limit, find in steps:
        if limit:
            hidden = find() & visible
            counts[name] = int(hidden.sum())
            visible &= ~hidden
    return visible, counts


def few_views(num_views: np.ndarray, least: int) -> np.ndarray:
    """Joints that fewer cameras saw."""
    return (num_views < least) & (num_views != UNKNOWN_VIEWS)


def far_from(joints: np.ndarray, visible: np.ndarray, camera_positions: np.ndarray, limit: float) -> np.ndarray:
    """All joints of frames whose face is farther from the camera than ``limit``; frames without face or camera pass."""
    weights = visible[:, FACE, None].astype(float)
    total = weights.sum(1)
    face = (joints[:, FACE] * weights).sum(1) / np.maximum(total, 1)
    with np.errstate(invalid="ignore"):
        far = (np.linalg.norm(face - camera_positions, axis=-1) > limit) & (total[:, 0] > 0)
    return np.repeat(far[:, None], visible.shape[1], 1)


def odd_bones(joints: np.ndarray, visible: np.ndarray, ratio: float) -> np.ndarray:
    """Joints at the far end of bones that are ``ratio`` times longer or shorter than usual in this take."""
    hidden = np.zeros_like(visible)
    for a, b in LIMBS + PAIRS:
        both = visible[:, a] & visible[:, b]
        if both.sum() < _ENOUGH:
            continue
        length = np.linalg.norm(joints[:, a] - joints[:, b], axis=-1)
        usual = np.median(length[both])
        odd = both & ((length > usual * ratio) | (length < usual / ratio))
        hidden[:, b] |= odd
        if (a, b) in PAIRS:
            hidden[:, a] |= odd
    return hidden


def spikes(frames: np.ndarray, joints: np.ndarray, visible: np.ndarray, limit: float) -> np.ndarray:
    """Joints that come and go faster than ``limit`` m/s. Speed exists between frames at the usual step only: over a gap,
    or to a frame where the joint is hidden, there is none, and then one side decides."""
    if len(frames) < 2:
        return np.zeros_like(visible)
    gap = np.diff(frames)
    speed = np.linalg.norm(np.diff(joints, axis=0), axis=-1) / (gap / FRAME_RATE)[:, None]
    known = visible[1:] & visible[:-1] & (gap <= usual_step(frames))[:, None]
    nothing = np.zeros((1, visible.shape[1]), bool)
    fast, slow = known & (speed > limit), known & (speed <= limit)
    comes, comes_slow = np.concatenate([nothing, fast]), np.concatenate([nothing, slow])
    goes, goes_slow = np.concatenate([fast, nothing]), np.concatenate([slow, nothing])
    return (comes | goes) & ~comes_slow & ~goes_slow


def _check_unit(joints: np.ndarray, visible: np.ndarray) -> None:
    lengths = [np.linalg.norm(joints[:, a] - joints[:, b], axis=-1)[visible[:, a] & visible[:, b]] for a, b in THIGHS]
    lengths = np.concatenate(lengths)
    if len(lengths) >= _ENOUGH and not 0.1 < np.median(lengths) < 1.0:
        raise RecordingError(f"the thighs are {np.median(lengths):.3g} long; joints must be in metres")
