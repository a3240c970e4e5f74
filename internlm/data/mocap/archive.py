"""Motion in npz archives that give joint positions: many named sequences in one file, or one sequence.

joint_names [J]                   CMU's BVH names or COCO's, or any names with a joint map
pos_m or joints [sum, J, 3]       positions; metres unless ``unit_m`` (metres a unit) says otherwise
fps                               frames a second
names [S], lengths [S]            of many sequences; "train/..." and "test/..." mark their split; absent = one sequence
visible [sum, J]                  optional bool; positions that are not visible may hold anything
up                                the axis that points up: "y" (the default), "z", "-y", ...
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from internlm.data.mocap.joint_names import HEAD, NECK, UnknownJoints, apply_map, describe_names, find_joints
from internlm.data.mocap.motion import MocapError, Motion, build_motion, resample, resample_visible
from internlm.data.mocap.posture import BODY, NOTHING_STATED, WORLD_FROM_FILE, Stated, check_leg, positions_up
from internlm.data.store import COCO_JOINTS

# COCO joint number -> joint name in CMU's BVH naming.
BVH_JOINTS = {
    5: "LeftArm", 6: "RightArm", 7: "LeftForeArm", 8: "RightForeArm", 9: "LeftHand", 10: "RightHand",
    11: "LeftUpLeg", 12: "RightUpLeg", 13: "LeftLeg", 14: "RightLeg", 15: "LeftFoot", 16: "RightFoot",
}  # fmt: skip
CMU_HEAD = {HEAD: "Head", NECK: "Neck"}


class Archive:
    """The arrays of an npz file, each read when it is asked for: files may hold other arrays that cannot be read."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as archive:
                self.keys = set(archive.files)
        except Exception as error:  # zipfile, zlib and numpy each raise their own kinds for a damaged archive
            raise MocapError(f"{path}: cannot be read: {error}") from None

    def first(self, *keys: str) -> str | None:
        """The first of ``keys`` that the file has."""
        return next((key for key in keys if key in self.keys), None)

    def read(self, *keys: str) -> np.ndarray:
        """The array under the first of ``keys`` that exists; MocapError when none does or it cannot be read."""
        key = self.first(*keys)
        if key is None:
            raise MocapError(f"{self.path}: lacks {' or '.join(keys)}")
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                return archive[key]
        except Exception as error:
            raise MocapError(f"{self.path}: {key} cannot be read: {error}") from None

    def numbers(self, *keys: str) -> np.ndarray:
        """As ``read``, float64 and finite."""
        values = self.read(*keys)
        if values.dtype.kind not in "fiub":
            raise MocapError(f"{self.path}: {self.first(*keys)} is {values.dtype}, expected numbers")
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise MocapError(f"{self.path}: {self.first(*keys)} holds values that are not finite")
        if np.abs(values).max(initial=0) > 1e6:
            raise MocapError(f"{self.path}: {self.first(*keys)} holds {np.abs(values).max():g}, which is no metre and no radian")
        return values

    def error(self, message: str) -> MocapError:
        return MocapError(f"{self.path}: {message}")

    def up(self, stated: Stated) -> str | None:
        """The axis that points up: what the user states, or the file, or None."""
        up = stated.up or (str(self.read("up")) if "up" in self.keys else None)
        if up is not None and up.strip("-") not in ("y", "z"):
            raise self.error(f"up is {up!r} (y, z, -y or -z)")
        return up

    def rate(self, *keys: str) -> float:
        """Frames a second, plausible ones."""
        values = self.numbers(*keys)
        if values.size != 1 or not 0.5 <= float(values.reshape(-1)[0]) <= 2000:
            raise MocapError(f"{self.path}: {self.first(*keys)} is {values.reshape(-1)[:3]}, expected one rate in Hz")
        return float(values.reshape(-1)[0])


def read_positions(archive: Archive, stated: Stated = NOTHING_STATED) -> list[Motion]:
    """All sequences of an archive of positions. Those with a whole body, a head and a neck have an estimated head pose."""
    path = archive.path
    absent = [key for key in ("joint_names", "fps") if key not in archive.keys and not (key == "fps" and stated.rate)]
    if archive.first("pos_m", "joints") is None:
        absent.append("pos_m")
    if absent:
        raise MocapError(f"{path}: lacks {', '.join(absent)}{' (or state the rate with --rate)' * ('fps' in absent)}")
    columns = {str(name): column for column, name in enumerate(np.atleast_1d(archive.read("joint_names")))}
    positions, visible = _arrays(archive, columns, stated)
    up, rate = archive.up(stated), stated.rate or archive.rate("fps")
    sources = _sources(path, columns, stated)
    seen = visible[:, list(sources.values())].all(1)
    if seen.any():
        points = {role: positions[seen][:, column] for role, column in sources.items()}
        check_leg(points, archive.error)
        up = up or positions_up(points, "y", archive.error)
    up = up or "y"
    if up != "z":
        positions = positions @ WORLD_FROM_FILE[up].T
    whole = {*BODY, HEAD, NECK} <= sources.keys()
    joints = {role: column for role, column in sources.items() if role not in (HEAD, NECK)}
    motions = []
    for name, split, part in sequences(archive, len(positions)):
        if whole and visible[part].all():
            points = resample(positions[part], rate)
            body = {joint: points[:, column] for joint, column in joints.items()}
            motion = build_motion(name, body, points[:, sources[HEAD]], points[:, sources[NECK]], None, split)
            motion = replace(motion, source_rate=rate)
        else:
            motion = _joints_only(name, split, positions[part], visible[part], joints, rate)
        motions.append(motion)
    return motions


