"""One optimizer step: accumulate over pieces, backward, clip, step, move the averages; or skip what is not finite."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from internlm.config.schema import Config
from internlm.core.collectives import Group
from internlm.monitor.clock import Clock
from internlm.systems.base import Terms

from .bad_steps import NON_FINITE, BadSteps
from .state import TrainState


@dataclass
class StepOutcome:
    """What a step leaves for the log. Tensors stay on the device: reading one waits for the device."""

    values: dict[str, float]  # of the schedules
    losses: dict[str, Tensor]  # scalars, over all processes: the total as ``loss`` and what the system logs
    grad_norm: Tensor
    bad: str | None = None  # why the step was skipped
    heard: int = 0  # the largest ``word`` that a process said
    kept: list[dict[str, Tensor]] = field(default_factory=list)  # what the pieces kept for the health reading, where asked for

    @property
    def finite(self) -> bool:
        """False where the loss or a gradient was not."""
        return self.bad != NON_FINITE


class TrainStep:
    """Advances a state by one optimizer step per call.

    A bad step (``BadSteps``) is skipped on all processes together: weights, optimizer and all buffers stay as they were. Raises
    BadStepsError after ``train.max_bad_steps`` of them in a row. ``clock`` takes the time of the phases; ``before_change`` is
    called before weights and optimizer states change.
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
        self.clock = clock or Clock(state.device)
        self._schedules = state.system.schedules()
        self._buffers = [buffer for module in state.modules().values() for buffer in module.buffers()]
        self._saved = [buffer.clone() for buffer in self._buffers]

    def __call__(self, batches: Mapping[str, Any], *, keep_outputs: bool = False, word: int = 0) -> StepOutcome:
        """Train on one batch of each stream that is there; ``keep_outputs`` keeps what the health reading needs.

        ``word``: a number for all processes, which travels with the figures that they exchange anyway.
        """
        counters, system = self.state.counters, self.state.system
        values = {name: schedule(counters.step) for name, schedule in self._schedules.items()}
        for saved, buffer in zip(self._saved, self._buffers, strict=True):
            saved.copy_(buffer)
        outcome = self._backward(batches, values, keep_outputs)
        with self.clock.phase("optimizer"):
            outcome.grad_norm = self.state.engine.clipped_norm()
            outcome.losses = means(outcome.losses, self.state.mesh.data)
            kind = "".join(f"{name}s" for name in batches)
            outcome.bad, outcome.heard = self.bad_steps.judge(outcome.losses["loss"], outcome.grad_norm, kind, word)
            if outcome.bad:
                self.state.engine.drop()
                for saved, buffer in zip(self._saved, self._buffers, strict=True):
                    buffer.copy_(saved)
            else:
                self._before_change()
                self.state.engine.step(counters.step, values)
                system.after_step(values)
        counters.step += 1
        for name, batch in batches.items():
            counters.seen[name] = counters.seen.get(name, 0) + self.state.mesh.data.size * len(batch.sample_ids)
        counters.bad_streak = counters.bad_streak + 1 if outcome.bad else 0
        if outcome.bad:
            counters.bad_steps += 1
            self.bad_steps.record(outcome.bad, outcome.losses, outcome.grad_norm, batches)
        return outcome

    def _backward(self, batches: Mapping[str, Any], values: dict[str, float], keep_outputs: bool) -> StepOutcome:
        """Fill the gradients with the mean over the pieces; the losses are this process's."""
        pieces, engine = self.config.train.accumulation, self.state.engine
        engine.zero_grad()
        outcome = StepOutcome(values, {"loss": torch.zeros((), device=self.state.device)}, torch.zeros(()))
        with self.clock.phase("forward"):
            terms = self.state.system.terms(batches, values, dtype=self.dtype, keep=keep_outputs)
        for number, piece in enumerate(terms, start=1):
            with self.clock.phase("forward"):
                parts = piece()
            with self.clock.phase("backward"):
                engine.backward(parts.total / pieces, last=number == len(terms))
            add_losses(outcome.losses, parts, pieces)
            if parts.kept:
                outcome.kept.append(parts.kept)
            del parts  # or its graph would be alive while the next is built
        return outcome


def add_losses(losses: dict[str, Tensor], parts: Terms, pieces: int) -> None:
    """Add what one of so many pieces has to the losses of a step, in place."""
    for name, value in {"loss": parts.total.detach(), **parts.logged}.items():
        losses[name] = losses.get(name, 0) + value / pieces


def means(losses: dict[str, Tensor], data: Group) -> dict[str, Tensor]:
    """Losses of all processes from those of each."""
    if data.size == 1:
        return losses
    return dict(zip(losses, data.mean(torch.stack([value.float() for value in losses.values()])).unbind(), strict=True))
