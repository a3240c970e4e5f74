"""A tiny configuration and random batches that the training tests share."""

import numpy as np
import torch

from internlm.checkpoint.manager import CheckpointManager
from internlm.data.batch import ClipBatch, ImageBatch
from internlm.systems.egoagent.config import EgoAgentConfig as Config

PARTS = ("predictor", "observer", "loss", "optimizer", "rng")
NEUTRAL = torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 0])
STEPS, POSES, JOINTS, SIZE, SMALL = 2, 1, 3, 16, 8


def tiny_config(run_dir=None, stage="joint", **sections) -> Config:
    """A joint run of 8 steps at toy size; keyword sections are laid over."""
    values = {
        "run_dir": None if run_dir is None else str(run_dir),
        "stage": stage,
        "model": {
            "hidden_size": 16, "num_layers": 1, "num_heads": 2, "mlp_multiple_of": 8, "image_size": SIZE,
            "local_image_size": SMALL, "patch_size": 8, "head_hidden": 16, "head_bottleneck": 8, "prototypes": 12,
            "poses_per_step": POSES, "num_joints": JOINTS,
        },
        "data": {"clip": {"steps": STEPS, "frame_stride": 1}, "crops": {"local_crops": 1}},
        "optim": {"lr": 1e-3, "momentum": 0.9},
        "train": {
            "steps": 8, "image_batch": 4, "clip_batch": 4 if stage == "joint" else 0, "accumulation": 1,
            "log_every": 1, "checkpoint_every": 3,
        },
        "monitor": {"tensorboard": False, "progress": False, "health_every": 2},
    }  # fmt: skip
    for name, section in sections.items():
        values[name] = values[name] | section if name in values else section
    return Config.model_validate(values)


def image_batch(step: int, count: int = 4) -> ImageBatch:
    """Random views, a pure function of the step."""
    rng = np.random.default_rng((1, step))
    return ImageBatch(
        global_crops=torch.from_numpy(rng.integers(0, 256, (count, 2, 3, SIZE, SIZE), np.uint8)),
        local_crops=torch.from_numpy(rng.integers(0, 256, (count, 1, 3, SMALL, SMALL), np.uint8)),
        global_photometric=NEUTRAL.expand(count, 2, 8).contiguous(),
        local_photometric=NEUTRAL.expand(count, 1, 8).contiguous(),
        sample_ids=torch.arange(step * count, (step + 1) * count),
    )


def clip_batch(step: int, count: int = 4) -> ClipBatch:
    """Random clips, a pure function of the step; joints are visible at random."""
    rng = np.random.default_rng((2, step))
    shape = (count, STEPS, POSES, JOINTS)
    visible, past_visible = (torch.from_numpy(rng.random(shape) < 0.6) for _ in range(2))
    poses, past_poses = (torch.from_numpy(rng.normal(size=(*shape, 3)).astype(np.float32)) for _ in range(2))
    return ClipBatch(
        images=torch.from_numpy(rng.integers(0, 256, (count, STEPS + 1, 3, SIZE, SIZE), np.uint8)),
        photometric=NEUTRAL.expand(count, 8).contiguous(),
        poses=poses * visible[..., None],
        visible=visible,
        past_poses=past_poses * past_visible[..., None],
        past_visible=past_visible,
        frame_numbers=torch.arange(STEPS + 1).expand(count, -1).contiguous(),
        takes=torch.zeros(count, dtype=torch.int64),
        sample_ids=torch.arange(step * count, (step + 1) * count),
    )


def both(images, clips=None) -> dict:
    """A step's batches by stream, of which either may be missing."""
    return {name: batch for name, batch in (("image", images), ("clip", clips)) if batch is not None}


def batches(start: int):
    """Endless batches of both kinds from a step on."""
    step = start
    while True:
        yield both(image_batch(step), clip_batch(step))
        step += 1


def weights(run_dir, names=PARTS):
    parts = CheckpointManager(run_dir / "checkpoints").load().parts
    return {f"{part}.{name}": tensor for part in names for name, tensor in parts[part].items()}


def same_weights(first, second, parts=PARTS):
    first, second = weights(first, parts), weights(second, parts)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
