"""A working folder for commands that train in processes of their own."""

from pathlib import Path

import cv2
import numpy as np

from internlm.data.store import PoseTrack, StoreWriter, TakeInfo

CONFIG = """
stage = "joint"
model = dict(
    hidden_size=16, num_layers=1, num_heads=2, mlp_multiple_of=8, image_size=16, local_image_size=8, patch_size=8,
    head_hidden=16, head_bottleneck=8, prototypes=12, poses_per_step=5, pose_target="offset", pose_context=True,
)
data = dict(images=["store"], clips=["store"], workers={workers}, clip=dict(steps=2), crops=dict(local_crops=2))
optim = dict(lr=1e-3)
train = dict(steps=12, image_batch=4, clip_batch=2, accumulation=2, log_every=1, checkpoint_every=3, threads=1)
monitor = dict(progress=False, health_every=4)
"""


def working_folder(folder: Path) -> Path:
    """Fill a folder with a store of two short takes and two configs."""
    writer, frames = StoreWriter(folder / "store"), np.arange(40)
    for take in range(2):
        rng = np.random.default_rng(take)
        images = rng.integers(0, 256, (len(frames), 24, 24, 3), dtype=np.uint8)
        visible = rng.random((len(frames), 17)) < 0.8
        joints = rng.normal(size=(len(frames), 17, 3)).astype(np.float32) * visible[..., None]
        track = PoseTrack(frames, joints, visible, frames, np.tile(np.eye(4), (len(frames), 1, 1)))
        encoded = ((int(number), cv2.imencode(".png", image)[1].tobytes()) for number, image in zip(frames, images))
        writer.add_take(TakeInfo(f"take{take}", f"take{take}", "train", 30.0, None, "camera"), encoded, track)
    (folder / "run.py").write_text(CONFIG.format(workers=0))
    (folder / "workers.py").write_text(CONFIG.format(workers=2))
    return folder
