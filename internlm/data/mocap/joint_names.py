"""Which joint of a skeleton is which, whatever the program that wrote the file calls it.

Names are taken apart into a side and a part: ``mixamorig:LeftUpLeg``, ``Bip01 L Thigh``, ``thigh.L``, ``J_Bip_L_UpperLeg``,
``upper_leg_l``, ``lfemur`` and ``LeftHip`` are all the left leg's first joint. One part can mean two joints (``LeftShoulder``
is the collar bone in one program and the upper arm in another), so parts are tried in order, and each joint of a limb must
hang on the one before.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from internlm.data.mocap.motion import MocapError
from internlm.data.store import COCO_JOINTS

HEAD, NECK = "head", "neck"
# The parts that a joint is called, the surest first; of a limb a row a joint. A bone is named like the joint at which it begins.
# Blender's Rigify numbers the spine up to the head. The words of "tail" say nothing after the part.
_NAMES = json.loads(Path(__file__).with_name("joint_names.json").read_bytes())
ARM, LEG, HEADS, NECKS, TAIL = (_NAMES[what] for what in ("arm", "leg", "head", "neck", "tail"))
LIMBS = ((5, ARM), (11, LEG))  # COCO number of the left limb's first joint; right is one more, the next joint two more
PARTS = frozenset(part for limb in (ARM, LEG) for level in limb for part in level) | {*HEADS, *NECKS}
LEFT, RIGHT = ("left", "l"), ("right", "r")
MOST = 16  # joints of a side that are tried for one place in a limb
MAP_KEYS = (*COCO_JOINTS, HEAD, NECK)


class UnknownJoints(MocapError):
    """The names do not tell the joints apart; the message says which, without the file."""


def find_joints(
    names: Sequence[str],
    parents: Sequence[int] | None = None,
    *,
    limb_joints: int = 3,
    limb_ends: Mapping[int, int] | None = None,
) -> dict[int | str, int]:
    """COCO joint number, ``HEAD`` or ``NECK`` -> place in ``names``: whole limbs, and the head and the neck where there are any.

    parents: place of each joint's parent, -1 for a root; None = the hierarchy is not known and not asked for.
    limb_joints: 2 where a bone's far end is the limb's last joint (ASF), whether a further bone begins there or not.
    limb_ends: place of the nameless end below a joint, for limbs that end without a hand or a foot.
    """
    found: dict[int | str, int] = {}
    parted = [_parts(name) for name in names]
    for first, limb in LIMBS:
        for side in (0, 1):
            levels = [_ranked(parted, side, parts) for parts in limb[:limb_joints]]
            if limb_joints == 3 and not levels[2] and limb_ends:
                levels[2] = [(0, 0, limb_ends[joint]) for _, _, joint in levels[1] if joint in limb_ends]
            chain = _chain(levels, parents, names)
            found |= {first + 2 * level + side: joint for level, joint in enumerate(chain)}
    if head := _chain([_ranked(parted, None, HEADS)], parents, names):
        found[HEAD] = head[0]
    if necks := _ranked(parted, None, NECKS):
        found[NECK] = necks[0][2]  # of several the first, which files list from below
    return found


def describe_names(names: Sequence[str]) -> str:
    """The names of a file for a message, shortened where there are very many."""
    shown = [name for name in names if name]
    more = f" and {len(shown) - 80} more" if len(shown) > 80 else ""
    return ", ".join(name[:40] for name in shown[:80]) + more


def describe_roles(roles: Sequence[int | str]) -> str:
    return ", ".join(role if isinstance(role, str) else COCO_JOINTS[role] for role in roles)


def recognised(
    names: Sequence[str], parents: Sequence[int], joint_map: Mapping[str, str] | None, **how: Any
) -> tuple[dict[int | str, int], dict[int | str, int]]:
    """What the names tell (``find_joints``; with a map they need tell nothing), and what the map says. Raises UnknownJoints."""
    try:
        found = find_joints(names, parents, **how)
    except UnknownJoints:
        if joint_map is None:
            raise
        found = {}
    return found, {} if joint_map is None else apply_map(joint_map, names)


def apply_map(joint_map: Mapping[str, str], names: Sequence[str]) -> dict[int | str, int]:
    """The joints that the map names. Raises UnknownJoints for keys and names that do not exist."""
    unknown = [key for key in joint_map if key not in MAP_KEYS]
    missing = [name for name in joint_map.values() if name not in names]
    if unknown or missing or not joint_map:
        raise UnknownJoints(
            f"the joint map must give COCO joint names ({', '.join(COCO_JOINTS)}; also head, neck) names of the file; "
            f"not COCO: {unknown}, not in the file: {missing}; the file's names are {describe_names(names)}"
        )
    if twice := [name for name in joint_map.values() if list(names).count(name) > 1]:
        raise UnknownJoints(f"the joint map names {twice[0]!r}, which the file has {list(names).count(twice[0])} times")
    roles = {key: key if key in (HEAD, NECK) else COCO_JOINTS.index(key) for key in joint_map}
    return {roles[key]: list(names).index(name) for key, name in joint_map.items()}


def read_joint_map(path: str | os.PathLike) -> dict[str, str]:
    """COCO joint name, or head or neck -> name in the motion files, from a JSON object. Raises MocapError."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise MocapError(f"{path}: no joint map: {error}") from None
    return as_joint_map(content, path)


