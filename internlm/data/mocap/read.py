"""Choosing a reader by file ending, and the npz reader."""

import os
from pathlib import Path

import numpy as np

from internlm.data.mocap.motion import RATE, Z_UP_FROM_Y_UP, MocapError, Motion, build_motion, resample

# COCO joint number -> joint name in CMU's BVH naming.
BVH_JOINTS = {
    5: "LeftArm", 6: "RightArm", 7: "LeftForeArm", 8: "RightForeArm", 9: "LeftHand", 10: "RightHand",
    11: "LeftUpLeg", 12: "RightUpLeg", 13: "LeftLeg", 14: "RightLeg", 15: "LeftFoot", 16: "RightFoot",
}  # fmt: skip
HEAD, NECK = "Head", "Neck"


def read_motions(path: str | os.PathLike, split: str | None = None) -> list[Motion]:
    """All motions of a file (.npz, .bvh, .amc with the .asf of its subject beside it), 30 Hz, metres, z up.

    split: keep only motions that the file marks "train" or "test"; files without marks keep all.
    Raises MocapError when the file is missing, malformed, of unknown kind, or has no motion of that split.
    """
    from internlm.data.mocap.asf_amc import read_amc
    from internlm.data.mocap.bvh import read_bvh

    path = Path(path)
    readers = {".npz": read_npz, ".bvh": lambda p: [read_bvh(p)], ".amc": lambda p: [read_amc(p)]}
    if path.suffix.lower() not in readers:
        raise MocapError(f"{path}: unknown kind of motion file; readable are {', '.join(sorted(readers))}")
    if not path.is_file():
        raise MocapError(f"{path}: no such file")
    motions = readers[path.suffix.lower()](path)
    kept = [motion for motion in motions if split is None or motion.split in (None, split)]
    if not kept:
        raise MocapError(f"{path}: has no motion of split {split!r}; its splits are {sorted({str(m.split) for m in motions})}")
    return kept


def read_npz(path: Path) -> list[Motion]:
    """Positions of many sequences in one archive: names, lengths, pos_m [sum, J, 3] metres, joint_names, fps, up."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            data = {key: archive[key] for key in archive.files}
    except Exception as error:  # zipfile, zlib and numpy each raise their own kinds for a damaged archive
        raise MocapError(f"{path}: cannot be read: {error}") from None
    missing = [key for key in ("names", "lengths", "pos_m", "joint_names") if key not in data]
    if missing:
        raise MocapError(f"{path}: lacks {', '.join(missing)}")
    names, lengths, positions = data["names"], data["lengths"], data["pos_m"]
    columns = {str(name): column for column, name in enumerate(np.atleast_1d(data["joint_names"]))}
    if positions.ndim != 3 or positions.shape[1:] != (len(columns), 3):
        raise MocapError(
            f"{path}: pos_m is {list(positions.shape)}, expected [frames, {len(columns)}, 3] for the joints it names"
        )
    if lengths.ndim != 1 or lengths.shape != names.shape or lengths.dtype.kind not in "iu" or (lengths < 1).any():
        raise MocapError(
            f"{path}: lengths {lengths.dtype} {list(lengths.shape)} are not one positive count for each of {names.size} names"
        )
    if lengths.sum() != len(positions):
        raise MocapError(f"{path}: lengths sum to {lengths.sum()}, pos_m has {len(positions)} frames")
    absent = [name for name in (*BVH_JOINTS.values(), HEAD, NECK) if name not in columns]
    if absent:
        raise MocapError(f"{path}: joint_names lacks {', '.join(absent)}")
    if not np.isfinite(positions).all():
        raise MocapError(f"{path}: pos_m holds values that are not finite")
    up, rate = str(data.get("up", "y")), float(data.get("fps", RATE))
    if up not in ("y", "z") or not rate > 0:
        raise MocapError(f"{path}: up is {up!r} (y or z) and fps {rate} (positive)")
    motions = []
    for name, stop, length in zip(names, np.cumsum(lengths), lengths, strict=True):
        points = resample(positions[stop - length : stop].astype(np.float64), rate)
        points = points @ Z_UP_FROM_Y_UP.T if up == "y" else points
        split, _, rest = str(name).partition("/")
        known = split in ("train", "test")
        body = {joint: points[:, columns[source]] for joint, source in BVH_JOINTS.items()}
        motions.append(
            build_motion(
                rest if known else str(name),
                body,
                points[:, columns[HEAD]],
                points[:, columns[NECK]],
                None,
                split if known else None,
            )
        )
    return motions
