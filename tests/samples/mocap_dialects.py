"""One known motion written as BVH and as ASF/AMC in the dialects of many programs, with the joints and the gaze to be read.

The figure is made in metres, y up, facing +z with its left at +x. Kinematics here are scipy's and share nothing with the readers.
A file is that motion in other local frames (``B``), other world axes (``Q``), another unit, other names and another spelling.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

# joint -> (parent, offset from it in the rest pose); "" ends are the far ends of the last bones.
SKELETON = {
    "Hips": (None, (0, 0, 0)),
    "Spine": ("Hips", (0, 0.1, 0)), "Chest": ("Spine", (0, 0.36, 0)), "Neck": ("Chest", (0, 0.08, 0)),
    "Head": ("Neck", (0, 0.1, 0)), "Head.end": ("Head", (0, 0.17, 0)),
    **{f"{side}{joint}": (parent if parent in ("Hips", "Chest") else f"{side}{parent}", (sign * x, y, z))
       for side, sign in (("Left", 1), ("Right", -1))
       for joint, parent, (x, y, z) in (
           ("Thigh", "Hips", (0.09, -0.02, 0.05)), ("Shin", "Thigh", (0, -0.42, 0)), ("Foot", "Shin", (0, -0.41, 0)),
           ("Toe", "Foot", (0, -0.06, 0.15)), ("Toe.end", "Toe", (0, 0, 0.05)), ("Collar", "Chest", (0.04, 0.03, 0)),
           ("Arm", "Collar", (0.13, 0, 0)), ("Fore", "Arm", (0.29, 0, 0)), ("Hand", "Fore", (0.25, 0, 0)),
           ("Hand.end", "Hand", (0.1, 0, 0)))},
}  # fmt: skip
COCO = {
    5 + 2 * level + side + 6 * (limb == "leg"): f"{name}{joint}"
    for limb, joints in (("arm", ("Arm", "Fore", "Hand")), ("leg", ("Thigh", "Shin", "Foot")))
    for level, joint in enumerate(joints)
    for side, name in enumerate(("Left", "Right"))
}

# What programs call the joints: pattern of a side's joint, the parts, the joints of the middle.
_PARTS = ("Thigh", "Shin", "Foot", "Toe", "Collar", "Arm", "Fore", "Hand")
_MIDDLE = ("Hips", "Spine", "Chest", "Neck", "Head")
FAMILIES = {
    "cmu": ("{side}{part}", "UpLeg Leg Foot ToeBase Shoulder Arm ForeArm Hand", "Hips Spine Spine1 Neck Head"),
    "mixamo": ("mixamorig:{side}{part}", "UpLeg Leg Foot ToeBase Shoulder Arm ForeArm Hand",
               "mixamorig:Hips mixamorig:Spine mixamorig:Spine1 mixamorig:Neck mixamorig:Head"),
    "character": ("Character1_{side}{part}", "UpLeg Leg Foot ToeBase Shoulder Arm ForeArm Hand",
                  "Character1_Hips Character1_Spine Character1_Spine1 Character1_Neck Character1_Head"),
    "namespace": ("Character1:{side}{part}", "UpLeg Leg Foot ToeBase Shoulder Arm ForeArm Hand",
                  "Character1:Hips Character1:Spine Character1:Spine1 Character1:Neck Character1:Head"),
    "max": ("Bip01 {s} {part}", "Thigh|Calf|Foot|Toe0|Clavicle|UpperArm|Forearm|Hand",
            "Bip01|Bip01 Spine|Bip01 Spine1|Bip01 Neck|Bip01 Head"),
    "max underscores": ("Bip001_{s}_{part}", "Thigh Calf Foot Toe0 Clavicle UpperArm Forearm Hand",
                        "Bip001 Bip001_Spine Bip001_Spine1 Bip001_Neck Bip001_Head"),
    "rigify": ("{part}.{s}", "thigh shin foot toe shoulder upper_arm forearm hand",
                "spine spine.001 spine.003 spine.004 spine.006"),
    "rigify deform": ("DEF-{part}.{s}", "thigh shin foot toe shoulder upper_arm forearm hand",
                      "DEF-spine DEF-spine.001 DEF-spine.003 DEF-neck DEF-head"),
    "unity": ("{side}{part}", "UpperLeg LowerLeg Foot Toes Shoulder UpperArm LowerArm Hand", "Hips Spine Chest Neck Head"),
    "unity suffix": ("{part}_{s}", "UpperLeg LowerLeg Foot Toes Shoulder UpperArm LowerArm Hand", "Hips Spine Chest Neck Head"),
    "vrm": ("J_Bip_{s}_{part}", "UpperLeg LowerLeg Foot ToeBase Shoulder UpperArm LowerArm Hand",
            "J_Bip_C_Hips J_Bip_C_Spine J_Bip_C_Chest J_Bip_C_Neck J_Bip_C_Head"),
    "mvn": ("{side}{part}", "Hip Knee Ankle Toe Collar Shoulder Elbow Wrist", "Hips Chest Chest4 Neck Head"),
    "xsens": ("{side}{part}", "UpperLeg LowerLeg Foot Toe Shoulder UpperArm ForeArm Hand", "Pelvis L5 T8 Neck Head"),
    "rokoko": ("{side}{part}", "Thigh Shin Foot Toe Shoulder Arm ForeArm Hand", "Hips Spine1 Spine4 Neck Head"),
    "neuron": ("Robot_{side}{part}", "UpLeg Leg Foot Toe Shoulder Arm ForeArm Hand",
                "Robot_Hips Robot_Spine Robot_Spine1 Robot_Neck Robot_Head"),
    "smpl": ("{s}_{part}", "Hip Knee Ankle Foot Collar Shoulder Elbow Wrist", "Pelvis Spine1 Spine3 Neck Head"),
    "smpl avg": ("m_avg_{s}_{part}", "Hip Knee Ankle Foot Collar Shoulder Elbow Wrist",
                "m_avg_Pelvis m_avg_Spine1 m_avg_Spine3 m_avg_Neck m_avg_Head"),
    "daz": ("{l}{part}", "Thigh Shin Foot Toe Collar Shldr ForeArm Hand", "hip abdomen chest neck head"),
    "daz bend": ("{l}{part}", "ThighBend Shin Foot Toe Collar ShldrBend ForearmBend Hand",
                "hip abdomenLower chestLower neckLower head"),
    "unreal": ("{part}_{l}", "thigh calf foot ball clavicle upperarm lowerarm hand", "pelvis spine_01 spine_03 neck_01 head"),
    "iclone": ("CC_Base_{s}_{part}", "Thigh Calf Foot ToeBase Clavicle Upperarm Forearm Hand",
               "CC_Base_Hip CC_Base_Waist CC_Base_Spine02 CC_Base_NeckTwist01 CC_Base_Head"),
    "kinect": ("{part}{side}", "Hip Knee Ankle Foot Clavicle Shoulder Elbow Wrist", "SpineBase SpineMid SpineShoulder Neck Head"),
    "motive": ("{s}{part}", "Thigh Shin Foot Toe Shoulder UArm FArm Hand", "Hip Ab Chest Neck Head"),
    "biovision": ("{side}{part}", "UpLeg LowLeg Foot Toe Collar UpArm LowArm Hand", "Hips Chest Chest2 Neck Head"),
    "acclaim": ("{l}{part}", "femur tibia foot toes clavicle humerus radius hand", "root lowerback thorax lowerneck head"),
    "shouting": ("{SIDE}_{part}", "UPPERLEG LOWERLEG FOOT TOE CLAVICLE UPPERARM LOWERARM HAND", "HIPS SPINE CHEST NECK HEAD"),
    "small": ("{side_}{part}", "thigh calf foot toe clavicle upperarm forearm hand", "pelvis spine chest neck head"),
    "sketchfab": ("{side}{part}_0{n}", "UpLeg Leg Foot ToeBase Shoulder Arm ForeArm Hand",
                "Hips_01 Spine_02 Spine1_03 Neck_04 Head_05"),
    "makehuman": ("{part}.{s}", "upperleg01 lowerleg01 foot toe1-1 shoulder01 upperarm01 lowerarm01 wrist",
                "root spine05 spine01 neck01 head"),
    "vrchat": ("{side} {part}", "leg|knee|ankle|toe|shoulder|arm|elbow|wrist", "Hips|Spine|Chest|Neck|Head"),
    "advanced": ("{part}_{s}", "Hip Knee Ankle Toes Scapula Shoulder Elbow Wrist", "Root_M Spine1_M Chest_M Neck_M Head_M"),
    "auto rig": ("{part}.{l}", "thigh_stretch leg_stretch foot toes_01 shoulder arm_stretch forearm_stretch hand",
                 "root.x spine_01.x spine_02.x neck.x head.x"),
    "second life": ("m{part}{side}", "Hip Knee Ankle Foot Collar Shoulder Elbow Wrist", "mPelvis mTorso mChest mNeck mHead"),
    "valve": ("bip_{part}_{s}", "hip knee foot toe collar upperArm lowerArm hand",
                "bip_pelvis bip_spine_0 bip_spine_3 bip_neck bip_head"),
    "source": ("ValveBiped.Bip01_{s}_{part}", "Thigh Calf Foot Toe0 Clavicle UpperArm Forearm Hand",
               " ".join(f"ValveBiped.Bip01_{joint}" for joint in ("Pelvis", "Spine", "Spine4", "Neck1", "Head1"))),
    "maya": ("{l}_{part}_jnt", "thigh knee ankle ball clavicle shoulder elbow wrist",
                "hips_jnt spine_jnt chest_jnt neck_jnt head_jnt"),
}  # fmt: skip
UNKNOWN = ("b{n}{side}", "A B C D E F G H", "b0 b1 b2 b3 b4")


def names_of(family: str | None) -> dict[str, str]:
    """Joint of SKELETON (without ends) -> its name. None: names that mean nothing."""
    pattern, parts, middle = FAMILIES[family] if family else UNKNOWN
    split = "|" if "|" in parts else " "
    names = dict(zip(_MIDDLE, middle.split(split), strict=True))
    for side in ("Left", "Right"):
        for n, (joint, part) in enumerate(zip(_PARTS, parts.split(split), strict=True), 10):
            words = {"side": side, "SIDE": side.upper(), "side_": side.lower() + "_", "s": side[0], "l": side[0].lower()}
            names[side + joint] = pattern.format(part=part, n=n, **words)
    return names


@dataclass(frozen=True)
class Truth:
    """joints [F, 17, 3] metres (5 to 16 are known) and gaze [F, 3], both in z-up axes, at the file's rate."""

    joints: np.ndarray
    gaze: np.ndarray


