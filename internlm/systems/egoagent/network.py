"""EgoAgent: the predictor (student) and the observer (its moving average) around one interleaved transformer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from internlm.core.roles import NO_DECAY
from internlm.modality.body_pose import PoseHead, PoseProjector
from internlm.modality.frames import ConvStem, DinoHead
from internlm.trunk.backbone import build_trunk
from internlm.trunk.cache import KVCache
from internlm.trunk.layout import Layout

from .config import ModelConfig
from .sequence import clip_layout, frame_layout

Poses = tuple[Tensor, Tensor] | None  # [B, Q, P, J, 3], and which joints were seen


@dataclass(frozen=True)
class ClipReadout:
    """What the predictor reads out of a clip of T steps. No action where no action query was asked (``append``)."""

    action: Tensor | None  # float32 [B, T, P, J, 3], metres: A'_t
    visibility: Tensor | None  # float32 [B, T, P, J], logits
    state: Tensor  # [B, T, h]: hidden of S'_{t+1}


class EgoNetwork(nn.Module):
    """One branch: stem, trunk, query tokens and heads. The observer has no action parts (``actions=False``)."""

    roles = {"state_query": NO_DECAY, "action_query": NO_DECAY}

    def __init__(self, config: ModelConfig, *, actions: bool = True):
        super().__init__()
        self.config, hidden = config, config.hidden_size
        self.stem = ConvStem(hidden, config.patch_size, config.stem_norm)
        self.backbone = build_trunk(config)
        self.state_query = nn.Parameter(torch.randn(hidden) * 0.02)
        self.head = DinoHead(hidden, config.head_hidden, config.head_bottleneck, config.prototypes)
        if actions:
            self.action_query = nn.Parameter(torch.randn(hidden) * 0.02)
            self.pose_projector = PoseProjector(hidden, config.poses_per_step, config.num_joints)
            self.pose_head = PoseHead(hidden, config.poses_per_step, config.num_joints, config.pose_target)
            if config.pose_context:
                self.context_projector = PoseProjector(hidden, config.poses_per_step, config.num_joints)

    @property
    def called(self) -> tuple[str, ...]:
        """Methods that need the weights of the whole network at once, besides ``forward``."""
        return ("encode_clip",) if self.config.observer_attention == "clip" else ()

    def forward(self, images: Tensor | None, *actions: Tensor) -> Tensor | ClipReadout:
        """Images ``[N, 3, S, S]`` alone -> state ``[N, h]``; a clip with its actions -> ``ClipReadout``."""
        return self.forward_clip(images, *actions) if actions else self.encode(images)

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[N, 3, S, S]``, each its own sequence -> hidden of patches ``[N, p, h]`` and state query ``[N, h]``."""
        patches = self.stem(images)
        # Not len(patches): that is a plain int, which would fix the batch size of an exported program.
        query = self.state_query.to(patches.dtype).expand(patches.shape[0], 1, -1)
        layout = frame_layout(patches.shape[1], self.config.sequence)
        hidden = self.backbone(torch.cat((patches, query), dim=1), layout)
        return hidden[:, :-1], hidden[:, -1]

    def encode(self, images: Tensor) -> Tensor:
        """Images ``[N, 3, S, S]`` -> state ``[N, h]``."""
        return self.tokens(images)[1]

    def encode_clip(self, images: Tensor) -> Tensor:
        """Frames ``[B, T, 3, S, S]`` -> state ``[B, T, h]``: each alone, or after the earlier ones (``observer_attention``)."""
        batch, steps = images.shape[:2]
        if self.config.observer_attention == "frame":
            return self(images.flatten(0, 1)).unflatten(0, (batch, steps))
        patches = self.stem(images.flatten(0, 1)).unflatten(0, (batch, steps))
        query = self.state_query.to(patches.dtype).expand(batch, steps, 1, -1)
        layout = frame_layout(patches.shape[2], self.config.sequence, steps)
        hidden = self.backbone(torch.cat((patches, query), dim=2).flatten(1, 2), layout)
        return hidden[:, layout.index["state"].flatten()]

    def forward_clip(
        self, images: Tensor | None, poses: Tensor, visible: Tensor, past_poses: Tensor, past_visible: Tensor
    ) -> ClipReadout:
        """Run the interleaved sequence ``i_t | q_a | a_t | q_s`` over T steps (spec §2.5).

        ``images`` ``[B, F, 3, S, S]`` of the first F <= T steps, or None: the other steps have no image tokens. ``poses``,
        ``past_poses`` ``[B, T, P, J, 3]`` metres; ``visible``, ``past_visible`` ``[B, T, P, J]``. ``past_poses`` are the poses
        observed before each chunk, in that chunk's coordinates.
        """
        batch, steps = poses.shape[:2]
        frames = 0 if images is None else images.shape[1]
        action = self.pose_projector(poses, visible)
        patches = self.stem(images.flatten(0, 1)).unflatten(0, (batch, frames)) if frames else action[:, :0, None]
        action = action.to(patches.dtype).unsqueeze(2)
        state_query = self.state_query.to(patches.dtype).expand(batch, steps, 1, -1)
        action_query = self.action_query.to(patches.dtype).expand(batch, steps, 1, -1)
        if self.config.pose_context:
            action_query = action_query + self.context_projector(past_poses, past_visible).unsqueeze(2)
        layout = clip_layout(patches.shape[2], steps, self.config.sequence, frames)
        others = torch.cat((action_query, action, state_query), dim=2)
        sequence = torch.cat((patches, others[:, :frames]), dim=2).flatten(1, 2)
        if frames < steps:
            sequence = torch.cat((sequence, others[:, frames:].flatten(1, 2)), dim=1)
        hidden = self.backbone(sequence, layout)
        motion, visibility = self.pose_head(hidden[:, layout.index["action_query"].flatten()], past_poses, past_visible)
        return ClipReadout(motion, visibility, hidden[:, layout.index["state"].flatten()])

    def append(
        self, cache: KVCache, layout: Layout, *, patches: Tensor | None = None, past: Poses = None, actions: Poses = None
    ) -> ClipReadout:
        """Read what comes next in a clip whose beginning is in ``cache``: the read-outs of ``forward_clip`` for it alone.

        ``layout`` is the clip's (``clip_layout``, an observer's ``frame_layout``); what comes next there must be just what is
        given: ``patches`` ``[B, F, p, h]`` of F images out of the stem, ``past`` (poses ``[B, Q, P, J, 3]`` and visibility) of Q
        action queries, ``actions`` (the same) of A steps. State queries are asked where they stand among or right after these.
        ValueError where something else comes next. In eval mode and without gradients.
        """
        tokens = {}
        if patches is not None:
            tokens["image"] = patches.flatten(1, 2)
        if past is not None:
            tokens["action_query"] = self.action_query.expand(*past[0].shape[:2], -1)
            if self.config.pose_context:
                tokens["action_query"] = tokens["action_query"] + self.context_projector(*past)
        if actions is not None:
            tokens["action"] = self.pose_projector(*actions)
        given = {name: part.shape[1] for name, part in tokens.items() if part.shape[1]}
        ahead = {name: at[at >= cache.seen].tolist() for name, at in layout.index.items()}
        stop = max((place + 1 for name, count in given.items() for place in ahead.get(name, [])[:count]), default=cache.seen)
        while stop in ahead["state"]:
            stop += 1
        piece = layout[cache.seen : stop]
        next_up = {name: at.numel() for name, at in piece.index.items()}
        if not given or {name: count for name, count in next_up.items() if name != "state"} != given:
            raise ValueError(f"after {cache.seen} tokens of this clip come {next_up}, and given are {given}")
        tokens["state"] = self.state_query.expand(next(iter(tokens.values())).shape[0], next_up.get("state", 0), -1)
        sequence = torch.cat([tokens[name] for name in next_up], dim=1)
        places = torch.cat([piece.index[name].flatten() for name in next_up])
        hidden = self.backbone(sequence[:, places.argsort()], piece, cache=cache)
        state = hidden[:, piece.index["state"].flatten()] if "state" in next_up else hidden[:, :0]
        if past is None:
            return ClipReadout(None, None, state)
        return ClipReadout(*self.pose_head(hidden[:, piece.index["action_query"].flatten()], *past), state)


class EgoAgent(nn.Module):
    """Predictor and observer. The observer never receives gradients; ``solver.ema`` moves it after each optimizer step."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.predictor = EgoNetwork(config)
        self.observer = EgoNetwork(config, actions=False).requires_grad_(False)
        self.reset_observer()

    @torch.no_grad()
    def reset_observer(self) -> None:
        """Make the observer an exact copy of the predictor's image parts (start of a run)."""
        own = self.predictor.state_dict()
        self.observer.load_state_dict({name: own[name] for name in self.observer.state_dict()})

    def freeze_action_parts(self) -> None:
        """For stage 1, which has no actions: the parts that the observer lacks get neither gradient nor decay."""
        shared = {name for name, _ in self.observer.named_parameters()}
        for name, parameter in self.predictor.named_parameters():
            if name not in shared:
                parameter.requires_grad_(False)
