"""A skeleton's joints and head in file units and file axes, made into a motion: which way is up, the unit, the gaze.

Skeleton files say none of the three for certain. They follow from the body: over a recording a person is upright, an adult's
leg has a known length, and the head looks ahead in the rest pose, whose left and right hips tell where ahead is. Rest poses
in which the bones do not stand as a person (every bone along x, say) tell nothing about the head; it is then taken to look
on the whole where the shoulders face.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np

from internlm.data.mocap.joint_names import HEAD, NECK
from internlm.data.mocap.motion import MocapError, Motion, build_motion, head_axes_from_points, is_multiple, resample
from internlm.data.mocap.skeleton import orthonormal

Points = Mapping[int | str, np.ndarray]  # COCO joint number, HEAD or NECK -> [F, 3]
BODY = tuple(range(5, 17))

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "inch": 0.0254, "ft": 0.3048, "cmu": 0.0254 / 0.45}
ADULT_LEG = (0.62, 1.1)  # metres, hip joint to ankle: bodies of 1.3 to 2.2 m
ANY_LEG = (0.3, 1.4)  # what a stated unit may give: children, and markers far from the joints

# The file's axis that points up -> the rotation that makes it z.
WORLD_FROM_FILE = {
    "y": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]),
    "z": np.eye(3),
    "x": np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
    "-y": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
    "-z": np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]]),
    "-x": np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]]),
}


@dataclass(frozen=True)
class Stated:
    """What the user says of a file, in place of what the file says or leaves open. unit: metres. up: a key of WORLD_FROM_FILE."""

    joint_map: Mapping[str, str] | None = None
    rate: float | None = None
    up: str | None = None
    unit: float | None = None

    def __post_init__(self):
        if self.up is not None and self.up not in WORLD_FROM_FILE:
            raise MocapError(f"up is {self.up!r} ({', '.join(WORLD_FROM_FILE)})")
        if self.unit is not None and not 1e-6 <= self.unit <= 1e3:
            raise MocapError(f"a unit of {self.unit} m is not plausible")
        if self.rate is not None and not 0.5 <= self.rate <= 2000:
            raise MocapError(f"a rate of {self.rate} frames a second is not plausible (0.5 to 2000)")


NOTHING_STATED = Stated()


@dataclass(frozen=True)
class Recording:
    """What the skeleton formats give. F frames at ``rate`` Hz, everything in the file's unit and axes.

    points: the joints; rest: the same joints [3] where every rotation is zero; head: [F, 3, 3] rotations of the head
    relative to rest, or None. toes: [F, 3] vectors from the ankles to what hangs on them, where anything does. unit: metres,
    where the file states it. error: makes the exception for a complaint.
    """

    name: str
    rate: float
    points: Points
    rest: Mapping[int | str, np.ndarray]
    head: np.ndarray | None
    toes: np.ndarray | None
    unit: float | None
    error: Callable[[str], MocapError]


def parse_unit(text: str) -> float:
    """Metres a unit, from a name of ``UNITS`` or a number. Raises MocapError."""
    try:
        return UNITS[text] if text in UNITS else float(text)
    except ValueError:
        raise MocapError(f"unit {text!r}: give {', '.join(UNITS)}, or the metres of one unit") from None


def recording_motion(recording: Recording, stated: Stated) -> Motion:
    """The motion at 30 Hz, metres, z up. Raises MocapError where axes or unit cannot be told and nobody states them."""
    points, error = recording.points, recording.error
    joints = [role for role in points if isinstance(role, int)]
    if not joints:
        raise error("the joint map gives no joint of the body, only head or neck")
    whole = set(BODY) <= set(joints)
    leg = leg_length(points)
    up = stated.up or find_up(points, recording.rest, leg, error)
    unit = stated.unit or find_unit(leg, recording.unit, error)
    world = WORLD_FROM_FILE[up]
    metres = {role: p * unit @ world.T for role, p in points.items()}
    toes = None if recording.toes is None else recording.toes @ world.T
    axes, measured = None, False
    if whole:
        _check_sides(metres, toes, error)
        if recording.head is not None and HEAD in points:
            axes, measured = _head_axes(metres, world @ recording.head, recording.rest)
    if not is_multiple(recording.rate):
        metres = {role: resample(p, recording.rate) for role, p in metres.items()}
        axes = None if axes is None else orthonormal(resample(axes, recording.rate))
    body = {joint: metres[joint] for joint in joints}
    head = metres.get(HEAD) if whole else None
    neck = neck_of(metres) if head is not None else None
    motion = build_motion(recording.name, body, head, neck, axes, head_is_measured=measured)
    return replace(motion, source_rate=recording.rate, source_up=up, source_unit=unit)


def neck_of(points: Points) -> np.ndarray:
    """The neck, or the middle between the shoulders."""
    return points[NECK] if NECK in points else (points[5] + points[6]) / 2


def leg_length(points: Points) -> float | None:
    """Median length of thigh and shin of the leg that is there, file units."""
    for hip in (11, 12):
        if {hip, hip + 2, hip + 4} <= points.keys():
            bones = ((hip, hip + 2), (hip + 2, hip + 4))
            return sum(float(np.median(np.linalg.norm(points[a] - points[b], axis=-1))) for a, b in bones)
    return None


def find_unit(leg: float | None, stated: float | None, error: Callable[[str], MocapError]) -> float:
    """Metres a unit: the one the file states if a leg can then be a human's, else the only known one that gives an adult's."""
    if stated is not None and (leg is None or ANY_LEG[0] < leg * stated < ANY_LEG[1]):
        return stated
    if leg is None:
        raise error("names no whole leg that could tell the unit of length; state it (--unit m, cm, inch, ... or metres)")
    for unit in UNITS.values():
        if ADULT_LEG[0] <= leg * unit <= ADULT_LEG[1]:
            return unit
    lengths = ", ".join(f"{leg * unit:.3g} m if the unit is {name}" for name, unit in UNITS.items())
    raise error(f"a leg of {leg:.4g} units is an adult's in no known unit ({lengths}); state it (--unit NAME, or metres)")


def find_up(points: Points, rest: Mapping[int | str, np.ndarray], leg: float | None, error: Callable[[str], MocapError]) -> str:
    """The file axis that points up: where bodies stand along it most of the time, and in the rest pose.

    Both agree in most files. Where they do not, either the person lies (hips near the ground of the rest pose's axis) or the
    file is turned as a whole (hips a leg above the ground of the other).
    """
    upright = _upright(points)
    if upright is None:
        return "y"
    mean = np.nan_to_num(upright).mean(0)
    scores = {name: float(mean @ axis[2]) for name, axis in WORLD_FROM_FILE.items()}
    moving = max(scores, key=scores.get)
    standing = _standing_rest(rest)
    resting = None if standing is None else max(WORLD_FROM_FILE, key=lambda name: WORLD_FROM_FILE[name][2] @ standing[:, 2])
    if resting not in ("y", "z"):  # no other axis is up in any program: that rest pose lies, or none is known
        if scores[moving] > 0.6:
            return moving
        if scores["y"] > 0.3:
            return "y"
        raise error(f"the body is upright along no axis ({_told(scores)}) and the rest pose is none; state it (--up y or z)")
    if resting == moving or scores[moving] - scores[resting] < 0.3:
        return resting
    if decided := _decide(points, moving, resting, leg):
        return decided
    if scores[moving] < 0.7:  # bent, or on all fours
        return resting
    raise error(f"the rest pose stands along {resting}, the body along {moving}; state which is up (--up {resting} or {moving})")


def _decide(points: Points, moving: str, other: str, leg: float | None) -> str | None:
    """Whether a body that is straight along the axis ``moving`` stands along it, or lies where ``other`` is up; None = unclear.

    Who stands has the feet on the ground at 0 and the hips a leg above, who lies is wholly just above it. Both can hold of who
    stands near the origin, but hardly of who lies: the feet would have to be at the 0 of an axis along the ground."""
    if leg is None or leg <= 0:
        return None
    upright, across = (
        {role: np.median(p @ WORLD_FROM_FILE[up][2]) / leg for role, p in points.items()} for up in (moving, other)
    )
    if 0.6 < (upright[11] + upright[12]) / 2 < 1.4 and -0.1 < min(upright[15], upright[16]) < 0.4:
        return moving
    return other if -0.1 < min(across.values()) and max(across.values()) < 0.8 else None


def positions_up(points: Points, usual: str, error: Callable[[str], MocapError]) -> str:
    """The axis that points up of positions in metres of which nobody says it: the format's ``usual`` one unless the body stands
    along another. Raises MocapError where it may as well lie."""
    upright = _upright(points)
    if upright is None:
        return usual
    mean = np.nan_to_num(upright).mean(0)
    scores = {name: float(mean @ axis[2]) for name, axis in WORLD_FROM_FILE.items()}
    moving = max(scores, key=scores.get)
    if scores[moving] < 0.85 or scores[usual] > 0.4:
        return usual
    if decided := _decide(points, moving, usual, leg_length(points)):
        return decided
    raise error(f"the body is straight along {moving}, where {usual} is usually up; state it ('up' in the file, or --up)")


def check_leg(points: Points, error: Callable[[str], MocapError]) -> None:
    """Whether positions in metres can be a human's. Raises MocapError; joints that are missing say nothing."""
    leg = leg_length(points)
    if leg is not None and not 0.25 < leg < 2.0:
        raise error(f"a leg is {leg:.3g} m long; state the unit ('unit_m' in the file, or --unit m, cm, inch, ... or metres)")


def _told(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {score:.1f}" for name, score in scores.items() if score > 0)


def _upright(points: Points) -> np.ndarray | None:
    """Unit vectors [F, 3] along the body from feet to neck; None where joints are missing."""
    if not {5, 6, 11, 12, 15, 16} <= points.keys():
        return None
    hips = (points[11] + points[12]) / 2
    return _unit(_unit(neck_of(points) - hips) + _unit(hips - (points[15] + points[16]) / 2))


def _standing_rest(rest: Mapping[int | str, np.ndarray]) -> np.ndarray | None:
    """Columns forward, left, up [3, 3] in file axes of a rest pose that stands as a person does; None for any other.

    Up is an axis of the file where the figure is along one; left is the line of the hips, or of the shoulders."""
    if not {5, 6, 11, 12, 15, 16} <= rest.keys():
        return None
    hips = (rest[11] + rest[12]) / 2
    trunk, legs = neck_of(rest) - hips, hips - (rest[15] + rest[16]) / 2
    if min(np.linalg.norm(trunk), np.linalg.norm(legs)) < 1e-9 or _unit(trunk) @ _unit(legs) < 0.7:
        return None
    up = _unit(_unit(trunk) + _unit(legs))
    axis = max((world[2] for world in WORLD_FROM_FILE.values()), key=lambda axis: axis @ up)
    up = axis if axis @ up > np.cos(np.radians(30)) else up
    if HEAD in rest and np.linalg.norm(head := rest[HEAD] - neck_of(rest)) > 1e-9 and _unit(head) @ up < 0.6:
        return None
    size = np.linalg.norm(trunk)
    across = [_level(line, up) for line in (rest[11] - rest[12], rest[5] - rest[6])]
    known = [_unit(line) for line in across if np.linalg.norm(line) > 1e-4 * size]
    if not known or known[0] @ known[-1] < 0.85:
        return None
    return np.stack([np.cross(known[0], up), known[0], up], axis=-1)


def _head_axes(metres: Points, turned: np.ndarray, rest: Mapping[int | str, np.ndarray]) -> tuple[np.ndarray, bool]:
    """World axes [F, 3, 3] of the head (forward, left, up) from its rotations, and whether the file fixes them.

    A rest pose that stands fixes them. Otherwise, or where the result is at odds with the body, one constant turn makes the
    head look on average where the shoulders face; near one of the 24 turns that map axes to axes it is that one, as rigs have
    their heads along their axes, and else only an estimate.
    """
    ahead = head_axes_from_points(metres[HEAD], neck_of(metres), metres[5], metres[6])
    standing = _standing_rest(rest)
    if standing is not None:
        axes = turned @ standing
        if _apart(axes[:, :, 1], ahead[:, :, 1]) < 50 and _apart(axes[:, :, 2], ahead[:, :, 2]) < 75:
            return axes, True
    usual = orthonormal(np.einsum("fji,fjk->ik", turned, ahead)[None])[0]
    near = max(_axis_turns(), key=lambda turn: np.trace(turn.T @ usual))
    angle = np.degrees(np.arccos(np.clip((np.trace(near.T @ usual) - 1) / 2, -1, 1)))
    return (turned @ near, True) if angle < 30 else (turned @ usual, False)


def _axis_turns() -> list[np.ndarray]:
    signed = (np.eye(3)[list(order)] * signs for order in permutations(range(3)) for signs in product((1.0, -1.0), repeat=3))
    return [turn for turn in signed if np.linalg.det(turn) > 0]


def _check_sides(metres: Points, toes: np.ndarray | None, error: Callable[[str], MocapError]) -> None:
    """Feet point where the body faces, unless left and right are exchanged or the axes are left-handed."""
    if toes is None:
        return
    left = _unit(_level(metres[11] - metres[12], np.array([0.0, 0.0, 1.0])))
    facing = np.cross(left, [0.0, 0.0, 1.0])
    flat = _level(toes, np.array([0.0, 0.0, 1.0]))
    clear = np.linalg.norm(flat, axis=1) > 0.5 * np.linalg.norm(toes, axis=1)
    if clear.sum() > len(toes) / 2 and np.median((_unit(flat) * facing).sum(1)[clear]) < -0.5:
        raise error(
            "the feet point backwards: the axes are left-handed, or left and right are exchanged; in the latter case give a "
            "joint map (--joints MAP.json) that calls the file's right joints left"
        )


def _level(vectors: np.ndarray, up: np.ndarray) -> np.ndarray:
    return vectors - (vectors @ up)[..., None] * up


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """Median angle in degrees between unit vectors [F, 3]."""
    return float(np.degrees(np.median(np.arccos(np.clip((a * b).sum(-1), -1, 1)))))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
