"""The take store: the one on-disk contract between recordings and training. numpy only (Pillow for depth), no torch.

    store.json                        {"format": "egoagent-take-store", "version": 1 (2: with columns), "joints": [17 names]}
    takes/<take_name>/take.json       TakeInfo
    takes/<take_name>/frames.tar      packed frames, a plain tar of frame_<number>.jpg (or .png), with
    takes/<take_name>/frames.idx.npy  int64 [F, 3]: frame number, byte offset and length of the image in the tar
    takes/<take_name>/frames/         or loose frames: frame_<number>.jpg (or .png), zero-padded or not
    takes/<take_name>/poses.npz       optional PoseTrack: frames int64 [N], joints float32 [N, 17, 3], visible bool [N, 17],
                                      camera_frames int64 [M], world_from_camera float64 [M, 4, 4]
    takes/<take_name>/labels.npz      optional ground truth by frame number: frames int64 [L] and arrays [L, ...]
    takes/<take_name>/<column>.*      optional columns: depth, gaze, actions, objects, ids, events, tokens, features (``columns``)

Conventions: metres, world right-handed with z up, camera axes as in OpenCV (x right, y down, z forward), images upright.
Everything is addressed by *frame number*, an index at ``frame_rate``; images may exist for every k-th number only, and a
missing number is a gap, never a shift. Take folders starting with a dot are unfinished and invisible. The same takes written
in the same way are the same bytes: no file holds a time, a path or a random name.
"""

from internlm.data.store.columns import KINDS, Column, EventColumn, PackedColumn, StoredRows
from internlm.data.store.contract import COCO_JOINTS, SPLITS, Camera, DiskFullError, PoseTrack, StoreError, TakeConflict, TakeInfo
from internlm.data.store.reader import Take, TakeStore
from internlm.data.store.writer import StoreWriter

__all__ = [
    "COCO_JOINTS", "KINDS", "SPLITS", "Camera", "Column", "DiskFullError", "EventColumn", "PackedColumn", "PoseTrack",
    "StoreError", "StoreWriter", "StoredRows", "Take", "TakeConflict", "TakeInfo", "TakeStore",
]  # fmt: skip
