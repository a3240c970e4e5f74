"""What every reader produces, and the steps they share: axes, frame rate, joint map, head pose.

Joint map. Shoulders, elbows, wrists, hips, knees and ankles are the recorded joints themselves. The face is never
recorded by markers: where the file records the head's orientation (BVH, AMC), nose, eyes and ears are a rigid face of
average proportions on the head joint (``face`` = "average"); where it gives positions only (npz) they stay invisible.
A body-model file gives the face of the body's own surface (``face`` = "recorded").

Head pose. The camera needs one. With a recorded head orientation that is it. Otherwise the direction from neck to head is
up and the shoulder line gives left, smoothed over about a fifth of a second, since a short neck of noisy points would shake
the picture; points cannot tell a level gaze, so the median inclination of the recording counts as level unless the person
lies. Files without a head and a neck give none.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from internlm.core.errors import UserError
from internlm.egoworld.body import (
    LEFT_ANKLE,
    LEFT_EYE,
    LEFT_HIP,
    LEFT_KNEE,
    LEFT_SHOULDER,
    RIGHT_ANKLE,
    RIGHT_EYE,
    RIGHT_SHOULDER,
    place_head,
)

RATE = 30.0
Z_UP_FROM_Y_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


class MocapError(UserError):
    """A motion file cannot be used; the message names the file, the line where there is one, and what is wrong."""


@dataclass(frozen=True)
class Motion:
    """One recorded sequence of F frames at 30 Hz; world metres, z up, floor at 0, x-y origin as recorded."""

    name: str
    split: str | None  # "train" or "test" where the file says so
    joints: np.ndarray  # float64 [F, 17, 3]; 0 where never recorded
    visible: np.ndarray  # bool [F, 17]
    world_from_head: np.ndarray | None  # float64 [F, 4, 4], axes x forward, y left, z up, origin between the eyes
    head: Literal["recorded", "estimated"] | None = "estimated"  # where world_from_head comes from
    face: Literal["recorded", "average"] | None = None  # where nose, eyes and ears come from
    source_rate: float = RATE  # Hz of the file
    source_up: str | None = None  # the file's axis that points up, and metres of its unit, where they had to be found out
    source_unit: float | None = None

    def __len__(self) -> int:
        return len(self.joints)

    def cut(self, start: int, stop: int) -> "Motion":
        """Frames ``start`` to ``stop`` as a motion of its own."""
        part = slice(start, stop)
        head = None if self.world_from_head is None else self.world_from_head[part]
        return replace(self, joints=self.joints[part], visible=self.visible[part], world_from_head=head)

    def moved(self, yaw: float, shift: np.ndarray) -> "Motion":
        """The motion turned about the vertical through the origin by ``yaw`` radians, then shifted by [3] metres."""
        c, s = np.cos(yaw), np.sin(yaw)
        rotation = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        joints = np.where(self.visible[..., None], self.joints @ rotation.T + shift, 0.0)
        head = self.world_from_head
        if head is not None:
            head = head.copy()
            head[:, :3, :3] = rotation @ head[:, :3, :3]
            head[:, :3, 3] = head[:, :3, 3] @ rotation.T + shift
        return replace(self, joints=joints, world_from_head=head)


def is_multiple(rate: float) -> bool:
    """Whether every k-th frame is 30 Hz. Frame times are often rounded: 0.033 s is meant to be 30 Hz."""
    step = rate / RATE
    return round(step) >= 1 and abs(step - round(step)) < 0.0125 * step


def resample(values: np.ndarray, rate: float) -> np.ndarray:
    """Positions [F, ...] at ``rate`` Hz to 30 Hz: every k-th frame where that is exact, else linear interpolation."""
    step = rate / RATE
    if is_multiple(rate):
        return values[:: round(step)]
    count = int((len(values) - 1) / step) + 1
    at = np.arange(count) * step
    low = np.minimum(at.astype(int), len(values) - 1)
    high = np.minimum(low + 1, len(values) - 1)
    share = (at - low).reshape(-1, *[1] * (values.ndim - 1))
    return values[low] * (1 - share) + values[high] * share


def resample_visible(joints: np.ndarray, visible: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Joints [F, 17, 3] and visibility [F, 17] to 30 Hz; a joint between two frames is visible when it is in both."""
    kept = resample(visible.astype(np.float64), rate) > 1 - 1e-9
    return np.where(kept[..., None], resample(joints, rate), 0.0), kept


