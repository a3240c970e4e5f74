"""EgoAgent without images as a forecaster: the same trunk, action query and pose head, rolled out over its own predictions."""

from functools import lru_cache

import torch
from torch import Tensor, nn

from internlm.config.errors import ConfigError
from internlm.core.roles import NO_DECAY
from internlm.modality.body_pose import PoseHead, PoseProjector
from internlm.objective.motion import Counts, pose_distance
from internlm.trunk.backbone import build_trunk
from internlm.trunk.cache import KVCache
from internlm.trunk.layout import Layout, Part, SequenceKind, interleave

from .config import ForecasterRunConfig, PoseModelConfig
from .streams import WindowBatch


@lru_cache(maxsize=64)
def pose_layout(steps: int, kind: SequenceKind) -> Layout:
    """``action query | action | state query`` per step."""
    return interleave([(Part("action_query", 1, query=True), Part("action", 1), Part("state", 1, query=True))] * steps, kind)


class PoseNetwork(nn.Module):
    """EgoAgent's predictor of poses; its parameters have the same names."""

    roles = {"state_query": NO_DECAY, "action_query": NO_DECAY}

    def __init__(self, config: PoseModelConfig):
        super().__init__()
        self.config, hidden = config, config.hidden_size
        self.backbone = build_trunk(config)
        self.state_query = nn.Parameter(torch.randn(hidden) * 0.02)
        self.action_query = nn.Parameter(torch.randn(hidden) * 0.02)
        self.pose_projector = PoseProjector(hidden, config.poses_per_step, config.num_joints)
        self.pose_head = PoseHead(hidden, config.poses_per_step, config.num_joints, config.pose_target)
        if config.pose_context:
            self.context_projector = PoseProjector(hidden, config.poses_per_step, config.num_joints)

    def forward(self, chunks: Tensor, past: Tensor) -> Tensor:
        """Every chunk of ``[B, T, P, J, 3]`` metres, all visible, predicted from those before it; ``past`` is one chunk behind.

        A chunk's own poses are not seen by its query.
        """
        seen = torch.ones(chunks.shape[:-1], dtype=torch.bool, device=chunks.device)
        action = self.pose_projector(chunks, seen)
        queries = [query.to(action.dtype).expand_as(action) for query in (self.action_query, self.state_query)]
        if self.config.pose_context:
            queries[0] = queries[0] + self.context_projector(past, seen)
        layout = pose_layout(chunks.shape[1], self.config.sequence)
        hidden = self.backbone(torch.stack((queries[0], action, queries[1]), dim=2).flatten(1, 2), layout)
        return self.pose_head(hidden[:, layout.index["action_query"].flatten()], past, seen)[0]

    def append(self, cache: KVCache, chunks: Tensor, past: Tensor) -> Tensor:
        """The chunk ``[B, 1, P, J, 3]`` after all that ``cache`` has read and these: A chunks and the Q queries among and after
        them, of which the first call has one more. In eval mode and without gradients."""
        seen = torch.ones(past.shape[:-1], dtype=torch.bool, device=past.device)
        queries = self.action_query.expand(*past.shape[:2], -1)
        if self.config.pose_context:
            queries = queries + self.context_projector(past, seen)
        action, first = self.pose_projector(chunks, seen[:, : chunks.shape[1]]), past.shape[1] - chunks.shape[1]
        triples = torch.stack((action, self.state_query.expand_as(action), queries[:, first:]), dim=2).flatten(1, 2)
        tokens = torch.cat((queries[:, :first], triples), dim=1)
        stop = cache.seen + tokens.shape[1]
        hidden = self.backbone(tokens, pose_layout(-(-stop // 3), self.config.sequence)[cache.seen : stop], cache=cache)
        return self.pose_head(hidden[:, -1:], past[:, -1:], seen[:, -1:])[0]


def build(config: ForecasterRunConfig) -> PoseNetwork:
    return PoseNetwork(config.model)


def chunks(poses: Tensor, size: int) -> Tensor:
    """``[B, F, J, 3]`` -> ``[B, F/P, P, J, 3]``."""
    if poses.shape[1] % size:
        raise ConfigError(f"{poses.shape[1]} poses are not whole chunks of model.poses_per_step {size}")
    return poses.unflatten(1, (-1, size))


def roll_out(network: PoseNetwork, past: Tensor, poses: int) -> Tensor:
    """Observed ``[B, I, J, 3]`` -> the next ``poses`` poses ``[B, poses, J, 3]``, each chunk predicted from those before.

    The first observed chunk is only the past of the second.
    """
    known = chunks(past, network.config.poses_per_step)
    observed, wanted = known.shape[1], -(-poses // network.config.poses_per_step)
    ahead = _through_whole_sequences if network.training or torch.is_grad_enabled() else _through_a_cache
    return ahead(network, known, wanted)[:, observed:].flatten(1, 2)[:, :poses]


def _through_whole_sequences(network: PoseNetwork, known: Tensor, wanted: int) -> Tensor:
    """Every chunk reads all before it anew: for training, which needs the gradient of all of them.

    The pose of a chunk that is not known yet is a placeholder that its own action query does not see.
    """
    for _ in range(wanted):
        given = torch.cat((known[:, 1:], known[:, -1:]), dim=1)
        known = torch.cat((known, network(given, known)[:, -1:]), dim=1)
    return known


def _through_a_cache(network: PoseNetwork, known: Tensor, wanted: int) -> Tensor:
    cache, past, given = KVCache(), known, known[:, 1:]
    for _ in range(wanted):
        past = given = network.append(cache, given, past)
        known = torch.cat((known, past), dim=1)
    return known


def forecast(network: PoseNetwork, past: Tensor, poses: int, samples: int) -> Tensor:
    return roll_out(network, past, poses)


def loss(network: PoseNetwork, batch: WindowBatch, counts: Counts, speed_weight: float) -> Tensor:
    """The rolled-out future, and every next chunk given the true ones (half the weight)."""
    past, future = (chunks(poses, network.config.poses_per_step) for poses in (batch.past, batch.future))
    # While validating too: a cache is filled by calls other than the module's own, which do not gather divided weights.
    rolled = _through_whole_sequences(network, past, future.shape[1])[:, past.shape[1] :].flatten(1, 2)
    rolled = pose_distance(rolled, batch.future, batch.visible, counts, speed_weight=speed_weight)
    whole = torch.cat((past, future), dim=1)
    forced, target = network(whole[:, 1:], whole[:, :-1]).flatten(0, 1), whole[:, 1:].flatten(0, 1)
    everywhere = torch.ones_like(target[..., 0], dtype=torch.bool)
    return rolled + 0.5 * pose_distance(forced, target, everywhere, speed_weight=speed_weight)
