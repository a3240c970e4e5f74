"""Steps that must not be taken: which they are, what is written down about them, and when there are too many."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from internlm.config.schema import Config
from internlm.core.errors import UserError
from internlm.monitor.spikes import SpikeWatch

from .state import TrainState

BAD_STEPS_NAME = "bad_steps.jsonl"
NON_FINITE = "loss or gradient not finite"

log = logging.getLogger(__name__)


class BadStepsError(UserError):
    """Too many bad steps in a row."""


class BadSteps:
    """Judges each step before its weights move, on all processes alike, and keeps the account of the bad ones."""

    def __init__(self, config: Config, state: TrainState, run_dir: Path) -> None:
        self.config, self.state, self.path = config, state, run_dir / BAD_STEPS_NAME
        factor = config.train.spike_factor
        self.spikes = SpikeWatch(factor) if factor else None

    def judge(self, loss: Tensor, grad_norm: Tensor, kind: str, word: int = 0) -> tuple[str | None, int]:
        """What is wrong with a step, or None, and the largest ``word`` of all processes. ``kind`` says which batches it had.

        The one synchronisation with the device in a step. The processes see the largest of all their figures, so that all of
        them come to the same verdict.
        """
        figures = torch.stack([loss.float(), grad_norm.float()])
        bad = ~torch.isfinite(figures).all()
        seen = torch.cat([figures.new_tensor([word]), bad.float()[None], torch.nan_to_num(figures)])
        heard, not_finite, *values = self.state.mesh.world.max(seen).tolist()
        reason = NON_FINITE if not_finite else None
        if self.spikes and not reason:
            reason = self.spikes.update(kind, dict(zip(("loss", "grad_norm"), values)))
        return reason, int(heard)

    def record(self, reason: str, losses: dict[str, Tensor], grad_norm: Tensor, batches: Mapping[str, Any]) -> None:
        """Write a skipped step's figures and samples to ``bad_steps.jsonl``. BadStepsError when it is one too many in a row."""
        counters, limit = self.state.counters, self.config.train.max_bad_steps
        record = {
            "step": counters.step,
            "reason": reason,
            "losses": {name: repr(value.item()) for name, value in losses.items()},
            "grad_norm": repr(grad_norm.item()),
            **{f"{name}_samples": self._samples(batch) for name, batch in batches.items()},
        }
        if self.state.mesh.writes:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            except OSError as error:
                log.error("the bad step %d could not be written to %s: %s", counters.step, self.path, error)
        if counters.bad_streak >= limit:
            raise BadStepsError(
                f"{counters.bad_streak} steps in a row were bad, the last was step {counters.step}: {reason} "
                f"(train.max_bad_steps is {limit}). Their samples are in {self.path}; try a lower optim.lr, train.dtype=float32 "
                "or train.on_bad=rewind, and start again: the run resumes from its last checkpoint"
            )

    def _samples(self, batch: Any) -> list[int]:
        return sorted(self.state.mesh.data.gathered(batch.sample_ids.to(self.state.device)).tolist())
