"""EgoAgent without images as a forecaster: the same trunk, action query and pose head, rolled out over its own predictions."""

import torch
from torch import Tensor

from internlm.systems.egoagent.network import EgoNetwork
from internlm.systems.egoagent.sequence import clip_layout
from internlm.trunk.cache import KVCache

from ..errors import EvalError
from .baselines.fit import motion_loss


def chunks(poses: Tensor, size: int) -> Tensor:
    """``[B, F, J, 3]`` -> ``[B, F/P, P, J, 3]``."""
    if poses.shape[1] % size:
        raise EvalError(f"{poses.shape[1]} poses are not whole chunks of {size}; change --past, --future or model.poses_per_step")
    return poses.unflatten(1, (-1, size))


def roll_out(network: EgoNetwork, past: Tensor, poses: int) -> Tensor:
    """Observed ``[B, I, J, 3]`` -> the next ``poses`` poses ``[B, poses, J, 3]``, each chunk predicted from those before.

    The first observed chunk is only the past of the second.
    """
    known = chunks(past, network.config.poses_per_step)
    observed, wanted = known.shape[1], -(-poses // network.config.poses_per_step)
    ahead = _through_whole_sequences if network.training or torch.is_grad_enabled() else _through_a_cache
    return ahead(network, known, wanted)[:, observed:].flatten(1, 2)[:, :poses]


def _through_whole_sequences(network: EgoNetwork, known: Tensor, wanted: int) -> Tensor:
    """Every chunk reads all before it anew: for training, which needs the gradient of all of them.

    The pose of a chunk that is not known yet is a placeholder that its own action query does not see.
    """
    for _ in range(wanted):
        given = torch.cat((known[:, 1:], known[:, -1:]), dim=1)
        seen = torch.ones(given.shape[:-1], dtype=torch.bool, device=given.device)
        readout = network.forward_clip(None, given, seen, known, seen)
        known = torch.cat((known, readout.action[:, -1:]), dim=1)
    return known


def _through_a_cache(network: EgoNetwork, known: Tensor, wanted: int) -> Tensor:
    layout, cache = clip_layout(0, known.shape[1] + wanted - 1, network.config.sequence, frames=0), KVCache()
    past, given = known, known[:, 1:]
    for _ in range(wanted):
        seen = torch.ones(past.shape[:-1], dtype=torch.bool, device=past.device)
        readout = network.append(cache, layout, past=(past, seen), actions=(given, seen[:, : given.shape[1]]))
        past = given = readout.action[:, -1:]
        known = torch.cat((known, past), dim=1)
    return known


def loss(network: EgoNetwork, past: Tensor, future: Tensor, visible: Tensor) -> Tensor:
    """The rolled-out future, and every next chunk given the true ones (half the weight)."""
    rolled = motion_loss(roll_out(network, past, future.shape[1]), future, visible, past[:, -1:])
    whole = chunks(torch.cat((past, future), dim=1), network.config.poses_per_step)
    seen = torch.ones(whole[:, 1:].shape[:-1], dtype=torch.bool, device=whole.device)
    forced = network.forward_clip(None, whole[:, 1:], seen, whole[:, :-1], seen).action
    target, last = whole[:, 1:].flatten(0, 1), whole[:, :-1, -1:].flatten(0, 1)
    return rolled + 0.5 * motion_loss(forced.flatten(0, 1), target, torch.ones_like(target[..., 0], dtype=torch.bool), last)
