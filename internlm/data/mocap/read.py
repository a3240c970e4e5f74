"""Choosing a reader by file ending and content."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from internlm.data.mocap.archive import Archive, read_positions
from internlm.data.mocap.motion import MocapError, Motion
from internlm.data.mocap.posture import Stated

FARTHEST = 1e5  # metres from the origin


def read_motions(
    path: str | os.PathLike,
    split: str | None = None,
    *,
    joint_map: Mapping[str, str] | None = None,
    body_model: str | os.PathLike | None = None,
    rate: float | None = None,
    up: str | None = None,
    unit: float | None = None,
) -> list[Motion]:
    """All motions of a file (.npz, .bvh, .amc with the .asf of its subject beside it), 30 Hz, metres, z up.

    split: keep only motions that the file marks "train" or "test"; files without marks keep all.
    joint_map: COCO joint name (or head, neck) -> name in the file, for names that are not known. An AMC bone is named by its
        far end.
    body_model: SMPL, SMPL-H or SMPL-X model (.npz), for npz files that hold its parameters (AMASS and the like).
    rate: frames a second; up: the file's axis that points up ("y", "z", "-y", ...); unit: metres a unit. Each in place of
        what the file says or leaves open.
    Raises MocapError when the file is missing, malformed, of unknown kind, or has no motion of that split.
    """
    from internlm.data.mocap.asf_amc import read_amc
    from internlm.data.mocap.bvh import read_bvh

    path, stated = Path(path), Stated(joint_map, rate, up, unit)
    readers = {
        ".npz": lambda p: read_npz(p, stated, body_model),
        ".bvh": lambda p: [read_bvh(p, stated)],
        ".amc": lambda p: [read_amc(p, stated)],
    }
    if path.suffix.lower() not in readers:
        raise MocapError(f"{path}: unknown kind of motion file; readable are {', '.join(sorted(readers))}")
    if not path.is_file():
        raise MocapError(f"{path}: no such file")
    with np.errstate(over="ignore", invalid="ignore"):
        motions = readers[path.suffix.lower()](path)
    for motion in motions:
        _check_finite(path, motion)
    kept = [motion for motion in motions if split is None or motion.split in (None, split)]
    if not kept:
        raise MocapError(f"{path}: has no motion of split {split!r}; its splits are {sorted({str(m.split) for m in motions})}")
    return kept


def _check_finite(path: Path, motion: Motion) -> None:
    """Numbers that a file may hold can still overflow on the way to positions."""
    head = motion.world_from_head
    if not np.isfinite(motion.joints).all() or np.abs(motion.joints).max(initial=0) > FARTHEST:
        raise MocapError(f"{path}: motion {motion.name!r} leaves every room: joints farther than {FARTHEST:g} m, or not finite")
    if head is not None and not np.isfinite(head).all():
        raise MocapError(f"{path}: motion {motion.name!r} has a head whose direction is undefined")


def read_npz(path: Path, stated: Stated, body_model: str | os.PathLike | None = None) -> list[Motion]:
    """An archive of joint positions (archive.py) or of body-model parameters (smpl.py), told apart by its keys."""
    from internlm.data.mocap.smpl import is_body_model_motion, read_smpl

    archive = Archive(path)
    if stated.joint_map is None and is_body_model_motion(archive):
        return [read_smpl(archive, body_model, stated)]
    if archive.first("joint_names", "pos_m", "joints") is None:
        raise MocapError(f"{path}: holds neither positions nor body-model parameters, but {', '.join(sorted(archive.keys))}")
    return read_positions(archive, stated)
