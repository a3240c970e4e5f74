"""Recorded human motion as COCO joints: npz, BVH and ASF/AMC files, resampled to 30 Hz, metres, z up.

    read_motions(path)   -> list[Motion]          any of the formats, chosen by the file's ending and content
    motion_take(motion)  -> TakeInfo, PoseTrack   a take of the store that has poses and no images

Malformed input raises MocapError with the file and, for text formats, the line.
"""

from internlm.data.mocap.motion import MocapError, Motion
from internlm.data.mocap.read import read_motions
from internlm.data.mocap.takes import motion_take

__all__ = ["MocapError", "Motion", "motion_take", "read_motions"]
