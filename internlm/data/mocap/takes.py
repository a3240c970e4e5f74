"""Recorded motion as takes without images: poses at 30 Hz in world metres, and the head as a camera pose."""

import re

import numpy as np

from internlm.data.mocap.motion import RATE, Motion
from internlm.data.store import PoseTrack, TakeInfo
from internlm.egoworld.body import head_camera

CAMERA_PITCH = np.radians(8.0)  # glasses look a little down, as in EgoWorld


def motion_take(
    motion: Motion, *, split: str | None = None, labels: dict[str, str] | None = None, average_face: bool = False
) -> tuple[TakeInfo, PoseTrack]:
    """The take of one motion, for ``StoreWriter.add_take(info, poses=track)``.

    The take is named <split>_<name> where the file marks a split (files repeat names in both), else <name>. A name with
    slashes (``walking/walking_1``) gives the label ``action``. split: of motions without a mark (default "train").

    visible: joints of the recording; an average face put on a recorded head is left invisible unless ``average_face``.
    world_from_camera: glasses on the head (``extra["head"]`` says whether its orientation is recorded or estimated from
    points); no rows where the file has no head.
    """
    name = re.sub(r"[^\w.-]+", "_", motion.name).strip(".") or "motion"
    action = motion.name.partition("/")[0] if "/" in motion.name else None
    visible = motion.visible.copy()
    if motion.face == "average" and not average_face:
        visible[:, :5] = False
    frames = np.arange(len(motion), dtype=np.int64)
    head = motion.world_from_head
    extra = {"head": motion.head, "face": motion.face if visible[:, :5].any() else None, "source_rate_hz": motion.source_rate}
    extra |= {"source_up": motion.source_up, "source_unit_m": motion.source_unit} if motion.source_up else {}
    info = TakeInfo(
        name=f"{motion.split}_{name}" if motion.split else name,
        uid=motion.name,
        split=motion.split or split or "train",
        frame_rate=RATE,
        pose_space="world",
        labels={**({"action": action} if action else {}), **(labels or {})},
        source="mocap",
        extra=extra,
    )
    joints = np.where(visible[..., None], motion.joints, 0.0).astype(np.float32)
    cameras = np.empty((0, 4, 4)) if head is None else head_camera(head, CAMERA_PITCH)
    return info, PoseTrack(frames, joints, visible, frames[: len(cameras)], cameras)
