"""Recorded human motion as COCO joints: CMU npz, BVH and ASF/AMC files, resampled to 30 Hz, metres, z up.

    read_motions(path)  -> list[Motion]      any of the formats, chosen by the file's ending

Malformed input raises MocapError with the file and, for text formats, the line.
"""

from internlm.data.mocap.motion import MocapError, Motion
from internlm.data.mocap.read import read_motions

__all__ = ["MocapError", "Motion", "read_motions"]
