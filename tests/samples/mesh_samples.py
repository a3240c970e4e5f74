"""What runs on every mesh train with, so that their figures can be compared."""

from dataclasses import fields, replace

import pytest
import torch
from train_samples import both, clip_batch, image_batch, tiny_config

from internlm.parallel.plan import local

GLOBAL = 4  # images and clips of a step over all processes
TOLERANCE = 1e-5
# What is trained: the one process's figures that each mesh must repeat.
RUNS = {
    "pretrain": dict(stage="pretrain"),
    "joint": dict(stage="joint"),
    "blind": dict(stage="joint"),  # every second clip has no visible pose: the whole batch of one process of two
    "sinkhorn": dict(stage="joint", loss={"targets": "sinkhorn", "koleo_weight": 0.1, "row_chunk": 3}),
    "pieces": dict(stage="joint", train={"accumulation": 2}),
}


def healthy(state) -> None:
    """Widen the DINO head's narrow initial weights, which at toy widths leave outputs of 1e-4 and gradients of 1e4.

    A factor for all, so that it means the same on every mesh.
    """
    for network in (state.system.agent.predictor, state.system.agent.observer):
        for parameter in network.head.parameters():
            local(parameter.detach()).mul_(1 / (0.02 * 16**0.5))


def configured(run: str, parallel: dict, data: int):
    sections = {name: value for name, value in RUNS[run].items() if name not in ("stage", "train")}
    stage = RUNS[run]["stage"]
    own = GLOBAL // data
    train = {"image_batch": own, "clip_batch": own if stage == "joint" else 0} | RUNS[run].get("train", {})
    if train.get("accumulation", 1) > own:
        pytest.fail("a case has more pieces than samples")
    # Adam's step is the gradient's sign where eps is far below it, rounding's sign where the gradient is zero.
    optim = {"lr": 1e-3, "momentum": 0.9, "eps": 1e-5}
    return tiny_config(stage=stage, model={"init_std": 0.1}, optim=optim, train=train, parallel=parallel, **sections)


def share(batch, rank: int, world: int):
    """What a stream gives a process: every world-th sample of the step's run of positions."""
    return type(batch)(**{field.name: getattr(batch, field.name)[rank::world] for field in fields(batch)})


def inputs(run: str, step: int, rank: int, world: int):
    images = share(image_batch(step, GLOBAL), rank, world)
    if RUNS[run]["stage"] == "pretrain":
        return both(images)
    clips = clip_batch(step, GLOBAL)
    if run == "blind":
        visible = clips.visible.clone()
        visible[1::2] = False
        clips = replace(clips, visible=visible, poses=clips.poses * visible[..., None])
    return both(images, share(clips, rank, world))


def near(found: dict, expected: dict) -> None:
    for part, tensors in expected.items():
        assert found[part].keys() == tensors.keys()
        for key, tensor in tensors.items():
            torch.testing.assert_close(found[part][key], tensor, rtol=TOLERANCE, atol=TOLERANCE, msg=f"{part}.{key}")
