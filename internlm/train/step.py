"""One optimizer step: accumulate over pieces, backward, clip, step, move the observer; or skip what is not finite."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

import torch
from torch import Tensor

from internlm.config.schema import Config
from internlm.core.collectives import Group
from internlm.core.init import autocast
from internlm.data.batch import ClipBatch, ImageBatch, split
from internlm.monitor.clock import Clock
from internlm.solver.schedule import StepValues, values_at
from internlm.systems.egoagent.loss import LossParts

from .bad_steps import NON_FINITE, BadSteps
from .inputs import clip_inputs, image_views, upload
from .state import TrainState


@dataclass
class StepOutcome:
    """What a step leaves for the log. Tensors stay on the device: reading one waits for the device."""

    values: StepValues
    losses: dict[str, Tensor]  # scalars, over all processes: the total as ``loss``, its parts, their KL
    grad_norm: Tensor
    bad: str | None = None  # why the step was skipped
    teacher: list[Tensor] = field(default_factory=list)  # [n, K] of each piece of this process's samples, where asked for
    features: list[Tensor] = field(default_factory=list)  # [n, d]

    @property
    def finite(self) -> bool:
        """False where the loss or a gradient was not."""
        return self.bad != NON_FINITE


class TrainStep:
    """Advances a state by one optimizer step per call.

    A bad step (``BadSteps``) is skipped on all processes together: weights, optimizer, centres and running statistics stay as
    they were. Raises BadStepsError after ``train.max_bad_steps`` of them in a row. ``clock`` takes the time of the phases;
    ``before_change`` is called before weights and optimizer states change.
    """

    def __init__(
        self,
        config: Config,
        state: TrainState,
        run_dir: Path,
        dtype: torch.dtype,
        clock: Clock | None = None,
        before_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.config, self.state, self.dtype, self._before_change = config, state, dtype, before_change
        self.bad_steps = BadSteps(config, state, run_dir)
        self.device = next(state.agent.predictor.parameters()).device
        self.clock = clock or Clock(self.device)
        self._buffers = [*state.agent.buffers(), *state.loss.buffers()]
        self._saved = [buffer.clone() for buffer in self._buffers]

    def __call__(self, images: ImageBatch | None, clips: ClipBatch | None, *, keep_outputs: bool = False) -> StepOutcome:
        """Train on one batch of each kind that is there; ``keep_outputs`` keeps what the health reading needs."""
        counters, values = self.state.counters, values_at(self.config, self.state.counters.step)
        for saved, buffer in zip(self._saved, self._buffers, strict=True):
            saved.copy_(buffer)
        outcome = self._backward(images, clips, values, keep_outputs)
        with self.clock.phase("optimizer"):
            outcome.grad_norm = self.state.engine.clipped_norm()
            outcome.losses = _means(outcome.losses, self.state.mesh.data)
            kind = f"{'' if images is None else 'images'}{'' if clips is None else 'clips'}"
            outcome.bad = self.bad_steps.judge(outcome.losses["loss"], outcome.grad_norm, kind)
            if outcome.bad:
                self.state.engine.drop()
                for saved, buffer in zip(self._saved, self._buffers, strict=True):
                    buffer.copy_(saved)
            else:
                self._before_change()
                self.state.engine.step(counters.step, values)
        counters.step += 1
        processes = self.state.mesh.data.size
        counters.images_seen += 0 if images is None else processes * len(images.sample_ids)
        counters.clips_seen += 0 if clips is None else processes * len(clips.sample_ids)
        counters.bad_streak = counters.bad_streak + 1 if outcome.bad else 0
        if outcome.bad:
            counters.bad_steps += 1
            self.bad_steps.record(outcome.bad, outcome.losses, outcome.grad_norm, {"image": images, "clip": clips})
        return outcome

    def _backward(
        self, images: ImageBatch | None, clips: ClipBatch | None, values: StepValues, keep_outputs: bool
    ) -> StepOutcome:
        """Fill the gradients with the mean over the pieces; the losses are this process's."""
        pieces, mesh, engine = self.config.train.accumulation, self.state.mesh, self.state.engine
        count = pieces * ((images is not None) + (clips is not None))
        engine.zero_grad()
        outcome = StepOutcome(values, {"loss": torch.zeros((), device=self.device)}, torch.zeros(()))
        losses = self._losses(images, clips, values.teacher_temp)
        for number in range(1, count + 1):
            with self.clock.phase("forward"):
                parts = next(losses)
            with self.clock.phase("backward"):
                engine.backward(parts.total / pieces, last=number == count)
            for name, value in {"loss": parts.total.detach(), **parts.logged}.items():
                outcome.losses[name] = outcome.losses.get(name, 0) + value / pieces
            if keep_outputs:
                outcome.teacher.append(mesh.tp.gathered(parts.teacher, -1))
                outcome.features.append(parts.features)
        if keep_outputs and images is not None and clips is not None:
            # Neighbouring frames of a clip resemble each other by nature; independent images are the better witness.
            outcome.teacher, outcome.features = outcome.teacher[::2], outcome.features[::2]
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


def _means(losses: dict[str, Tensor], data: Group) -> dict[str, Tensor]:
    """Losses of all processes from those of each."""
    if data.size == 1:
        return losses
    return dict(zip(losses, data.mean(torch.stack([value.float() for value in losses.values()])).unbind(), strict=True))