@dataclass(frozen=True)
class Figure:
    offsets: dict[str, np.ndarray]
    positions: dict[str, np.ndarray]  # [F, 3], y up
    turns: dict[str, np.ndarray]  # [F, 3, 3] global

    @property
    def truth(self) -> Truth:
        world = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
        joints = np.zeros((len(self.positions["Hips"]), 17, 3))
        for coco, joint in COCO.items():
            joints[:, coco] = self.positions[joint] @ world.T
        return Truth(joints, self.turns["Head"][:, :, 2] @ world.T)


@lru_cache(maxsize=512)
def make_figure(seed: int, frames: int, size: float, sway: float = 12.0, heading: float | None = None) -> Figure:
    """Somebody who walks a curve, limbs and head moving at random about the rest pose."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, frames)[:, None]
    offsets = {joint: np.array(offset, float) * size for joint, (_, offset) in SKELETON.items()}
    way = rng.uniform(-180, 180) + rng.uniform(-60, 60) * time[:, 0]
    way = way if heading is None else np.full(frames, heading)
    positions, turns = {}, {}
    for joint, (parent, _) in SKELETON.items():
        wave = np.radians(sway) * np.sin(2 * np.pi * (time + rng.random(3))) + np.radians(rng.uniform(-4, 4, 3))
        own = Rotation.from_rotvec(wave).as_matrix()
        if parent is None:
            positions[joint] = rng.uniform(-2, 2, 3) * [1, 0, 1] + time * rng.uniform(-1, 1, 3) * [1, 0.05, 1]
            positions[joint][:, 1] += 0.92 * size
            turns[joint] = Rotation.from_euler("y", way[:, None], degrees=True).as_matrix() @ own
        else:
            positions[joint] = positions[parent] + turns[parent] @ offsets[joint]
            turns[joint] = turns[parent] @ own
    return Figure(offsets, positions, turns)


def local_frames(rest: str, seed: int) -> dict[str, np.ndarray]:
    """The local frame of every joint in the rest pose, columns in the figure's axes."""
    if rest == "standing":
        return {joint: np.eye(3) for joint in SKELETON}
    if rest == "turned":  # the figure as a whole lies along another axis
        turn = np.linalg.qr(np.eye(3)[list(list(permutations(range(3)))[seed % 6])])[0]
        turn = turn * (1 if np.linalg.det(turn) > 0 else -1)
        return {joint: turn for joint in SKELETON}
    frames = {}  # every bone along its own x
    main = {parent: offset for joint, (parent, offset) in reversed(SKELETON.items()) if not joint.endswith(("Collar", "Thigh"))}
    for joint, (parent, _) in SKELETON.items():
        along = np.array(main.get(joint, (0, 1, 0) if parent is None else SKELETON[joint][1]), float)
        x = np.eye(3)[np.argmax(np.abs(along))] * np.sign(along[np.argmax(np.abs(along))])
        y = np.array([0.0, 0, 1]) if abs(x[2]) < 0.5 else np.array([1.0, 0, 0])
        frames[joint] = np.stack([x, y, np.cross(x, y)], axis=-1)
    return frames


