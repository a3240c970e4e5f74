"""Clips of held-out takes through a trained agent, teacher-forced: what retrieval and motion are measured from."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from internlm.core.collectives import rank, world_size
from internlm.core.init import autocast
from internlm.data.batch import ClipBatch, to_device
from internlm.data.clips import ClipDataset
from internlm.data.view import normalise
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.network import EgoAgent, EgoNetwork

from .errors import EvalError
from .ranks import gathered

FEATURES = ("bottleneck", "hidden", "logits")


@dataclass(frozen=True)
class ClipOutputs:
    """C clips of T steps after one teacher-forced pass; all on the CPU, float32 and metres."""

    prediction: Tensor  # [C, T, D]: the feature of S'_{t+1}
    observed: Tensor  # [C, T+1, D]: the observer's feature of each frame
    action: Tensor  # [C, T, P, J, 3]: A'_t
    poses: Tensor  # [C, T, P, J, 3]
    visible: Tensor  # bool [C, T, P, J]
    past_poses: Tensor  # [C, T, P, J, 3]
    past_visible: Tensor  # bool [C, T, P, J]
    takes: Tensor  # int64 [C], row in the dataset's take table
    frame_numbers: Tensor  # int64 [C, T+1]


def open_clips(config: Config, paths: list[str] | tuple[str, ...], split: str | None) -> ClipDataset:
    """The clips of a split with a run's geometry and without augmentation."""
    clip = config.data.clip.model_copy(update={"crop_scale": (1.0, 1.0), "color_jitter": 0.0})
    model = config.model
    return ClipDataset(paths, split, clip, model.poses_per_step, model.num_joints, model.image_size)


@torch.no_grad()
def run_clips(
    agent: EgoAgent,
    batches: Iterable[ClipBatch],
    *,
    feature: str = "bottleneck",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ClipOutputs:
    """Run predictor and observer over clips, true actions fed up to each step (teacher forcing).

    ``feature``: bottleneck (unit vector of the head), hidden (at the state query) or logits (over the prototypes). On several
    processes ``batches`` are this one's share (``evaluation_clips(..., only=own_share)``, not mixed) and process 0 gets all
    clips in order, the others none.
    """
    if feature not in FEATURES:
        raise EvalError(f"feature {feature!r} is unknown; choose one of {', '.join(FEATURES)}")
    device = torch.device(device)
    agent = agent.to(device).eval()
    parts = list(gathered(lambda: _run_share(agent, batches, feature, device, dtype)).values())
    if not parts:
        if rank():
            return ClipOutputs(**{f.name: torch.empty(0) for f in fields(ClipOutputs)})
        raise EvalError("no clip could be read: there is nothing to evaluate")
    return ClipOutputs(**{f.name: torch.cat([part[f.name] for part in parts]) for f in fields(ClipOutputs)})


@torch.no_grad()
def read_feature(agent: EgoAgent, hidden: ClipOutputs, feature: str, *, batch: int = 16) -> ClipOutputs:
    """The outputs of ``run_clips(feature="hidden")`` with another feature of the same pass, ``batch`` clips at a time."""
    device = next(agent.parameters()).device

    def read(network: EgoNetwork, states: Tensor) -> Tensor:
        return torch.cat([_read(network, part.to(device), feature).float().cpu() for part in states.split(batch)])

    return replace(hidden, prediction=read(agent.predictor, hidden.prediction), observed=read(agent.observer, hidden.observed))


@torch.no_grad()
def _run_share(
    agent: EgoAgent, batches: Iterable[ClipBatch], feature: str, device: torch.device, dtype: torch.dtype
) -> dict[int, dict[str, Tensor]]:
    parts: dict[int, dict[str, Tensor]] = {}
    for place, batch in enumerate(batches):
        moved = to_device(batch, device)
        with autocast(device, dtype):
            images = normalise_clip(moved.images)
            actions = (moved.poses, moved.visible, moved.past_poses, moved.past_visible)
            readout = agent.predictor.forward_clip(images[:, :-1], *actions)
            observed = observe(agent.observer, images)
            prediction = _read(agent.predictor, readout.state, feature)
            gallery = _read(agent.observer, observed, feature)
        parts[place if world_size() == 1 else int(batch.sample_ids[0])] = {
            "prediction": prediction.float().cpu(),
            "observed": gallery.float().cpu(),
            "action": readout.action.float().cpu(),
            **{name: getattr(batch, name) for name in _KEPT},
        }
    return parts


def normalise_clip(images: Tensor) -> Tensor:
    """uint8 [B, F, 3, S, S] -> the network's float input of the same shape."""
    return normalise(images.flatten(0, 1)).unflatten(0, images.shape[:2])


def observe(observer: EgoNetwork, images: Tensor) -> Tensor:
    """States of a clip's T+1 frames as in training: I_2..I_{T+1} together, I_1 (which training never shows it) alone."""
    return torch.cat([observer.encode_clip(images[:, :1]), observer.encode_clip(images[:, 1:])], dim=1)


_KEPT = ("poses", "visible", "past_poses", "past_visible", "takes", "frame_numbers")


def _read(network: EgoNetwork, hidden: Tensor, feature: str) -> Tensor:
    if feature == "hidden":
        return hidden
    return network.head.bottleneck(hidden) if feature == "bottleneck" else network.head(hidden)
