"""Fitting recorded motion into a room, and coarse labels for it."""

import numpy as np

from internlm.core.errors import UserError
from internlm.data.mocap import Motion
from internlm.egoworld.body import LEFT_HIP, RIGHT_HIP, head_camera
from internlm.egoworld.rooms import Room
from internlm.egoworld.sight import inside_solid
from internlm.egoworld.timeline import ACTIONS, FRAME_RATE

BODY_RADIUS = 0.2  # metres around the hips that stay clear of furniture
HEAD_MARGIN = 0.06
SHORTEST = 30  # frames; less is no take


class PlacementError(UserError):
    """No useful stretch of a motion fits into a room."""


def fit(motion: Motion, room: Room, frames: int, rng: np.random.Generator) -> Motion:
    """Turn and shift a motion so that body and camera stay in free space; where the whole does not fit, the longest stretch.

    The motion itself is never bent or mirrored: recorded steps and turns remain what they were. Returns at most ``frames``
    frames. Raises PlacementError when no stretch of a second fits anywhere.
    """
    if motion.world_from_head is None or not motion.visible[:, [LEFT_HIP, RIGHT_HIP]].all():
        raise PlacementError(f"motion {motion.name!r}: has no head pose or lacks hips; the wearer needs both")
    motion = motion.cut(0, min(len(motion), 4 * frames))
    best: tuple[int, int, float, np.ndarray] | None = None
    hips = motion.joints[:, [LEFT_HIP, RIGHT_HIP], :2].mean(1)
    centre = (hips.min(0) + hips.max(0)) / 2
    for attempt in range(120):
        yaw = float(rng.uniform(-np.pi, np.pi))
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, -s], [s, c]])
        # alternate between the middle of the path and its start at a random free point
        anchor = turn @ (centre if attempt % 2 == 0 else hips[0])
        shift = np.append(room.random_free_point(rng) - anchor, 0.0)
        free = room.is_free(hips @ turn.T + shift[:2], BODY_RADIUS)
        start, stop = longest_run(free, frames)
        if stop - start <= (best[1] - best[0] if best else SHORTEST - 1):
            continue
        cameras = head_camera(motion.cut(start, stop).moved(yaw, shift).world_from_head, 0.0)[:, :3, 3]
        a, b = longest_run(~inside_solid(room, cameras, HEAD_MARGIN), frames)
        if b - a >= SHORTEST and (best is None or b - a > best[1] - best[0]):
            best = (start + a, start + b, yaw, shift)
        if best and best[1] - best[0] >= min(frames, len(motion)):
            break
    if best is None:
        raise PlacementError(f"motion {motion.name!r}: no stretch of {SHORTEST / FRAME_RATE:.0f} s fits into a {room.place}")
    start, stop, yaw, shift = best
    return motion.cut(start, stop).moved(yaw, shift)


def longest_run(free: np.ndarray, limit: int) -> tuple[int, int]:
    """First longest run of True, cut to ``limit`` frames: [start, stop)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], free.astype(np.int8), [0]])))
    if not len(edges):
        return 0, 0
    starts, stops = edges[::2], edges[1::2]
    longest = int(np.argmax(stops - starts))
    return int(starts[longest]), int(min(stops[longest], starts[longest] + limit))


def label_actions(motion: Motion) -> np.ndarray:
    """Coarse actions int64 [F] from the hips: 'walk' above 0.4 m/s, 'turn' above 40 degrees/s, else 'stand'."""
    hips = motion.joints[:, [LEFT_HIP, RIGHT_HIP], :2]
    speed = np.linalg.norm(np.gradient(hips.mean(1), axis=0), axis=1) * FRAME_RATE
    line = hips[:, 0] - hips[:, 1]
    turning = np.abs(np.gradient(np.unwrap(np.arctan2(line[:, 1], line[:, 0])))) * FRAME_RATE
    names = np.where(speed > 0.4, "walk", np.where(turning > np.radians(40), "turn", "stand"))
    return np.array([ACTIONS.index(name) for name in names], dtype=np.int64)
