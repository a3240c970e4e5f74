"""Small runs' configs and batches, and whether two runs have the same ones."""

from dataclasses import fields

import torch

from internlm.data import loader
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.streams import streams


def config(images=(), clips=(), *, steps=4, image_batch=4, clip_batch=2, workers=0, seed=1, mixing="both", **data) -> Config:
    return Config.model_validate(
        {
            "stage": "joint" if clip_batch else "pretrain",
            "seed": seed,
            "model": {"image_size": 32, "local_image_size": 16, "patch_size": 8, "hidden_size": 32, "num_heads": 2},
            "data": {
                "images": tuple(map(str, images)),
                "clips": tuple(map(str, clips)),
                "workers": workers,
                "clip": {"steps": 2, "crop_scale": (0.5, 1.0), "color_jitter": 0.5},
                "crops": {"local_crops": 2},
                **data,
            },
            "train": {"steps": steps, "image_batch": image_batch, "clip_batch": clip_batch, "accumulation": 1, "mixing": mixing},
        }
    )


def training_batches(config, start_step=0, **options):
    """A run's batches from a step on."""
    return loader.training_batches(
        streams(config), range(start_step, config.train.steps), seed=config.seed, data=config.data, **options
    )


def pairs_of(batches) -> list:
    """(images, clips) of each step, None where it has none."""
    return [(found.get("image"), found.get("clip")) for found in batches]


def equal(one, other) -> bool:
    if one is None or other is None:
        return one is other
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


def same(ones, others) -> bool:
    ones, others = pairs_of(ones), pairs_of(others)
    return len(ones) == len(others) > 0 and all(equal(a, c) and equal(b, d) for (a, b), (c, d) in zip(ones, others))
