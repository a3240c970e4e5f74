"""BVH: a hierarchy of offsets with channels, then one row of channel values a frame.

BVH declares neither a unit nor axes; posture.py finds both. Position channels of a joint are its place in its parent's frame
in some programs (the offset is then repeated there) and added to the offset in others: whichever the values are nearer to.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from internlm.data.mocap.joint_names import HEAD, UnknownJoints, describe_names, describe_roles, recognised
from internlm.data.mocap.motion import Motion, is_multiple, resample
from internlm.data.mocap.posture import BODY, NOTHING_STATED, Recording, Stated, recording_motion
from internlm.data.mocap.skeleton import Lines, euler

CHANNELS = ("Xposition", "Yposition", "Zposition", "Xrotation", "Yrotation", "Zrotation")


@dataclass
class Joint:
    name: str
    parent: int
    offset: np.ndarray = field(default_factory=lambda: np.zeros(3))
    channels: tuple[str, ...] = ()


def read_bvh(path: Path, stated: Stated = NOTHING_STATED) -> Motion:
    """One motion. Raises MocapError naming file and line."""
    lines = Lines(path, split="([{}])")
    joints = _hierarchy(lines)
    values, rate = _frames(lines, sum(len(joint.channels) for joint in joints), stated.rate)
    roles = _roles(joints, stated, lines)
    values = resample(values, rate) if is_multiple(rate) else values
    places = _places(joints, values)
    positions, rotations = forward_kinematics(joints, values, places)
    rest: list[np.ndarray] = []
    for joint, place in zip(joints, places, strict=True):
        own = place if place.ndim == 1 else np.median(place, axis=0)
        rest.append(own if joint.parent < 0 else rest[joint.parent] + own)
    points = {role: positions[row] for role, row in roles.items()}
    recording = Recording(
        name=path.stem,
        rate=rate,
        points=points,
        rest={role: rest[row] for role, row in roles.items()},
        head=rotations[roles[HEAD]] if HEAD in roles else None,
        toes=_toes(joints, positions, roles),
        unit=None,
        error=lines.error,
    )
    return recording_motion(recording, stated)


def _roles(joints: list[Joint], stated: Stated, lines: Lines) -> dict[int | str, int]:
    """COCO joint number or head or neck -> row, from the names and the user's map."""
    names, parents = [joint.name for joint in joints], [joint.parent for joint in joints]
    ends = {joint.parent: row for row, joint in enumerate(joints) if not joint.name}
    try:
        found, mapped = recognised(names, parents, stated.joint_map, limb_ends=ends)
    except UnknownJoints as unknown:
        raise lines.error(f"{unknown}; the hierarchy has {describe_names(names)}; say which with --joints MAP.json") from None
    absent = [role for role in (*BODY, HEAD) if role not in found]
    if absent and stated.joint_map is None:
        raise lines.error(
            f"the hierarchy lacks joints with a known name for {describe_roles(absent)}; it has {describe_names(names)}; "
            "give a joint map (--joints MAP.json) from COCO names, head and neck to these"
        )
    return found | mapped


def _toes(joints: list[Joint], positions: list[np.ndarray], roles: dict[int | str, int]) -> np.ndarray | None:
    """Vectors [F, 3] from the ankles to what hangs on them, both feet together."""
    feet = [roles[ankle] for ankle in (15, 16) if ankle in roles]
    below = [(row, joint.parent) for row, joint in enumerate(joints) if joint.parent in feet and "heel" not in joint.name.lower()]
    return sum(positions[row] - positions[foot] for row, foot in below) if below else None


def _places(joints: list[Joint], values: np.ndarray) -> list[np.ndarray]:
    """Where each joint is in its parent's frame, [3] or, with position channels, [F, 3]."""
    moved, column = {}, 0
    for row, joint in enumerate(joints):
        places = [i for i, channel in enumerate(joint.channels) if channel.endswith("position")]
        if places:
            axes = ["XYZ".index(joint.channels[i][0]) for i in places]
            moved[row] = axes, values[:, [column + i for i in places]]
        column += len(joint.channels)
    result = [joint.offset for joint in joints]
    for is_root in (True, False):
        rows = [row for row in moved if (joints[row].parent < 0) == is_root]
        usual = [(joints[row].offset[moved[row][0]], np.median(moved[row][1], axis=0)) for row in rows]
        repeated = sum(np.linalg.norm(own - offset) for offset, own in usual) < sum(np.linalg.norm(own) for _, own in usual)
        for row in rows:
            axes, own = moved[row]
            place = np.broadcast_to(joints[row].offset, (len(values), 3)).copy()
            place[:, axes] = own if repeated else place[:, axes] + own
            result[row] = place
    return result


