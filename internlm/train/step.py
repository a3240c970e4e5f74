"""One optimizer step: accumulate over pieces, backward, clip, step, move the observer; or skip what is not finite."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

import torch
from torch import Tensor

from internlm.config.schema import Config
from internlm.core.collectives import Group
from internlm.core.init import autocast
from internlm.data.batch import ClipBatch, ImageBatch, split
from internlm.loss.joint import LossParts
from internlm.solver.schedule import StepValues, values_at

from .inputs import clip_inputs, image_views, upload
from .state import TrainState

BAD_STEPS_NAME = "bad_steps.jsonl"


class NonFiniteError(RuntimeError):
    """Too many non-finite steps in a row."""


@dataclass
class StepOutcome:
    """What a step leaves for the log. Tensors stay on the device: reading one waits for the device."""

    values: StepValues
    losses: dict[str, Tensor]  # scalars, over all processes: the total as ``loss``, its parts, their KL
    grad_norm: Tensor
    finite: bool
    teacher: list[Tensor] = field(default_factory=list)  # [n, K] of each piece of this process's samples, where asked for
    features: list[Tensor] = field(default_factory=list)  # [n, d]


class TrainStep:
    """Advances a state by one optimizer step per call.

    Non-finite losses or gradients: the step is skipped on all processes together, weights, optimizer, centres and running
    statistics stay as they were, and the sample ids go to ``bad_steps.jsonl`` in the run folder. Raises NonFiniteError
    after ``train.max_bad_steps`` of them in a row.
    """

    def __init__(self, config: Config, state: TrainState, run_dir: Path, dtype: torch.dtype) -> None:
        self.config, self.state, self.run_dir, self.dtype = config, state, run_dir, dtype
        self.device = next(state.agent.predictor.parameters()).device
        self._buffers = [*state.agent.buffers(), *state.loss.buffers()]
        self._saved = [buffer.clone() for buffer in self._buffers]

    def __call__(self, images: ImageBatch | None, clips: ClipBatch | None, *, keep_outputs: bool = False) -> StepOutcome:
        """Train on one batch of each kind that is there; ``keep_outputs`` keeps what the health reading needs."""
        counters, values = self.state.counters, values_at(self.config, self.state.counters.step)
        for saved, buffer in zip(self._saved, self._buffers, strict=True):
            saved.copy_(buffer)
        outcome = self._backward(images, clips, values, keep_outputs)
        outcome.finite = _all_finite(outcome.losses["loss"], outcome.grad_norm, world=self.state.mesh.world)
        if outcome.finite:
            self.state.engine.step(counters.step, values)
        else:
            self.state.engine.drop()
            for saved, buffer in zip(self._saved, self._buffers, strict=True):
                buffer.copy_(saved)
        counters.step += 1
        processes = self.state.mesh.data.size
        counters.images_seen += 0 if images is None else processes * len(images.sample_ids)
        counters.clips_seen += 0 if clips is None else processes * len(clips.sample_ids)
        counters.bad_streak = 0 if outcome.finite else counters.bad_streak + 1
        if not outcome.finite:
            counters.bad_steps += 1
            self._record_bad_step(outcome, images, clips)
        return outcome

    def _backward(
        self, images: ImageBatch | None, clips: ClipBatch | None, values: StepValues, keep_outputs: bool
    ) -> StepOutcome:
        """Fill the gradients with the mean over the pieces and the processes and clip them."""
        pieces, mesh, engine = self.config.train.accumulation, self.state.mesh, self.state.engine
        count = pieces * ((images is not None) + (clips is not None))
        engine.zero_grad()
        outcome = StepOutcome(values, {"loss": torch.zeros((), device=self.device)}, torch.zeros(()), True)
        for number, parts in enumerate(self._losses(images, clips, values.teacher_temp), start=1):
            engine.backward(parts.total / pieces, last=number == count)
            for name, value in {"loss": parts.total.detach(), **parts.logged}.items():
                outcome.losses[name] = outcome.losses.get(name, 0) + value / pieces
            if keep_outputs:
                outcome.teacher.append(mesh.tp.gathered(parts.teacher, -1))
                outcome.features.append(parts.features)
        if keep_outputs and images is not None and clips is not None:
            # Neighbouring frames of a clip resemble each other by nature; independent images are the better witness.
            outcome.teacher, outcome.features = outcome.teacher[::2], outcome.features[::2]
        outcome.grad_norm = engine.clipped_norm()
        outcome.losses = _means(outcome.losses, mesh.data)
        return outcome

    def _losses(self, images: ImageBatch | None, clips: ClipBatch | None, teacher_temp: float) -> Iterator[LossParts]:
        """The losses of each piece, one graph at a time: the caller's backward frees it before the next is built."""
        agent, loss, pieces = self.state.agent, self.state.loss, self.config.train.accumulation
        jitter = self.config.data.clip.color_jitter > 0
        image_pieces = repeat(None, pieces) if images is None else split(upload(images, self.device), pieces)
        clip_pieces, count = repeat(None, pieces), None
        if clips is not None:
            clips = upload(clips, self.device)
            clip_pieces, count = split(clips, pieces), clips.visible.sum() / pieces
        for image_piece, clip_piece in zip(image_pieces, clip_pieces, strict=True):
            if image_piece is not None:
                views = image_views(image_piece)
                with autocast(self.device, self.dtype):
                    parts = loss.image_loss(agent.predictor, agent.observer, views, teacher_temp)
                yield parts
            if clip_piece is not None:
                frames, next_frames, actions = clip_inputs(clip_piece, jitter=jitter)
                with autocast(self.device, self.dtype):
                    parts = loss.clip_loss(
                        agent.predictor, agent.observer, frames, next_frames, actions, teacher_temp, visible_count=count
                    )
                yield parts

    def _record_bad_step(self, outcome: StepOutcome, images: ImageBatch | None, clips: ClipBatch | None) -> None:
        counters, limit = self.state.counters, self.config.train.max_bad_steps
        path = self.run_dir / BAD_STEPS_NAME
        record = {
            "step": counters.step,
            "losses": {name: repr(value.item()) for name, value in outcome.losses.items()},
            "grad_norm": repr(outcome.grad_norm.item()),
            "image_samples": [] if images is None else self._of_all(images.sample_ids),
            "clip_samples": [] if clips is None else self._of_all(clips.sample_ids),
        }
        if self.state.mesh.writes:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        if counters.bad_streak >= limit:
            raise NonFiniteError(
                f"{counters.bad_streak} steps in a row had a non-finite loss or gradient, the last was step {counters.step} "
                f"(train.max_bad_steps is {limit}). Their samples are in {path}; try a lower optim.lr, "
                "or train.dtype=float32, and start again: the run resumes from its last checkpoint"
            )

    def _of_all(self, sample_ids: Tensor) -> list[int]:
        return sorted(self.state.mesh.data.gathered(sample_ids.to(self.device)).tolist())


def _means(losses: dict[str, Tensor], data: Group) -> dict[str, Tensor]:
    """Losses of all processes from those of each."""
    if data.size == 1:
        return losses
    return dict(zip(losses, data.mean(torch.stack([value.float() for value in losses.values()])).unbind(), strict=True))


def _all_finite(*scalars: Tensor, world: Group) -> bool:
    """Whether all are finite on all processes: the one synchronisation with the device in a step."""
    bad = ~torch.isfinite(torch.stack([scalar.float() for scalar in scalars])).all()
    return not bool(world.max(bad.float()).item())
