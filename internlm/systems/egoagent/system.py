"""EgoAgent as the trainer sees it: predictor, observer and losses, two streams, and what a step's terms are."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from internlm.core.collectives import ALONE, Group
from internlm.core.init import autocast
from internlm.core.mesh import Mesh
from internlm.data.batch import ClipBatch, ImageBatch, split
from internlm.data.clips import ClipDataset
from internlm.data.order import Stream
from internlm.monitor.health import HealthReading, read_health
from internlm.solver.schedule import cosine, optimizer_schedules, teacher_temperature
from internlm.trunk.kernels import use_attention

from ..base import Cost, Foreseen, Part, Pieces, Schedule, Terms, Values, Words
from .card import words
from .clips import STATES, foresee, roll_out
from .config import EgoAgentConfig
from .cost import cost
from .hf.describe import describe
from .inputs import clip_inputs, example, image_views, upload
from .loss import JointLoss
from .network import EgoAgent, EgoNetwork
from .streams import CLIPS, IMAGES, open_clips, streams
from .weights import init_from


class EgoAgentSystem:
    """A ``System`` that ``Embeds`` images and ``Exports`` what does so.

    Stage ``pretrain`` trains on images alone, ``joint`` on images and clips (spec §5).
    """

    branches = ("observer", "predictor")
    features = ("state", "patch", "bottleneck")
    outputs = ("state", "patches", "bottleneck")
    hub = staticmethod(describe)

    def __init__(self, config: EgoAgentConfig) -> None:
        self.config, self.image_size = config, config.model.image_size
        self.agent = EgoAgent(config.model)
        self.loss = JointLoss(config.loss, config.model.prototypes)
        self.depth = config.model.num_layers

    def parts(self) -> dict[str, Part]:
        return {
            "predictor": Part(self.agent.predictor, trained=True),
            "observer": Part(self.agent.observer, follows="predictor"),
            "loss": Part(self.loss),
        }

    def streams(self) -> dict[str, Stream]:
        return streams(self.config)

    def schedules(self) -> dict[str, Schedule]:
        optim, loss, steps = self.config.optim, self.config.loss, self.config.train.steps
        warm_up = {"start": loss.warmup_teacher_temp, "end": loss.teacher_temp, "share": loss.warmup_teacher_temp_share}
        return optimizer_schedules(optim, steps) | {
            "momentum": lambda step: cosine(step, steps, optim.momentum, optim.momentum_end),
            "teacher_temp": lambda step: teacher_temperature(step, steps, **warm_up),
        }

    def prepare(self, device: torch.device, dtype: torch.dtype, mesh: Mesh) -> None:
        if self.config.stage == "pretrain":
            self.agent.freeze_action_parts()
        for network in (self.agent.predictor, self.agent.observer):
            use_attention(network.backbone, self.config.model.attention, device, dtype)

    def init_from(self, path: Path, group: Group = ALONE) -> None:
        init_from(self.agent, self.loss, path, group)

    def terms(self, batches: Mapping[str, Any], values: Values, *, dtype: torch.dtype, keep: bool = False) -> Pieces:
        pieces, device = self.config.train.accumulation, next(self.agent.predictor.parameters()).device
        images, clips = batches.get(IMAGES), batches.get(CLIPS)
        temperature = values["teacher_temp"]
        image_terms, clip_terms = [], []
        if images is not None:
            run = partial(self._image_terms, temperature=temperature, dtype=dtype, keep=keep)
            image_terms = [partial(run, piece) for piece in split(upload(images, device), pieces)]
        if clips is not None:
            clips = upload(clips, device)
            # Neighbouring frames of a clip resemble each other by nature; independent images are the better witness of health.
            run = partial(self._clip_terms, temperature=temperature, dtype=dtype, keep=keep and images is None)
            count = clips.visible.sum() / pieces
            clip_terms = [partial(run, piece, count) for piece in split(clips, pieces)]
        if not image_terms or not clip_terms:
            return image_terms or clip_terms
        return [term for pair in zip(image_terms, clip_terms, strict=True) for term in pair]

    def _image_terms(self, piece: ImageBatch, *, temperature: float, dtype: torch.dtype, keep: bool) -> Terms:
        views = image_views(piece)
        with autocast(views[0].device, dtype):
            parts = self.loss.image_loss(self.agent.predictor, self.agent.observer, views, temperature)
        return self._terms(parts, keep)

    def _clip_terms(self, piece: ClipBatch, count: Tensor, *, temperature: float, dtype: torch.dtype, keep: bool) -> Terms:
        frames, next_frames, actions = clip_inputs(piece, jitter=self.config.data.clip.color_jitter > 0)
        with autocast(frames.device, dtype):
            parts = self.loss.clip_loss(
                self.agent.predictor, self.agent.observer, frames, next_frames, actions, temperature, visible_count=count
            )
        return self._terms(parts, keep)

    def _terms(self, parts: Terms, keep: bool) -> Terms:
        parts.kept = parts.kept | {"teacher": self.loss.vocab.gathered(parts.kept["teacher"], -1)} if keep else {}
        return parts

    def after_step(self, values: Values) -> None:
        pass

    def health(self, kept: list[dict[str, Tensor]]) -> HealthReading | None:
        if not kept:
            return None
        return read_health(*(torch.cat([piece[name] for piece in kept]) for name in ("teacher", "features")))

    def cost(self) -> Cost:
        return cost(self.config)

    def example(self, stream: str, count: int, device: torch.device) -> ImageBatch | ClipBatch:
        return example(self.config, stream, count, device)

    def shallow(self, blocks: int) -> EgoAgentConfig:
        model = self.config.model.model_copy(update={"num_layers": blocks, "attention": "sdpa"})
        return self.config.model_copy(update={"model": model})

    def branch(self, name: str) -> EgoNetwork:
        return getattr(self.agent, name)

    def fresh_branch(self) -> EgoNetwork:
        return EgoNetwork(self.config.model, actions=False)

    def embed(self, network: nn.Module, images: Tensor, features: Sequence[str]) -> dict[str, Tensor]:
        """``state``: hidden at the state query; ``patch``: mean hidden of the patches; ``bottleneck``: the head's unit vector.

        ``patches``: hidden of each patch ``[N, p, h]``.
        """
        patches, state = network.tokens(images)
        readers = {
            "state": lambda: state,
            "patch": lambda: patches.mean(1),
            "patches": lambda: patches,
            "bottleneck": lambda: network.head.bottleneck(state),
        }
        return {name: readers[name]() for name in features}

    def exported(self, branch: str) -> EgoNetwork:
        images_only = self.fresh_branch()
        images_only.load_state_dict(self.branch(branch).state_dict(), strict=False)  # without the action parts
        return images_only.eval()

    def words(self, network: nn.Module, branch: str) -> Words:
        return words(self.config, network, branch)


class JointSystem(EgoAgentSystem):
    """Stage ``joint``, which also ``Foresees``."""

    states = STATES

    def exported(self, branch: str) -> EgoNetwork:
        return self.branch(branch)

    def clips(self, paths: Sequence[str], split: str) -> ClipDataset:
        plain = self.config.data.clip.model_copy(update={"crop_scale": (1.0, 1.0), "color_jitter": 0.0})
        data = self.config.data.model_copy(update={"clips": tuple(paths), "split": split, "clip": plain})
        return open_clips(self.config.model_copy(update={"data": data}))

    def foresee(self, batch: ClipBatch, features: Sequence[str]) -> Foreseen:
        return foresee(self.agent, batch, features)

    def roll_out(self, batch: ClipBatch, first: int, *, frames: int, moves: Tensor | None) -> Tensor:
        return roll_out(self.agent.predictor, batch, first, frames, moves)


def build(config: EgoAgentConfig) -> EgoAgentSystem:
    """The system of a config's stage."""
    return (JointSystem if config.stage == "joint" else EgoAgentSystem)(config)