def as_joint_map(content: object, path: str | os.PathLike) -> dict[str, str]:
    """The content of a joint map's file as ``read_joint_map`` returns it. Raises MocapError naming ``path``."""
    known = isinstance(content, dict) and content and all(key in MAP_KEYS and isinstance(v, str) for key, v in content.items())
    if not known:
        raise MocapError(f"{path}: must give COCO joint names ({', '.join(MAP_KEYS)}) the motion file's joint names")
    return content


def _parts(name: str) -> tuple[int | None, dict[str, int]]:
    """Side (0 left, 1 right, None) of a name and the known parts it may mean, each with how much was dropped to see it."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_]+", re.split(r"[:|]", name)[-1])
    words = [word.lower().lstrip("0") or "0" for word in words]
    sides = [side for word in words for side, known in enumerate((LEFT, RIGHT)) if word in known]
    side = sides[0] if sides else None
    words = [word for word in words if word not in (*LEFT, *RIGHT)]
    parts: dict[str, int] = {}
    for stop in range(len(words), 0, -1):
        for start in range(stop):
            part, lost = "".join(words[start:stop]), start + 2 * (len(words) - stop)
            if part in PARTS:
                parts.setdefault(part, lost)
            elif side is None and (fused := _fused(part)):
                return fused[0], {fused[1]: lost}
        if not (words[stop - 1].isdigit() or words[stop - 1] in TAIL):
            break
    return side, parts


def _fused(word: str) -> tuple[int, str] | None:
    """Side and part of names in one word: ``lfemur``, ``righthand``, ``kneeleft``."""
    for side, (long, short) in enumerate((LEFT, RIGHT)):
        for rest in (word.removeprefix(long), word.removesuffix(long), word.removeprefix(short)):
            if rest != word and rest in PARTS:
                return side, rest
    return None


def _ranked(
    parted: Sequence[tuple[int | None, dict[str, int]]], side: int | None, parts: Sequence[str]
) -> list[tuple[int, int, int]]:
    """(rank of the part, how much of the name was dropped, place) of a side's joints that may be one of ``parts``, best first."""
    return sorted(
        (rank, known[part], place)
        for rank, part in enumerate(parts)
        for place, (its_side, known) in enumerate(parted)
        if its_side == side and part in known
    )


def _chain(levels: list[list[tuple[int, int, int]]], parents: Sequence[int] | None, names: Sequence[str]) -> list[int]:
    """The best joints, one a level, each below the one before; [] where there are none."""
    fitting = [
        chain
        for chain in product(*(level[:MOST] for level in levels))
        if len({joint for _, _, joint in chain}) == len(chain)
        and (parents is None or all(_is_below(b[2], a[2], parents) for a, b in pairwise(chain)))
    ]
    if not fitting:
        return []
    # The rank of each level counts first, then what was dropped of the names.
    best = min(fitting, key=_cost)
    rivals = [[joint for _, _, joint in chain] for chain in fitting if _cost(chain) == _cost(best)]
    first = rivals[0]
    for other in rivals[1:]:
        for a, b in zip(first, other):
            if a != b:
                # Of two joints of like names on one chain the upper one is meant: the wrist, not the hand's own bone below it.
                if parents is None or not (_is_below(a, b, parents) or _is_below(b, a, parents)):
                    raise UnknownJoints(f"{names[a]!r} and {names[b]!r} could be the same joint")
                first = other if _is_below(a, b, parents) else first
                break
    return first


def _cost(chain: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
    return sum(rank for rank, _, _ in chain), sum(lost for _, lost, _ in chain)


def _is_below(joint: int, ancestor: int, parents: Sequence[int]) -> bool:
    while joint >= 0 and joint != ancestor:
        joint = parents[joint]
    return joint >= 0
