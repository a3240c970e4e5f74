"""EgoAgent's predictor and observer on whole clips: what comes next, and predictions fed back as actions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from internlm.data.batch import ClipBatch
from internlm.data.view import normalise
from internlm.modality.frames import DinoHead
from internlm.trunk.cache import KVCache

from ..base import Foreseen
from .network import EgoAgent, EgoNetwork
from .sequence import clip_layout

STATES = ("bottleneck", "hidden", "logits")


def normalise_clip(images: Tensor) -> Tensor:
    """uint8 [B, F, 3, S, S] -> the network's float input of the same shape."""
    return normalise(images.flatten(0, 1)).unflatten(0, images.shape[:2])


@torch.no_grad()
def foresee(agent: EgoAgent, batch: ClipBatch, features: Sequence[str]) -> Foreseen:
    """Both branches over a clip. The observer sees I_2..I_{T+1} together, as in training, and I_1 (never shown there) alone."""
    images = normalise_clip(batch.images)
    readout = agent.predictor.forward_clip(images[:, :-1], batch.poses, batch.visible, batch.past_poses, batch.past_visible)
    seen = torch.cat([agent.observer.encode_clip(images[:, :1]), agent.observer.encode_clip(images[:, 1:])], dim=1)
    prediction = _read(agent.predictor.head, readout.state, features)
    return Foreseen(prediction, _read(agent.observer.head, seen, features), readout.action)


def _read(head: DinoHead, hidden: Tensor, features: Sequence[str]) -> dict[str, Tensor]:
    readers = {"hidden": lambda: hidden, "bottleneck": lambda: head.bottleneck(hidden), "logits": lambda: head(hidden)}
    return {name: readers[name]() for name in features}


@torch.no_grad()
def roll_out(predictor: EgoNetwork, batch: ClipBatch, first: int, frames: int, moves: Tensor | None) -> Tensor:
    """See ``Foresees.roll_out``. A predicted joint counts as seen where it was seen last: one never recorded must not appear."""
    images = normalise_clip(batch.images[:, :frames])
    patches = predictor.stem(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    past, past_visible, steps = batch.past_poses, batch.past_visible, batch.poses.shape[1]
    layout, cache = clip_layout(patches.shape[2], steps, predictor.config.sequence, frames), KVCache()
    seen = past_visible[:, first].any(1, keepdim=True).expand_as(past_visible[:, first])[:, None]
    readout = predictor.append(
        cache,
        layout,
        patches=patches[:, : first + 1],
        past=(past[:, : first + 1], past_visible[:, : first + 1]),
        actions=(batch.poses[:, :first], batch.visible[:, :first]),
    )
    chunks = [readout.action[:, -1:]]
    for step in range(first + 1, steps):
        before = chunks[-1] if moves is None else _turned(moves[:, step - 1], chunks[-1][:, 0])[:, None]
        image = patches[:, step : step + 1] if step < frames else None
        chunks.append(predictor.append(cache, layout, patches=image, past=(before, seen), actions=(chunks[-1], seen)).action)
    return torch.cat(chunks, dim=1)


def _turned(transform: Tensor, points: Tensor) -> Tensor:
    """Points [C, P, J, 3] by rigid transforms [C, 4, 4]."""
    return points @ transform[:, None, :3, :3].transpose(-1, -2) + transform[:, None, None, :3, 3]