def build_motion(
    name: str,
    body: dict[int, np.ndarray],
    head_base: np.ndarray | None,
    neck_base: np.ndarray | None,
    head_axes: np.ndarray | None,
    split: str | None = None,
    face: np.ndarray | None = None,
    *,
    head_is_measured: bool = True,
) -> Motion:
    """Motion from recorded points at 30 Hz, in metres, z up.

    Args:
        body: COCO joint number to positions [F, 3]: trunk and limbs, of which the head needs all twelve, and recorded points
            of the face if there are any.
        head_base, neck_base: [F, 3] the joint the skull turns about, and one at the base of the neck; None = no head.
        head_axes: [F, 3, 3] head orientation (columns forward, left, up), or None = estimated from the points.
        face: [F, 5, 3] nose, left eye, right eye, left ear, right ear where they are known; None = an average face.
        head_is_measured: whether the file says what ``head_axes`` are, rather than an assumption.
    """
    frames = len(next(iter(body.values())))
    joints, visible = np.zeros((frames, 17, 3)), np.zeros((frames, 17), bool)
    for joint, positions in body.items():
        joints[:, joint], visible[:, joint] = positions, True
    leg = _length(joints, LEFT_HIP, LEFT_KNEE) + _length(joints, LEFT_KNEE, LEFT_ANKLE)
    height = leg / 0.491  # the legs' share of body height (Winter)
    measured = head_axes is not None and head_is_measured
    has_face = face is not None or bool(visible[:, :5].any())
    world_from_head = None
    if head_base is not None:
        if head_axes is None:
            head_axes = head_axes_from_points(head_base, neck_base, joints[:, LEFT_SHOULDER], joints[:, RIGHT_SHOULDER])
        if face is not None:
            joints[:, :5], visible[:, :5] = face, True
            eyes = (joints[:, LEFT_EYE] + joints[:, RIGHT_EYE]) / 2
        else:
            eyes = head_base + np.einsum("fij,j->fi", head_axes, np.array([0.055, 0.0, 0.07]) * height)
            if measured and not has_face:
                place_head(joints, eyes, head_axes)
                visible[:, :5] = True
        world_from_head = np.broadcast_to(np.eye(4), (frames, 4, 4)).copy()
        world_from_head[:, :3, :3], world_from_head[:, :3, 3] = head_axes, eyes
    head_from = None if head_base is None else "recorded" if measured else "estimated"
    face_from = "recorded" if has_face else "average" if measured else None
    motion = Motion(name, split, joints, visible, world_from_head, head_from, face_from)
    if not visible[:, [LEFT_ANKLE, RIGHT_ANKLE]].all():
        return motion
    floor = np.percentile(joints[:, [LEFT_ANKLE, RIGHT_ANKLE], 2].min(1), 1) - 0.039 * height
    return motion.moved(0.0, np.array([0.0, 0.0, -floor]))


def head_axes_from_points(head: np.ndarray, neck: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Head orientation [F, 3, 3] from neck, head and shoulder points (see the head of this file)."""
    up = _smooth(_unit(head - neck))
    across = _smooth(_unit(left - right))
    forward = _unit(np.cross(across, up))
    across = np.cross(up, forward)
    # Who lies does not look level, whatever the neck's joints lead to.
    level = -np.median(np.arcsin(np.clip(forward[:, 2], -1.0, 1.0))) if up[:, 2].mean() > 0.5 else 0.0
    forward, up = np.cos(level) * forward + np.sin(level) * up, np.cos(level) * up - np.sin(level) * forward
    return np.stack([forward, across, up], axis=-1)


def _smooth(directions: np.ndarray, radius: int = 4) -> np.ndarray:
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / (radius / 2)) ** 2)
    padded = np.pad(directions, ((radius, radius), (0, 0)), mode="edge")
    return _unit(sum(w * padded[i : i + len(directions)] for i, w in enumerate(weights)))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _length(joints: np.ndarray, a: int, b: int) -> float:
    return float(np.median(np.linalg.norm(joints[:, a] - joints[:, b], axis=-1)))
