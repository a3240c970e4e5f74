"""ASF skeleton and AMC motion (Acclaim), as the CMU database publishes them: 120 frames a second unless the file says.

A bone turns about the axes of its own frame: its rotation relative to the rest pose is C M C^-1 with C the bone's
``axis`` and M the product of its degrees of freedom (all angles apply x first). Positions are the bones' far ends.
Lengths are in units of ``length`` inches^-1: one unit is 0.0254 / length metres.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from internlm.data.mocap.joint_names import HEAD, LIMBS, NECK, UnknownJoints, describe_names, describe_roles, recognised
from internlm.data.mocap.motion import MocapError, Motion, is_multiple, resample
from internlm.data.mocap.posture import BODY, NOTHING_STATED, Recording, Stated, recording_motion
from internlm.data.mocap.skeleton import Lines, euler

AMC_RATE = 120.0
ROOT = "root"


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
    scale: float | None  # metres a unit, where the file says
    degrees: bool


def read_amc(path: Path, stated: Stated = NOTHING_STATED) -> Motion:
    """One motion with its skeleton (``find_asf``). Raises MocapError naming file and line."""
    asf = find_asf(path)
    skeleton = read_asf(asf)
    roles, head = _roles(skeleton, stated, asf)
    frames = parse_amc(path, skeleton, {*roles.values(), head} - {None}, thinned=stated.rate is not None)
    rate = stated.rate or recorded_rate(path)
    frames = resample(frames, rate) if is_multiple(rate) else frames
    ends, rotations = forward_kinematics(skeleton, frames)
    rest = {ROOT: np.zeros(3)}
    for name, bone in skeleton.bones.items():
        rest[name] = rest[bone.parent] + bone.direction * bone.length
    ankles = {roles[ankle] for ankle in (15, 16) if ankle in roles}
    feet = [ends[name] - ends[bone.parent] for name, bone in skeleton.bones.items() if bone.parent in ankles]
    recording = Recording(
        name=path.stem,
        rate=rate,
        points={role: ends[name] for role, name in roles.items()},
        rest={role: rest[name] for role, name in roles.items()},
        head=None if head is None else rotations[head],
        toes=sum(feet) if feet else None,
        unit=skeleton.scale,
        error=lambda message: MocapError(f"{path} with {asf.name}: {message}"),
    )
    return recording_motion(recording, stated)


def find_asf(path: Path) -> Path:
    """The skeleton that belongs to an AMC file, in the same folder: the one of its name, else the one whose name it begins with
    (``02.asf`` and ``02_01.amc``), else the only one."""
    stem = path.stem.lower()
    every = sorted(p for p in path.parent.glob("*.[aA][sS][fF]") if not p.name.startswith("."))
    begun = [p for p in every if stem == p.stem.lower() or re.match(re.escape(p.stem.lower()) + "[^a-z0-9]", stem)]
    if begun:
        return max(begun, key=lambda p: (len(p.stem), p.stem == path.stem[: len(p.stem)]))
    subject = path.stem.partition("_")[0]
    # A skeleton that is the number of another subject has another body.
    if len(every) == 1 and not (every[0].stem.isdigit() and subject.isdigit()):
        return every[0]
    raise MocapError(f"{path}: needs its skeleton {subject}.asf in the same folder, found {[p.name for p in every] or 'none'}")


def _roles(skeleton: Skeleton, stated: Stated, asf: Path) -> tuple[dict[int | str, str], str | None]:
    """COCO joint number, head or neck -> bone (or root) whose far end it is, and the bone that turns with the head.

    A user's map names bones by their far ends too, except for the head and the neck, which it names themselves.
    """
    names = list(skeleton.bones)
    parents = [names.index(bone.parent) if bone.parent != ROOT else -1 for bone in skeleton.bones.values()]
    try:
        found, mapped = recognised(names, parents, stated.joint_map, limb_joints=2)
    except UnknownJoints as unknown:
        raise MocapError(f"{asf}: {unknown}; the bones are {describe_names(names)}; say which with --joints MAP.json") from None
    roles: dict[int | str, str] = {role: skeleton.bones[names[bone]].parent for role, bone in found.items()}
    for first, _ in LIMBS:
        roles |= {last + 2: names[found[last]] for last in (first + 2, first + 3) if last in found}
    for role, bone in mapped.items():
        roles[role] = skeleton.bones[names[bone]].parent if role in (HEAD, NECK) else names[bone]
    absent = [role for role in (*BODY, HEAD) if role not in roles]
    if absent and stated.joint_map is None:
        raise MocapError(
            f"{asf}: the skeleton lacks bones with a known name for {describe_roles(absent)}; it has {describe_names(names)}; "
            "give a joint map (--joints MAP.json) from COCO names to the bones that end there, and from head and neck to theirs"
        )
    head = {**found, **mapped}.get(HEAD)
    return roles, None if head is None else names[head]


def read_asf(path: Path) -> Skeleton:
    """The skeleton of a subject. Raises MocapError naming file and line."""
    lines = Lines(path, comment="#")
    bones: dict[str, Bone] = {}
    skeleton = Skeleton(bones, (), ("xyz", np.zeros(3)), None, True)
    section = ""
    children: list[tuple[str, list[str]]] = []
    while lines.more():
        words = lines.next()
        key = words[0].lower()
        if key.startswith(":"):
            section = key
        elif section == ":units" and key == "length":
            length = lines.numbers(words[1:], 1)[0]
            if length <= 0:
                raise lines.error(f"unit length {length} is not positive")
            skeleton.scale = 0.0254 / length
        elif section == ":units" and key == "angle":
            skeleton.degrees = not "".join(words[1:]).lower().startswith("rad")
        elif section == ":root" and key == "order":
            skeleton.root_channels = tuple(word.upper() for word in words[1:])
            if not set(skeleton.root_channels) <= {"TX", "TY", "TZ", "RX", "RY", "RZ"}:
                raise lines.error(f"unknown root channel in {' '.join(words[1:])}")
        elif section == ":root" and key == "orientation":
            skeleton.root_axis = (skeleton.root_axis[0], np.array(lines.numbers(words[1:], 3)))
        elif section == ":root" and key == "axis":
            skeleton.root_axis = (_order(lines, words[1:]), skeleton.root_axis[1])
        elif section == ":bonedata" and key == "begin":
            name, bone = _bone(lines)
            if name in bones:
                raise lines.error(f"a second bone named {name!r}")
            bones[name] = bone
        elif section == ":hierarchy" and key not in ("begin", "end"):
            children.append((words[0], words[1:]))
    for parent, names in children:
        parent = ROOT if parent.lower() == ROOT else parent
        for name in names:
            if name not in bones or (parent != ROOT and parent not in bones):
                raise lines.error(f"the hierarchy names {parent} -> {name}, but the bone data lacks one of them")
            bones[name].parent = parent
    if not any(bone.parent for bone in bones.values()):
        raise lines.error("the skeleton lacks bones (bone data and hierarchy)")
    if not skeleton.root_channels:
        raise lines.error("the root has no 'order' of channels")
    if not skeleton.degrees:  # every angle of the file, not only those of the motion
        skeleton.root_axis = (skeleton.root_axis[0], np.degrees(skeleton.root_axis[1]))
        for bone in bones.values():
            bone.axis = (bone.axis[0], np.degrees(bone.axis[1]))
    skeleton.bones = _sorted(bones, lines)
    return skeleton


def _order(lines: Lines, words: list[str]) -> str:
    if len(words) != 1 or sorted(words[0].lower()) != ["x", "y", "z"]:
        raise lines.error("an axis order is three letters such as XYZ")
    return words[0].lower()


def _bone(lines: Lines) -> tuple[str, Bone]:
    name, direction, length, axis, freedoms = "", None, None, ("xyz", np.zeros(3)), ""
    while (key := (words := lines.next("the 'end' of a bone"))[0].lower()) != "end":
        if key == "name" and len(words) == 2:
            name = words[1]
        elif key == "direction":
            direction = np.array(lines.numbers(words[1:], 3))
        elif key == "length":
            length = lines.numbers(words[1:], 1)[0]
        elif key == "axis":
            axis = (_order(lines, words[4:]), np.array(lines.numbers(words[1:4], 3)))
        elif key == "dof":
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
        ready = [n for n, b in bones.items() if n not in done and b.parent and (b.parent == ROOT or b.parent in done)]
        if not ready:
            break
        done.update((name, bones[name]) for name in ready)
    if left := [name for name, bone in bones.items() if bone.parent and name not in done]:
        raise lines.error(f"the hierarchy goes round in a circle at {left[0]}")
    return done


def parse_amc(path: Path, skeleton: Skeleton, needed: Collection[str] = (), *, thinned: bool = False) -> np.ndarray:
    """Channel values [F, channels]: the root's channels, then each bone's freedoms in skeleton order, in degrees.

    needed: bones whose places are asked for. They and the bones that carry them must be in every frame, and no frame may
    name other bones than the first: a frame with less is one that breaks off. Frame numbers count up one by one; by another
    step that stays the same where the rate is known (``thinned``).
    """
    lines = Lines(path, comment="#")
    width = {ROOT: len(skeleton.root_channels), **{name: len(bone.freedoms) for name, bone in skeleton.bones.items()}}
    start = dict(zip(width, np.cumsum([0, *width.values()])[:-1], strict=True))
    spelled = {name.lower(): name for name in width}  # the two files may differ in capitals
    total, degrees, must = sum(width.values()), skeleton.degrees, _movable(skeleton, needed)
    frames: list[np.ndarray] = []
    given: set[str] = set()
    usual = number = step = None
    while lines.more() or number is not None:
        words = lines.next() if lines.more() else None
        if words is None or (len(words) == 1 and lines.count(words) is not None):
            if number is not None:
                usual = usual or given
                if lacking := (must | usual) - given:
                    cut = "" if words else "; does the file break off?"
                    raise lines.error(f"frame {number} lacks {', '.join(sorted(lacking))}{cut}")
                if given - usual:
                    raise lines.error(f"frame {number} has {', '.join(sorted(given - usual))}, the first frame has not")
            following = lines.count(words) if words else None
            if None not in (number, following):
                step = step or (max(following - number, 1) if thinned else 1)
                if following != number + step:
                    raise lines.error(f"frame {following} follows frame {number}; frames are missing or out of order")
            if words:
                frames.append(np.zeros(total))
            number, given = following, set()
        elif words[0].startswith(":"):
            degrees = {":degrees": True, ":radians": False}.get(words[0].lower(), degrees)
        elif number is None:
            raise lines.error(f"{words[0]!r} before the number of the first frame")
        elif (bone := words[0] if words[0] in width else spelled.get(words[0].lower())) is None:
            raise lines.error(f"the skeleton has no bone {words[0]!r}")
        elif bone in given:
            raise lines.error(f"frame {number} has {bone} twice")
        else:
            frames[-1][start[bone] : start[bone] + width[bone]] = lines.numbers(words[1:], width[bone])
            given.add(bone)
    if not frames:
        raise lines.error("no frames")
    table = np.array(frames)
    if not degrees:
        angles = np.array([channel.startswith("R") for channel in skeleton.root_channels] + [True] * (total - width[ROOT]))
        table[:, angles] = np.degrees(table[:, angles])
    return table


def recorded_rate(path: Path) -> float:
    """Frames a second, which few files say in their head (":SAMPLES-PER-SECOND 120"); the CMU database has 120."""
    lines = Lines(path, comment="#")
    while lines.more() and lines.count(words := lines.next()) is None:
        if words[0].lower() == ":samples-per-second":
            rate = lines.numbers(words[1:], 1)[0]
            if not 0.5 <= rate <= 2000:
                raise lines.error(f"{rate:g} samples a second are not plausible")
            return rate
    return AMC_RATE


def _movable(skeleton: Skeleton, bones: Collection[str]) -> set[str]:
    """Those of ``bones`` and of the bones that carry them that have channels, and the root."""
    carried = {ROOT}
    for name in bones:
        while name != ROOT:
            carried.add(name)
            name = skeleton.bones[name].parent
    return {name for name in carried if name == ROOT or skeleton.bones[name].freedoms}


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
    ends, rotations = {ROOT: position}, {ROOT: own}
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
