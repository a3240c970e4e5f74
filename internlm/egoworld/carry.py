"""Objects on their way: where a carried thing is at every frame, and where it can be set down."""

from dataclasses import dataclass

import numpy as np

from internlm.egoworld.body import LEFT_ELBOW, LEFT_WRIST, RIGHT_ELBOW, RIGHT_WRIST, BodyTrack
from internlm.egoworld.timeline import minimum_jerk

REACH = 0.95  # metres on the floor from the wearer to a spot
SUPPORT = 0.02  # metres by which a surface may be off the height asked for


@dataclass
class Carriage:
    """One object on its way: lifted from ``origin`` at frame ``lift``, in both hands, set down at ``goal`` at ``down``."""

    row: int
    origin: np.ndarray
    lift: int
    held: int  # frame from which it moves with the chest
    release: int = 1 << 30  # frame at which it leaves the chest
    down: int = 1 << 30
    goal: np.ndarray | None = None


def free_spot(near: np.ndarray, base: float, half: np.ndarray, others: np.ndarray, wearer: np.ndarray) -> np.ndarray | None:
    """Centre [3] for an object on a surface at height ``base`` around ``near`` [2], nearest to the wearer [2], or None.

    half: [3] half size of the object. others: [M, 2, 3] all other boxes; one must carry it, none may overlap it.
    """
    half = np.asarray(half, np.float64)
    angles = np.arange(12) * np.pi / 6
    spots = [near + r * np.array([np.cos(a), np.sin(a)]) for r in (0.2, 0.28, 0.36) for a in angles]
    top = abs(others[:, 1, 2] - base) < SUPPORT
    for xy in sorted(spots, key=lambda p: float(np.linalg.norm(p - wearer))):
        spot = np.array([*xy, base + half[2] + 0.003])
        low, high = spot - half, spot + half
        overlaps = ((others[:, 0] < high) & (others[:, 1] > low + [0, 0, 0.001])).all(1).any()
        under = top & (others[:, 0, :2] <= low[:2]).all(1) & (others[:, 1, :2] >= high[:2]).all(1)
        if under.any() and not overlaps and np.linalg.norm(xy - wearer) < REACH:
            return spot
    return None


def carried_paths(carriages: list[Carriage], track: BodyTrack) -> list[dict[int, np.ndarray]]:
    """Centres [3] of displaced objects by row, for each frame of a track; a set-down object stays where it was put."""
    hands = track.joints[:, [LEFT_WRIST, RIGHT_WRIST]].mean(1)
    forward = hands - track.joints[:, [LEFT_ELBOW, RIGHT_ELBOW]].mean(1)
    held = hands + 0.1 * forward / np.maximum(np.linalg.norm(forward, axis=1, keepdims=True), 1e-6)
    result: list[dict[int, np.ndarray]] = [{} for _ in range(len(held))]
    for item in carriages:
        for frame in range(item.lift, len(result)):
            share = minimum_jerk(np.array((frame - item.lift) / (item.held - item.lift)))
            place = item.origin * (1 - share) + held[frame] * share
            if item.goal is not None and frame > item.release:
                share = minimum_jerk(np.array((frame - item.release) / (item.down - item.release)))
                place = held[item.release] * (1 - share) + item.goal * share
            result[frame][item.row] = place
    return result
