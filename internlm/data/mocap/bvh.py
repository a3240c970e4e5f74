"""BVH: a hierarchy of offsets with rotation channels, then one row of channel values a frame.

BVH declares no unit. The one that makes the legs of the rest pose closest to a human's is taken (metres, centimetres,
millimetres, inches, or the CMU database's 0.45-inch unit).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from internlm.data.mocap.archive import BVH_JOINTS, HEAD, NECK
from internlm.data.mocap.motion import Z_UP_FROM_Y_UP, Motion, build_motion, resample
from internlm.data.mocap.skeleton import Lines, euler, orthonormal

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "inch": 0.0254, "cmu": 0.0254 / 0.45}
LEG = 0.83  # metres, thigh and shin of an average adult
CHANNELS = ("Xposition", "Yposition", "Zposition", "Xrotation", "Yrotation", "Zrotation")


@dataclass
class Joint:
    name: str
    parent: int
    offset: np.ndarray = field(default_factory=lambda: np.zeros(3))
    channels: tuple[str, ...] = ()


def read_bvh(path: Path) -> Motion:
    """One motion. Raises MocapError naming file and line."""
    lines = Lines(path)
    joints = _hierarchy(lines)
    values, rate = _frames(lines, sum(len(joint.channels) for joint in joints))
    values = resample(values, rate) if _is_multiple(rate) else values
    positions, rotations = forward_kinematics(joints, values)
    rows = {joint.name: row for row, joint in reversed(list(enumerate(joints)))}
    absent = [name for name in (*BVH_JOINTS.values(), HEAD, NECK) if name not in rows]
    if absent:
        raise lines.error(f"the hierarchy lacks joints {', '.join(absent)}")
    scale = _unit_of(joints, rows)
    head_axes = Z_UP_FROM_Y_UP @ rotations[rows[HEAD]] @ _rest_axes(joints, rows)
    points = {name: positions[row] * scale @ Z_UP_FROM_Y_UP.T for name, row in rows.items()}
    if not _is_multiple(rate):
        points = {name: resample(p, rate) for name, p in points.items()}
        head_axes = orthonormal(resample(head_axes, rate))
    body = {joint: points[source] for joint, source in BVH_JOINTS.items()}
    return replace(build_motion(path.stem, body, points[HEAD], points[NECK], head_axes), source_rate=rate)


def forward_kinematics(joints: list[Joint], values: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """World positions [F, 3] and rotations [F, 3, 3] of every joint from channel values [F, channels]."""
    positions: list[np.ndarray] = []
    rotations: list[np.ndarray] = []
    column = 0
    for joint in joints:
        own = values[:, column : column + len(joint.channels)]
        column += len(joint.channels)
        turns = [i for i, channel in enumerate(joint.channels) if channel.endswith("rotation")]
        rotation = euler("".join(joint.channels[i][0].lower() for i in turns), own[:, turns])
        offset = np.broadcast_to(joint.offset, (len(values), 3)).copy()
        for i, channel in enumerate(joint.channels):
            if channel.endswith("position"):
                offset[:, "XYZ".index(channel[0])] += own[:, i]
        if joint.parent < 0:
            positions.append(offset)
            rotations.append(rotation)
        else:
            positions.append(positions[joint.parent] + np.einsum("fij,fj->fi", rotations[joint.parent], offset))
            rotations.append(rotations[joint.parent] @ rotation)
    return positions, rotations


def _hierarchy(lines: Lines) -> list[Joint]:
    if lines.next("HIERARCHY")[0].upper() != "HIERARCHY":
        raise lines.error("a BVH file starts with HIERARCHY")
    joints: list[Joint] = []
    stack: list[int] = []
    while True:
        words = lines.next("the hierarchy or MOTION")
        key = words[0].upper()
        if key == "MOTION" and not stack and joints:
            return joints
        if key in ("ROOT", "JOINT") or (key == "END" and len(words) > 1):
            if (key == "ROOT") == bool(stack) or (key == "ROOT" and joints):
                raise lines.error(f"{words[0]} is out of place")
            joints.append(Joint("" if key == "END" else " ".join(words[1:]), stack[-1] if stack else -1))
            if lines.next("{")[0] != "{":
                raise lines.error("expected {")
            stack.append(len(joints) - 1)
        elif key == "OFFSET" and stack:
            joints[stack[-1]].offset = np.array(lines.numbers(words[1:], 3))
        elif key == "CHANNELS" and stack:
            if lines.count(words[1:2]) != len(words) - 2 or not set(words[2:]) <= set(CHANNELS):
                raise lines.error(f"CHANNELS needs a count and that many of {', '.join(CHANNELS)}")
            joints[stack[-1]].channels = tuple(words[2:])
        elif key == "}" and stack:
            stack.pop()
        else:
            raise lines.error(f"unexpected {words[0]!r} in the hierarchy")


def _frames(lines: Lines, channels: int) -> tuple[np.ndarray, float]:
    words = lines.next("Frames:")
    count = lines.count(words[1:])
    if words[0] != "Frames:" or not count:
        raise lines.error("expected 'Frames: <count>'")
    words = lines.next("Frame Time:")
    if words[:2] != ["Frame", "Time:"] or len(words) != 3:
        raise lines.error("expected 'Frame Time: <seconds>'")
    period = lines.numbers(words[2:], 1)[0]
    if not 1e-4 < period < 10:
        raise lines.error(f"a frame time of {period} s is not plausible")
    rows = [lines.numbers(lines.next(f"frame {row + 1} of {count}"), channels) for row in range(count)]
    if lines.more():
        lines.next()
        raise lines.error(f"more rows than the {count} frames that were announced")
    return np.array(rows).reshape(count, channels), 1.0 / period


def _is_multiple(rate: float) -> bool:
    return abs(rate / 30 - round(rate / 30)) < 0.01 * rate / 30 and round(rate / 30) >= 1


def _unit_of(joints: list[Joint], rows: dict[str, int]) -> float:
    leg = sum(float(np.linalg.norm(joints[rows[name]].offset)) for name in ("LeftLeg", "LeftFoot"))
    return min(UNITS.values(), key=lambda unit: abs(np.log(max(leg * unit, 1e-9) / LEG)))


def _rest_axes(joints: list[Joint], rows: dict[str, int]) -> np.ndarray:
    """Columns forward, left, up of the rest pose in file axes (y up): the hips tell left from right."""

    def rest(name: str) -> np.ndarray:
        row, total = rows[name], np.zeros(3)
        while row >= 0:
            total, row = total + joints[row].offset, joints[row].parent
        return total

    left = (rest("LeftUpLeg") - rest("RightUpLeg")) * [1.0, 0.0, 1.0]
    left = left / max(np.linalg.norm(left), 1e-9) if np.linalg.norm(left) > 1e-6 else np.array([1.0, 0.0, 0.0])
    up = np.array([0.0, 1.0, 0.0])
    return np.stack([np.cross(left, up), left, up], axis=-1)
