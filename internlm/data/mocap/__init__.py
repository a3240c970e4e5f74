"""Recorded human motion as COCO joints: npz, BVH and ASF/AMC files, resampled to 30 Hz, metres, z up.

    read_motions(path)   -> list[Motion]          any of the formats, chosen by the file's ending and content
    read_joint_map(path) -> dict                  joint names of one's own, for read_motions
    motion_take(motion)  -> TakeInfo, PoseTrack   a take of the store that has poses and no images

Malformed input raises MocapError with the file and, for text formats, the line.
"""

from internlm.data.mocap.joint_names import as_joint_map, read_joint_map
from internlm.data.mocap.motion import MocapError, Motion
from internlm.data.mocap.posture import UNITS, WORLD_FROM_FILE, parse_unit
from internlm.data.mocap.read import read_motions
from internlm.data.mocap.takes import motion_take

UP_AXES = tuple(WORLD_FROM_FILE)

__all__ = [
    "UNITS", "UP_AXES", "MocapError", "Motion", "as_joint_map", "motion_take", "parse_unit", "read_joint_map", "read_motions",
]  # fmt: skip