# File axes from the figure's (y up, facing z): which axis of the file is up.
AXES = {
    "y": np.eye(3),
    "z": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "z, facing x": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    "y, facing x": np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]),
}
UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "inch": 0.0254, "ft": 0.3048, "cmu": 0.0254 / 0.45}


@dataclass(frozen=True)
class Spelling:
    """How the same numbers are put into a text file."""

    bom: str = ""  # "", utf-8-sig, utf-16
    newline: str = "\n"
    indent: str = "\t"
    brace: str = "own line"  # own line, same line, one line
    case: str = "usual"  # usual, lower, upper
    comma: bool = False
    blank: bool = False
    wrap: bool = False

    def write(self, path: Path, lines: list[str]) -> None:
        lines = [line for row in lines for line in ((row, "  ") if self.blank else (row,))]
        text = self.newline.join(lines) + self.newline
        path.write_bytes(text.replace(".", ",").encode() if self.comma else text.encode(self.bom or "utf-8"))

    def word(self, word: str) -> str:
        return {"usual": word, "lower": word.lower(), "upper": word.upper()}[self.case]


@dataclass(frozen=True)
class BvhDialect:
    family: str | None = "cmu"
    rest: str = "standing"  # standing, turned, bones along x
    axes: str = "y"
    axes_in_root: bool = False  # the rest pose stays as it is, the root's rotation turns the world
    unit: str = "cm"
    orders: int = 0  # seed of the channel orders
    places: str = "root"  # root; repeated, added, moved: position channels on every joint
    root_offset: str = "none"  # none, repeated, added
    rate: float = 120.0
    head_tilt: float = 0.0  # degrees by which the head's local frame is off
    spelling: Spelling = Spelling()


