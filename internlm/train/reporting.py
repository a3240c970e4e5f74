"""What a run tells while it trains: figures to the log files, lines to the console, the collapse verdict."""

import time
from pathlib import Path

import torch

from internlm.config.schema import Config
from internlm.monitor.health import CollapseWatch, explain, read_health
from internlm.monitor.metrics import MetricsWriter
from internlm.monitor.progress import Progress

from .state import Counters
from .step import StepOutcome


class Report:
    """Follows a run on the process that writes; on the others (``writes`` False) it takes everything and does nothing.

    ``watch`` is the collapse watch, whose state goes into checkpoints.
    """

    def __init__(self, config: Config, run_dir: Path, counters: Counters, *, writes: bool) -> None:
        self.config, self.run_dir, self.counters, self.writes = config, run_dir, counters, writes
        grace = int(max(config.optim.warmup_share, 0.1) * config.train.steps)
        self.watch = CollapseWatch(patience=config.monitor.collapse_patience, grace_steps=grace)
        self._data_seconds = 0.0

    def __enter__(self) -> "Report":
        """Open the log files and the display."""
        if self.writes:
            done, monitor = self.counters.step, self.config.monitor
            self.metrics = MetricsWriter(self.run_dir, resume_step=done, tensorboard=monitor.tensorboard)
            self.progress = Progress(total=self.config.train.steps, start=done, bar=monitor.progress)
        self._since = (time.monotonic(), self._images_seen(), self.counters.step)
        return self

    def __exit__(self, *error: object) -> None:
        if self.writes:
            self.metrics.close()
            self.progress.close()

    def waited(self, seconds: float) -> None:
        """Take note of time spent waiting for a batch."""
        self._data_seconds += seconds

    def wants_outputs(self, number: int) -> bool:
        """Whether the health of this step is read, for which the step must keep its outputs."""
        return number % self.config.monitor.health_every == 0

    def step_done(self, number: int, outcome: StepOutcome) -> None:
        """Show a finished step, and log it where it is due."""
        if not outcome.finite:
            self.note(f"step {number}: loss or gradient not finite, skipped ({self.counters.bad_steps} so far)")
        if self.writes:
            train = self.config.train
            if self.wants_outputs(number) or number == train.steps or number % train.log_every == 0:
                self._log(number, outcome)
            self.progress.advance(number)

    def note(self, message: str) -> None:
        """Say something to the person who watches."""
        if self.writes:
            self.progress.note(message)

    def _log(self, number: int, outcome: StepOutcome) -> None:
        began, images, step = self._since
        now, seen = time.monotonic(), self._images_seen()
        elapsed = max(now - began, 1e-9)
        record = {name: float(value) for name, value in outcome.losses.items()}
        record |= {"grad_norm": float(outcome.grad_norm), **vars(outcome.values)}
        record |= {
            "images_per_s": (seen - images) / elapsed,
            "seconds_per_step": elapsed / max(number - step, 1),
            "data_share": self._data_seconds / elapsed,
            "bad_steps": self.counters.bad_steps,
        }
        if outcome.teacher and outcome.finite:
            record |= self._health(number, outcome)
        self.metrics.write(number, record)
        self.progress.report(number, record)
        self._since, self._data_seconds = (now, seen, number), 0.0

    def _health(self, number: int, outcome: StepOutcome) -> dict[str, float | str | None]:
        before = self.watch.verdict
        reading = read_health(torch.cat(outcome.teacher), torch.cat(outcome.features))
        verdict = self.watch.update(number, reading)
        if verdict != before:
            self.note(explain(verdict, reading) if verdict else f"step {number}: the {before} collapse has passed")
        return reading.named() | {"health/verdict": verdict}

    def _images_seen(self) -> int:
        return self.counters.images_seen + self.counters.clips_seen * (self.config.data.clip.steps + 1)
