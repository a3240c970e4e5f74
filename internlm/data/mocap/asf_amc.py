"""ASF skeleton and AMC motion (Acclaim), as the CMU database publishes them: y up, 120 frames a second.

A bone turns about the axes of its own frame: its rotation relative to the rest pose is C M C^-1 with C the bone's
``axis`` and M the product of its degrees of freedom (all angles apply x first). Positions are the bones' far ends.
Lengths are in units of ``length`` inches^-1: one unit is 0.0254 / length metres.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from internlm.data.mocap.motion import Z_UP_FROM_Y_UP, MocapError, Motion, build_motion
from internlm.data.mocap.skeleton import Lines, euler

AMC_RATE = 120.0
# COCO joint number -> bone whose far end is that joint.
ASF_ENDS = {
    5: "lclavicle", 6: "rclavicle", 7: "lhumerus", 8: "rhumerus", 9: "lradius", 10: "rradius",
    11: "lhipjoint", 12: "rhipjoint", 13: "lfemur", 14: "rfemur", 15: "ltibia", 16: "rtibia",
}  # fmt: skip
HEAD_BONE, HEAD_BASE, NECK_BASE = "head", "upperneck", "thorax"


@dataclass
class Bone:
    direction: np.ndarray  # [3] world axes, rest pose
    length: float
    axis: tuple[str, np.ndarray]  # order ("xyz") and degrees [3]
    freedoms: str = ""  # subset of "xyz", rotations only
    parent: str = ""


@dataclass
class Skeleton:
    bones: dict[str, Bone]  # parents before children; the root is not a bone
    root_channels: tuple[str, ...]
    root_axis: tuple[str, np.ndarray]
    scale: float  # metres a unit
    degrees: bool


def read_amc(path: Path) -> Motion:
    """One motion with its skeleton: ``<subject>.asf`` (or the same name with .asf, or the only .asf) in the same folder."""
    skeleton = read_asf(find_asf(path))
    frames = parse_amc(path, skeleton)
    every = round(AMC_RATE / 30)
    frames = frames[::every]
    ends, rotations = forward_kinematics(skeleton, frames)
    turned = {name: p * skeleton.scale @ Z_UP_FROM_Y_UP.T for name, p in ends.items()}
    left = skeleton.bones["lhipjoint"].direction * [1.0, 0.0, 1.0]
    left = left / max(np.linalg.norm(left), 1e-9)
    rest = np.stack([np.cross(left, [0.0, 1.0, 0.0]), left, [0.0, 1.0, 0.0]], axis=-1)
    head_axes = Z_UP_FROM_Y_UP @ rotations[HEAD_BONE] @ rest
    body = {joint: turned[bone] for joint, bone in ASF_ENDS.items()}
    motion = build_motion(path.stem, body, turned[HEAD_BASE], turned[NECK_BASE], head_axes)
    return replace(motion, source_rate=AMC_RATE)


def find_asf(path: Path) -> Path:
    """The skeleton that belongs to an AMC file."""
    subject = path.stem.partition("_")[0]
    for name in (path.stem, subject):
        for candidate in path.parent.glob("*.[aA][sS][fF]"):
            if candidate.stem == name:
                return candidate
    every = sorted(path.parent.glob("*.[aA][sS][fF]"))
    if len(every) == 1:
        return every[0]
    raise MocapError(f"{path}: needs its skeleton {subject}.asf in the same folder, found {[p.name for p in every] or 'none'}")


def read_asf(path: Path) -> Skeleton:
    """The skeleton of a subject. Raises MocapError naming file and line."""
    lines = Lines(path, comment="#")
    bones: dict[str, Bone] = {}
    skeleton = Skeleton(bones, (), ("xyz", np.zeros(3)), 0.0254 / 0.45, True)
    section = ""
    children: list[tuple[str, list[str]]] = []
    while lines.more():
        words = lines.next()
        if words[0].startswith(":"):
            section = words[0].lower()
        elif section == ":units" and words[0] == "length":
            length = lines.numbers(words[1:], 1)[0]
            if length <= 0:
                raise lines.error(f"unit length {length} is not positive")
            skeleton.scale = 0.0254 / length
        elif section == ":units" and words[0] == "angle":
            skeleton.degrees = words[1:] != ["rad"]
        elif section == ":root" and words[0] == "order":
            skeleton.root_channels = tuple(word.upper() for word in words[1:])
            if not set(skeleton.root_channels) <= {"TX", "TY", "TZ", "RX", "RY", "RZ"}:
                raise lines.error(f"unknown root channel in {' '.join(words[1:])}")
        elif section == ":root" and words[0] == "orientation":
            skeleton.root_axis = (skeleton.root_axis[0], np.array(lines.numbers(words[1:], 3)))
        elif section == ":root" and words[0] == "axis":
            skeleton.root_axis = (_order(lines, words[1:]), skeleton.root_axis[1])
        elif section == ":bonedata" and words[0] == "begin":
            name, bone = _bone(lines)
            bones[name] = bone
        elif section == ":hierarchy" and words[0] not in ("begin", "end"):
            children.append((words[0], words[1:]))
    for parent, names in children:
        for name in names:
            if name not in bones or (parent != "root" and parent not in bones):
                raise lines.error(f"the hierarchy names {parent} -> {name}, but the bone data lacks one of them")
            bones[name].parent = parent
    absent = [n for n in (*ASF_ENDS.values(), HEAD_BONE, HEAD_BASE, NECK_BASE) if n not in bones or not bones[n].parent]
    if absent:
        raise lines.error(f"the skeleton lacks {', '.join(absent)} (bone data and hierarchy)")
    if not skeleton.root_channels:
        raise lines.error("the root has no 'order' of channels")
    skeleton.bones = _sorted(bones, lines)
    return skeleton


def _order(lines: Lines, words: list[str]) -> str:
    if len(words) != 1 or sorted(words[0].lower()) != ["x", "y", "z"]:
        raise lines.error("an axis order is three letters such as XYZ")
    return words[0].lower()


def _bone(lines: Lines) -> tuple[str, Bone]:
    name, direction, length, axis, freedoms = "", None, None, ("xyz", np.zeros(3)), ""
    while (words := lines.next("the 'end' of a bone"))[0] != "end":
        if words[0] == "name" and len(words) == 2:
            name = words[1]
        elif words[0] == "direction":
            direction = np.array(lines.numbers(words[1:], 3))
        elif words[0] == "length":
            length = lines.numbers(words[1:], 1)[0]
        elif words[0] == "axis":
            axis = (_order(lines, words[4:]), np.array(lines.numbers(words[1:4], 3)))
        elif words[0] == "dof":
            if not all(re.fullmatch(r"r[xyz]", word.lower()) for word in words[1:]):
                raise lines.error(f"degrees of freedom {' '.join(words[1:])!r}: only rotations rx, ry, rz are read")
            freedoms = "".join(word[1].lower() for word in words[1:])
    if not name or direction is None or length is None:
        raise lines.error("a bone needs name, direction and length")
    return name, Bone(direction / max(np.linalg.norm(direction), 1e-9), length, axis, freedoms)


def _sorted(bones: dict[str, Bone], lines: Lines) -> dict[str, Bone]:
    """Parents before children, without bones that hang on nothing; a circle is an error."""
    done: dict[str, Bone] = {}
    while True:
        ready = [n for n, b in bones.items() if n not in done and b.parent and (b.parent == "root" or b.parent in done)]
        if not ready:
            break
        done.update((name, bones[name]) for name in ready)
    if left := [name for name, bone in bones.items() if bone.parent and name not in done]:
        raise lines.error(f"the hierarchy goes round in a circle at {left[0]}")
    return done


def parse_amc(path: Path, skeleton: Skeleton) -> np.ndarray:
    """Channel values [F, channels]: the root's channels, then each bone's freedoms in skeleton order, in degrees."""
    lines = Lines(path, comment="#")
    width = {"root": len(skeleton.root_channels), **{name: len(bone.freedoms) for name, bone in skeleton.bones.items()}}
    start = dict(zip(width, np.cumsum([0, *width.values()])[:-1], strict=True))
    total, frames = sum(width.values()), []
    degrees = skeleton.degrees
    while lines.more():
        words = lines.next()
        if words[0].startswith(":"):
            degrees = {":degrees": True, ":radians": False}.get(words[0].lower(), degrees)
        elif len(words) == 1 and words[0].isdigit():
            frames.append(np.zeros(total))
        elif not frames:
            raise lines.error(f"{words[0]!r} before the number of the first frame")
        elif words[0] not in width:
            raise lines.error(f"the skeleton has no bone {words[0]!r}")
        else:
            values = lines.numbers(words[1:], width[words[0]])
            frames[-1][start[words[0]] : start[words[0]] + width[words[0]]] = values
    if not frames:
        raise lines.error("no frames")
    table = np.array(frames)
    if not degrees:
        angles = np.array([channel.startswith("R") for channel in skeleton.root_channels] + [True] * (total - width["root"]))
        table[:, angles] = np.degrees(table[:, angles])
    return table


def forward_kinematics(skeleton: Skeleton, values: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Far ends [F, 3] (file units) and rotations [F, 3, 3] relative to the rest pose, of the root and every bone."""
    channels = skeleton.root_channels
    turns = [i for i, channel in enumerate(channels) if channel[0] == "R"]
    position = np.zeros((len(values), 3))
    for i, channel in enumerate(channels):
        if channel[0] == "T":
            position[:, "XYZ".index(channel[1])] = values[:, i]
    order = "".join(channels[i][1].lower() for i in turns)
    own = _about(skeleton.root_axis, euler(order[::-1], values[:, turns[::-1]]))
    ends, rotations = {"root": position}, {"root": own}
    column = len(channels)
    for name, bone in skeleton.bones.items():
        width = len(bone.freedoms)
        motion = euler(bone.freedoms[::-1], values[:, column : column + width][:, ::-1])
        column += width
        rotations[name] = rotations[bone.parent] @ _about(bone.axis, motion)
        ends[name] = ends[bone.parent] + rotations[name] @ (bone.direction * bone.length)
    return ends, rotations


def _about(axis: tuple[str, np.ndarray], motion: np.ndarray) -> np.ndarray:
    frame = euler(axis[0][::-1], axis[1][["xyz".index(letter) for letter in axis[0]]][None, ::-1])[0]
    return frame @ motion @ frame.T