def write_bvh(path: Path, figure: Figure, dialect: BvhDialect, seed: int = 0) -> None:
    spelling, rng = dialect.spelling, np.random.default_rng(dialect.orders)
    names, unit, world = names_of(dialect.family), UNITS[dialect.unit], AXES[dialect.axes]
    frames = local_frames(dialect.rest, seed)
    frames["Head"] = Rotation.from_euler("yx", [dialect.head_tilt] * 2, degrees=True).as_matrix() @ frames["Head"]
    frames = {joint: frame @ (np.eye(3) if dialect.axes_in_root else world.T) for joint, frame in frames.items()}
    turns = {joint: world @ turn @ frames[joint] for joint, turn in figure.turns.items()}
    count = len(figure.positions["Hips"])
    columns, lines = [], [spelling.word("HIERARCHY")]

    def put(joint: str, depth: int) -> None:
        parent = SKELETON[joint][0]
        pad, end = spelling.indent * depth, joint.endswith(".end")
        title = spelling.word("End Site") if end else f"{spelling.word('JOINT' if parent else 'ROOT')} {names[joint]}"
        lines.extend([f"{pad}{title} {{"] if spelling.brace == "same line" else [pad + title, pad + "{"])
        if parent is None:
            place = figure.positions[joint] @ world.T / unit
            offset = {"none": np.zeros(3), "repeated": place[0], "added": np.array([3.0, 5.0, 2.0])}[dialect.root_offset]
            given, turn = place - (offset if dialect.root_offset == "added" else 0), turns[joint]
        else:
            place = np.broadcast_to(frames[parent].T @ figure.offsets[joint] / unit, (count, 3))
            offset = place[0] * (0 if dialect.places == "moved" else 1)
            given, turn = place * (dialect.places in ("repeated", "moved")), turns[parent].transpose(0, 2, 1) @ turns[joint]
        lines.append(f"{pad}{spelling.indent}{spelling.word('OFFSET')} " + " ".join(f"{v:.6f}" for v in offset))
        if end:
            lines.append(pad + "}")
            return
        order = "".join(rng.permutation(list("XYZ")))
        angles = Rotation.from_matrix(turn).as_euler(order, degrees=True)
        rotation = [(f"{axis}rotation", angles[:, i]) for i, axis in enumerate(order)]
        position = [(f"{axis}position", given[:, "XYZ".index(axis)]) for axis in rng.permutation(list("XYZ"))]
        if parent and dialect.places != "moved" and (dialect.places == "root" or rng.random() < 0.3):
            position = []
        channels = position + rotation if rng.random() < 0.8 else rotation + position
        columns.extend(values for _, values in channels)
        words = " ".join(spelling.word(name) for name, _ in channels)
        lines.append(f"{pad}{spelling.indent}{spelling.word('CHANNELS')} {len(channels)} {words}")
        for child in SKELETON:
            if SKELETON[child][0] == joint:
                put(child, depth + 1)
        lines.append(pad + "}")

    put("Hips", 0)
    if spelling.brace == "one line":
        lines = [" ".join(line.strip() for line in lines)]
    table = np.stack(columns, axis=-1)
    lines += [spelling.word("MOTION"), f"{spelling.word('Frames:')} {count}"]
    lines.append(f"{spelling.word('Frame Time:')} {1 / dialect.rate:.7f}")
    for row in table:
        words = [f"{v:.6f}" for v in row]
        half = len(words) // 2
        lines += [" ".join(words[:half]), " ".join(words[half:])] if spelling.wrap else [" ".join(words)]
    spelling.write(path, lines)