def _arrays(archive: Archive, columns: dict[str, int], stated: Stated) -> tuple[np.ndarray, np.ndarray]:
    path, key = archive.path, archive.first("pos_m", "joints")
    positions = archive.read(key)
    if positions.ndim != 3 or positions.shape[1:] != (len(columns), 3) or positions.dtype.kind not in "fiu":
        raise MocapError(
            f"{path}: {key} is {positions.dtype} {list(positions.shape)}, expected [frames, {len(columns)}, 3] "
            "for the joints it names"
        )
    visible = archive.read("visible") if "visible" in archive.keys else np.ones(positions.shape[:2], bool)
    if visible.shape != positions.shape[:2] or visible.dtype.kind not in "biu":
        raise MocapError(f"{path}: visible is {visible.dtype} {list(visible.shape)}, expected bool {list(positions.shape[:2])}")
    visible = visible.astype(bool)
    positions = np.where(visible[..., None], positions.astype(np.float64), 0.0)
    if not np.isfinite(positions).all():
        raise MocapError(f"{path}: {key} holds values that are not finite; mark missing joints in 'visible'")
    unit = stated.unit or (float(archive.numbers("unit_m").reshape(-1)[0]) if "unit_m" in archive.keys else 1.0)
    if not unit > 0:
        raise MocapError(f"{path}: unit_m is {unit}, expected the positive number of metres a unit")
    return positions * unit, visible


def sequences(archive: Archive, frames: int) -> Iterable[tuple[str, str | None, slice]]:
    """(name, split, rows) of every sequence."""
    path = archive.path
    if "names" not in archive.keys and "lengths" not in archive.keys:
        if not frames:
            raise MocapError(f"{path}: has no frames")
        return [(path.stem, None, slice(0, frames))]
    names, lengths = archive.read("names"), archive.read("lengths")
    if lengths.ndim != 1 or lengths.shape != names.shape or lengths.dtype.kind not in "iu" or (lengths < 1).any():
        raise MocapError(
            f"{path}: lengths {lengths.dtype} {list(lengths.shape)} are not one positive count for each of {names.size} names"
        )
    if int(lengths.sum()) != frames:
        raise MocapError(f"{path}: lengths sum to {lengths.sum()}, the positions have {frames} frames")
    found = []
    for name, stop, length in zip(names, np.cumsum(lengths), lengths, strict=True):
        split, _, rest = str(name).partition("/")
        known = split in ("train", "test")
        found.append((rest if known else str(name), split if known else None, slice(int(stop - length), int(stop))))
    return found


def _sources(path: Path, columns: dict[str, int], stated: Stated) -> dict[int | str, int]:
    """COCO joint number, head or neck -> column of the file."""
    names = list(columns)
    try:
        if stated.joint_map is not None:
            return {role: columns[names[place]] for role, place in apply_map(stated.joint_map, names).items()}
        if set(BVH_JOINTS.values()) <= columns.keys():
            known = {**BVH_JOINTS, **CMU_HEAD} if set(CMU_HEAD.values()) <= columns.keys() else BVH_JOINTS
            return {role: columns[source] for role, source in known.items()}
        plain = {name.lower().replace("_", "-").replace(" ", "-"): column for name, column in columns.items()}
        found: dict[int | str, int] = {joint: plain[name] for joint, name in enumerate(COCO_JOINTS) if name in plain}
        if len(found) >= 2:
            return found
        found = {role: columns[names[place]] for role, place in find_joints(names).items()}
    except UnknownJoints as unknown:
        raise MocapError(f"{path}: {unknown}") from None
    if not set(BODY) <= found.keys():
        raise MocapError(
            f"{path}: joint_names has neither COCO's names nor those of a whole body: {describe_names(names)}; "
            "give a joint map (--joints MAP.json) from COCO names to these"
        )
    return found


def _joints_only(
    name: str, split: str | None, positions: np.ndarray, visible: np.ndarray, sources: dict[int, int], rate: float
) -> Motion:
    joints, seen = np.zeros((len(positions), len(COCO_JOINTS), 3)), np.zeros((len(positions), len(COCO_JOINTS)), bool)
    for joint, column in sources.items():
        joints[:, joint], seen[:, joint] = positions[:, column], visible[:, column]
    joints, seen = resample_visible(joints, seen, rate)
    face = "recorded" if seen[:, :5].any() else None
    return Motion(name, split, joints, seen, None, head=None, face=face, source_rate=rate)