def forward_kinematics(
    joints: list[Joint], values: np.ndarray, places: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """World positions [F, 3] and rotations [F, 3, 3] of every joint from channel values [F, channels] and ``places``."""
    positions: list[np.ndarray] = []
    rotations: list[np.ndarray] = []
    column = 0
    for joint, place in zip(joints, places, strict=True):
        own = values[:, column : column + len(joint.channels)]
        column += len(joint.channels)
        turns = [i for i, channel in enumerate(joint.channels) if channel.endswith("rotation")]
        rotation = euler("".join(joint.channels[i][0].lower() for i in turns), own[:, turns])
        place = np.broadcast_to(place, (len(values), 3))
        if joint.parent < 0:
            positions.append(place)
            rotations.append(rotation)
        else:
            positions.append(positions[joint.parent] + np.einsum("fij,fj->fi", rotations[joint.parent], place))
            rotations.append(rotations[joint.parent] @ rotation)
    return positions, rotations


def _hierarchy(lines: Lines) -> list[Joint]:
    if (words := lines.next("HIERARCHY"))[0].upper() != "HIERARCHY":
        raise lines.error("a BVH file starts with HIERARCHY")
    lines.push(words[1:])
    joints: list[Joint] = []
    stack: list[int] = []
    while True:
        words = lines.next("the hierarchy or MOTION")
        key = words[0].upper()
        if key == "MOTION" and not stack and joints:
            lines.push(words[1:])
            return joints
        if key in ("ROOT", "JOINT") or (key == "END" and len(words) > 1):
            if key == "ROOT" and joints and not stack:
                raise lines.error("holds a second skeleton; a file of two people has to be taken apart first")
            if (key == "ROOT") == bool(stack):
                raise lines.error(f"{words[0]} is out of place")
            joints.append(Joint("" if key == "END" else " ".join(words[1:]), stack[-1] if stack else -1))
            if lines.next("{")[0] != "{":
                raise lines.error("expected {")
            stack.append(len(joints) - 1)
        elif key == "OFFSET" and stack:
            joints[stack[-1]].offset = np.array(lines.numbers(words[1:4], 3))
            lines.push(words[4:])
        elif key == "CHANNELS" and stack:
            count = lines.count(words[1:2])
            channels = [word.capitalize() for word in words[2 : 2 + (count or 0)]]
            rest = words[2 + len(channels) :]
            if (
                len(set(channels)) != count
                or not set(channels) <= set(CHANNELS)
                or {w.capitalize() for w in rest} & set(CHANNELS)
            ):
                raise lines.error(f"CHANNELS needs a count and that many of {', '.join(CHANNELS)}, each once")
            joints[stack[-1]].channels = tuple(channels)
            lines.push(rest)
        elif key == "}" and stack:
            stack.pop()
        else:
            raise lines.error(f"unexpected {words[0][:40]!r} in the hierarchy")


def _frames(lines: Lines, channels: int, rate: float | None) -> tuple[np.ndarray, float]:
    """Channel values [F, channels] and frames a second, those of the file unless ``rate`` says otherwise."""
    found = re.fullmatch(r"frames ?: ?([0-9]{1,9})( .*)?", " ".join(lines.next("Frames:")), re.IGNORECASE)
    if not found or not int(found[1]):
        raise lines.error("expected 'Frames: <count>'")
    count = int(found[1])
    lines.push((found[2] or "").split())
    found = re.fullmatch(r"frame ?time ?: ?(\S+)", " ".join(lines.next("Frame Time:")), re.IGNORECASE)
    if not found:
        raise lines.error("expected 'Frame Time: <seconds>'")
    if rate is None:
        period = lines.numbers([found[1]], 1)[0]
        if not 5e-4 <= period <= 2:
            raise lines.error(f"a frame time of {period} s is not plausible; state the rate with --rate HZ")
        rate = 1.0 / period
    rows = []
    for row in range(count):
        words = lines.next(f"frame {row + 1} of {count}")
        while len(words) < channels and lines.more():  # some programs wrap long lines
            words = words + lines.next()
        rows.append(lines.numbers(words, channels))
    if lines.more():
        lines.next()
        raise lines.error(f"more rows than the {count} frames that were announced")
    return np.array(rows).reshape(count, channels), rate