# ASF/AMC: bone -> (parent bone, joint that it begins at and turns with, joint at its far end)
BONES = {
    "lowerback": ("root", None, "Spine"), "thorax": ("lowerback", "Spine", "Chest"), "lowerneck": ("thorax", "Chest", "Neck"),
    "upperneck": ("lowerneck", "Neck", "Head"), "head": ("upperneck", "Head", "Head.end"),
    **{f"{side[0].lower()}{bone}": (parent if parent in ("root", "thorax") else side[0].lower() + parent,
                                    turn if turn in (None, "Chest") else side + turn, side + end)
       for side in ("Left", "Right")
       for bone, parent, turn, end in (
           ("hipjoint", "root", None, "Thigh"), ("femur", "hipjoint", "Thigh", "Shin"), ("tibia", "femur", "Shin", "Foot"),
           ("foot", "tibia", "Foot", "Toe"), ("toes", "foot", "Toe", "Toe.end"), ("clav", "thorax", "Chest", "Collar"),
           ("clavicle", "clav", "Collar", "Arm"), ("humerus", "clavicle", "Arm", "Fore"), ("radius", "humerus", "Fore", "Hand"),
           ("hand", "radius", "Hand", "Hand.end"))},
}  # fmt: skip


@dataclass(frozen=True)
class AmcDialect:
    family: str | None = "acclaim"
    axes: str = "y"
    length: float | None = 0.45  # of ":units"
    unit_is_wrong: bool = False  # the lengths are centimetres, whatever ":units" says
    radians: bool = False
    orders: int = 0
    first: int = 1
    rate: float | None = None
    spelling: Spelling = Spelling()


def bone_names(family: str | None) -> dict[str, str]:
    """Bone -> its name: the Acclaim names, or the name of the joint it begins at in another program's."""
    if family == "acclaim":
        return {bone: bone for bone in BONES}
    joints = names_of(family)
    # The two bones that begin at the chest on either side are no joint's own.
    own = {bone: joints[turn].replace(" ", "_") for bone, (_, turn, _) in BONES.items() if turn and not bone.endswith("clav")}
    return {bone: own.get(bone, f"x{n}") for n, bone in enumerate(BONES)}


def write_amc(path: Path, figure: Figure, dialect: AmcDialect) -> None:
    """``path`` and its skeleton with the suffix .asf."""
    spelling, rng = dialect.spelling, np.random.default_rng(dialect.orders)
    world, names = AXES[dialect.axes], bone_names(dialect.family)
    unit = 0.01 if dialect.unit_is_wrong or dialect.length is None else 0.0254 / dialect.length
    angle = 1.0 if dialect.radians else 180 / np.pi
    turns = {joint: world @ turn @ world.T for joint, turn in figure.turns.items()}
    asf = [
        "# made by hand",
        ":version 1.10",
        ":name figure",
        ":units",
        "  mass 1.0",
        *([f"  length {dialect.length}"] if dialect.length else []),
        f"  angle {'rad' if dialect.radians else 'deg'}",
        ":root",
        "  order TX TY TZ RX RY RZ",
        "  axis XYZ",
        "  position 0 0 0",
        "  orientation 0 0 0",
        ":bonedata",
    ]
    place = figure.positions["Hips"] @ world.T / unit
    root = np.concatenate([place, Rotation.from_matrix(turns["Hips"]).as_euler("xyz") * angle], axis=1)
    rows = [[f"{n}", "root " + " ".join(f"{v:.6f}" for v in values)] for n, values in enumerate(root, dialect.first)]
    for bone, (parent, joint, end) in BONES.items():
        direction = world @ figure.offsets[end]
        length = np.linalg.norm(direction)
        axis = rng.uniform(-1, 1, 3)
        frame = Rotation.from_euler("xyz", axis).as_matrix()
        numbers = " ".join(f"{v:.8f}" for v in direction / length), " ".join(f"{v:.8f}" for v in axis * angle)
        asf += [
            "  begin",
            f"    name {names[bone]}",
            f"    direction {numbers[0]}",
            f"    length {length / unit:.8f}",
            f"    axis {numbers[1]} XYZ",
        ]
        if joint:
            above = BONES[parent][1] if parent != "root" else "Hips"
            own = turns[above or "Hips"].transpose(0, 2, 1) @ turns[joint]
            order = "".join(rng.permutation(list("xyz")))
            angles = Rotation.from_matrix(frame.T @ own @ frame).as_euler(order) * angle
            asf.append("    dof " + " ".join(f"r{letter}" for letter in order))
            for row, values in zip(rows, angles):
                row.append(f"{names[bone]} " + " ".join(f"{v:.7f}" for v in values))
        asf.append("  end")
    asf += [":hierarchy", "  begin", *(f"    {names.get(p, p)} {names[b]}" for b, (p, _, _) in BONES.items()), "  end"]
    spelling.write(path.with_suffix(".asf"), asf)
    head = ["#!OML:ASF", ":FULLY-SPECIFIED", ":RADIANS" if dialect.radians else ":DEGREES"]
    head += [f":SAMPLES-PER-SECOND {dialect.rate:g}"] if dialect.rate else []
    spelling.write(path, head + [line for row in rows for line in row])


def amc_as_bvh(asf: Path, amc: Path, path: Path) -> None:
    """A CMU recording as BVH with that database's BVH names, from the text of its two files."""
    bones: dict[str, dict] = {}
    for block in re.findall(r"(?s)begin\s+id.*?end", asf.read_text()):
        words = {row.split()[0]: row.split()[1:] for row in block.splitlines() if row.split()}
        direction, axis = np.array(words["direction"], float), np.array(words["axis"][:3], float)
        bones[words["name"][0]] = {
            "vector": direction * float(words["length"][0]),
            "dof": words.get("dof", []),
            "frame": Rotation.from_euler("xyz", axis, degrees=True),
        }
    children: dict[str, list[str]] = {}
    for row in asf.read_text().partition(":hierarchy")[2].splitlines():
        if len(row.split()) > 1:
            children[row.split()[0]] = row.split()[1:]
    frames: list[dict] = []
    for row in amc.read_text().splitlines():
        if row.strip().isdigit():
            frames.append({})
        elif frames:
            frames[-1][row.split()[0]] = np.array(row.split()[1:], float)
    joints = {"lhipjoint": "LHipJoint", "rhipjoint": "RHipJoint", "lowerback": "LowerBack", "upperback": "Spine",
              "thorax": "Spine1", "lowerneck": "Neck", "upperneck": "Neck1", "head": "Head",
              **{side[0].lower() + bone: side + joint for side in ("Left", "Right") for bone, joint in (
                  ("femur", "UpLeg"), ("tibia", "Leg"), ("foot", "Foot"), ("toes", "ToeBase"), ("clavicle", "Shoulder"),
                  ("humerus", "Arm"), ("radius", "ForeArm"), ("wrist", "Hand"))}}  # fmt: skip
    lines, columns = ["HIERARCHY"], [np.array([frame["root"][:3] for frame in frames])]

    def put(bone: str, offset: np.ndarray) -> None:
        """A bone is the joint that it begins at; where it ends its children begin."""
        lines.extend(
            [
                f"JOINT {joints.get(bone, bone)}",
                "{",
                "OFFSET " + " ".join(f"{v:.6f}" for v in offset),
                "CHANNELS 3 Zrotation Yrotation Xrotation",
            ]
        )
        angles = np.zeros((len(frames), 3))
        for n, axis in enumerate(bones[bone]["dof"]):
            angles[:, "xyz".index(axis[1])] = [frame[bone][n] for frame in frames]
        own = bones[bone]["frame"] * Rotation.from_euler("xyz", angles, degrees=True) * bones[bone]["frame"].inv()
        columns.append(own.as_euler("ZYX", degrees=True))
        for child in children.get(bone, ()):
            put(child, bones[bone]["vector"])
        if bone not in children:
            lines.extend(["End Site", "{", "OFFSET " + " ".join(f"{v:.6f}" for v in bones[bone]["vector"]), "}"])
        lines.append("}")

    lines += ["ROOT Hips", "{", "OFFSET 0 0 0", "CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation"]
    root = Rotation.from_euler("xyz", [frame["root"][3:] for frame in frames], degrees=True)
    columns.append(root.as_euler("ZYX", degrees=True))
    for bone in children["root"]:
        put(bone, np.zeros(3))
    table = np.concatenate(columns, axis=1)
    lines += ["}", "MOTION", f"Frames: {len(table)}", "Frame Time: 0.0083333"]
    path.write_text("\n".join([*lines, *(" ".join(f"{v:.6f}" for v in row) for row in table)]) + "\n")


def assert_same_motion(motion, truth: Truth, step: int, gaze_degrees: float = 0.5) -> None:
    """Joints to a millimetre and gaze, apart from where the recording stands and faces on the floor (every step-th frame)."""
    joints, gaze = truth.joints[::step], truth.gaze[::step]
    assert len(motion) == len(joints)
    assert motion.visible[:, 5:].all()

    def from_hips(points, gaze):
        hips = points[:, 11:13].mean(1, keepdims=True)
        line = (points[0, 11] - points[0, 12])[:2]
        c, s = line / np.linalg.norm(line)
        turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        return (points[:, 5:] - hips) @ turn.T, (hips[:, 0] - hips[0, 0]) @ turn.T, gaze @ turn.T

    for got, right in zip(from_hips(motion.joints, motion.world_from_head[:, :3, 0])[:2], from_hips(joints, gaze)[:2]):
        np.testing.assert_allclose(got, right, atol=1e-3)
    got, right = from_hips(motion.joints, motion.world_from_head[:, :3, 0])[2], from_hips(joints, gaze)[2]
    assert np.degrees(np.arccos(np.clip((got * right).sum(1), -1, 1))).max() < gaze_degrees
    assert motion.head == "recorded"
