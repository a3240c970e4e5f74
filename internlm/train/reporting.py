"""What a run tells while it trains: figures to the log files, lines to the console, verdicts and warnings."""

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from internlm.config.schema import Config
from internlm.monitor.boards import Boards, tensorboard, weights_and_biases
from internlm.monitor.clock import PHASES, Clock, Probe
from internlm.monitor.health import CollapseWatch
from internlm.monitor.metrics import MetricsWriter
from internlm.monitor.profile import StepProfiler
from internlm.monitor.progress import Progress
from internlm.monitor.rank_log import RankLog, rank_log_path
from internlm.monitor.ranks import Ranks, RankWatch, extremes
from internlm.monitor.speed import Speed, memory_gib, peak_tflops
from internlm.trunk.block import Block

from .engine import trained_modules
from .state import TrainState
from .step import StepOutcome


class Report:
    """Follows a run in this process; the process that writes (``mesh.writes``) keeps the figures and shows them.

    ``watch`` is the collapse watch, whose state goes into checkpoints. As a context it opens and closes the files and the
    display. All processes call ``step_done`` alike: at logged steps they exchange their figures.
    """

    def __init__(self, config: Config, run_dir: Path, state: TrainState, clock: Clock, dtype: torch.dtype) -> None:
        self.config, self.run_dir, self.state, self.clock = config, run_dir, state, clock
        self.mesh, self.device, self.dtype = state.mesh, state.device, dtype
        grace = int(max(config.optim.warmup_share, 0.1) * config.train.steps)
        self.watch = CollapseWatch(patience=config.monitor.collapse_patience, grace_steps=grace)
        rank = self.mesh.world.rank
        self._rank_log = RankLog(rank_log_path(run_dir, rank), rank=rank, world=self.mesh.world.size)
        self._profiler = StepProfiler(run_dir, rank, config.monitor.profile_steps, self.device)

    def __enter__(self) -> "Report":
        with ExitStack() as stack:
            stack.enter_context(self._rank_log)
            stack.callback(self._profiler.close)
            monitor, done = self.config.monitor, self.state.counters.step
            ranks = Ranks(self.mesh.world, self.device)
            self._ranks = RankWatch(ranks, straggler_share=monitor.straggler_share, data_wait_share=monitor.data_wait_share)
            trained = trained_modules(self.state.system.parts()).values()
            blocks = [block for module in trained for block in module.modules() if isinstance(block, Block)]
            probed = blocks and not self.config.parallel.compile
            self._probe = Probe(blocks[len(blocks) // 2].mlp, self.device) if probed else None
            if self._probe:
                stack.callback(self._probe.close)
            if self.mesh.writes:
                peak = peak_tflops(self.config, self.device, self.dtype)
                cost = self.state.system.cost()
                self._speed = Speed(cost.frames, cost.tokens, cost.flops, peak and peak * 1e12 * self.mesh.world.size)
                writer = MetricsWriter(self.run_dir, resume_step=done, boards=self._boards(done))
                self._metrics = stack.enter_context(closing(writer))
                shown = Progress(total=self.config.train.steps, start=done, bar=monitor.progress)
                self._progress = stack.enter_context(closing(shown))
            self._closing = stack.pop_all()
        self._restart()
        return self

    def __exit__(self, *error: Any) -> None:
        self._closing.__exit__(*error)

    def step_begins(self, number: int) -> bool:
        """Step ``number`` (from 1) begins; True where its health is read, for which it must keep its outputs."""
        self._profiler.step(number)
        return number % self.config.monitor.health_every == 0

    def step_done(self, number: int, outcome: StepOutcome, held_out: Mapping[str, Tensor]) -> None:
        """Show a finished step, and log it where it is due or has ``held_out`` losses."""
        if outcome.bad:
            self.note(f"step {number}: {outcome.bad}, skipped ({self.state.counters.bad_steps} so far)", logging.WARNING)
        train, healthy = self.config.train, number % self.config.monitor.health_every == 0
        if healthy or held_out or number == train.steps or number % train.log_every == 0:
            self._log(number, outcome, held_out)
        if self.mesh.writes:
            self._progress.advance(number)

    def rewound(self) -> None:
        """The run has gone back to an earlier step: forget the figures after it."""
        if self.mesh.writes:
            self._metrics.rewind(self.state.counters.step)
        self._restart()

    def note(self, message: str, level: int = logging.INFO) -> None:
        """Say something to the person who watches, and to this process's log."""
        self._rank_log.write(message, level)
        if self.mesh.writes:
            self._progress.note(message)

    def _restart(self) -> None:
        """Begin a new interval of figures."""
        self.clock.read()
        counters = self.state.counters
        self._since = (time.monotonic(), counters.step, dict(counters.seen))

    def _log(self, number: int, outcome: StepOutcome, held_out: Mapping[str, Tensor]) -> None:
        began, step, seen = self._since
        counters, steps = self.state.counters, max(number - step, 1)
        elapsed = max(time.monotonic() - began, 1e-9)
        seconds = {name: value / steps for name, value in self.clock.read().items()}
        own = {"step_seconds": elapsed / steps, "data_seconds": seconds.get("data", 0.0)}
        own |= {"probe_seconds": self._probe.read() if self._probe else 0.0}
        own |= {f"{name}_gib": value for name, value in memory_gib(self.device).items()}
        all_ranks = self._ranks.ranks.gathered(own)
        for message in self._ranks.update(all_ranks["probe_seconds"], all_ranks["data_seconds"], own["step_seconds"]):
            self.note(message, logging.WARNING)
        if self.mesh.writes:
            record = {name: float(value) for name, value in outcome.losses.items()}
            record |= {f"val/{name}": float(value) for name, value in held_out.items()}
            record |= {"grad_norm": float(outcome.grad_norm), **outcome.values}
            done = {name: count - seen.get(name, 0) for name, count in counters.seen.items()}
            record |= self._speed.figures(done, elapsed)
            record |= {"seconds_per_step": own["step_seconds"], "data_share": own["data_seconds"] / own["step_seconds"]}
            record |= {f"time/{name}": value for name, value in (dict.fromkeys(PHASES, 0.0) | seconds).items()}
            if self._profiler.communication is not None:
                record["time/communication"], self._profiler.communication = self._profiler.communication, None
            record |= {f"memory/{name}": value for name, value in own.items() if name.endswith("_gib")}
            record |= {} if self.mesh.alone else extremes(all_ranks)
            record |= {"bad_steps": counters.bad_steps, "rewinds": counters.rewinds}
            if outcome.kept and outcome.finite:
                record |= self._health(number, outcome)
            self._metrics.write(number, record)
            self._progress.report(number, record)
        self._restart()

    def _health(self, number: int, outcome: StepOutcome) -> dict[str, float | str | None]:
        reading = self.state.system.health(outcome.kept)
        if reading is None:
            return {}
        before = self.watch.verdict
        verdict = self.watch.update(number, reading.verdict)
        if verdict != before:
            message = reading.explain(verdict) if verdict else f"step {number}: the {before} collapse has passed"
            self.note(message, logging.WARNING)
        return reading.named() | {"health/verdict": verdict}

    def _boards(self, done: int) -> Boards:
        config = self.config
        boards: list[Any] = tensorboard(self.run_dir, done) if config.monitor.tensorboard else []
        if config.monitor.wandb:
            boards += weights_and_biases(self.run_dir, config.monitor.wandb, config.job_name, config.model_dump(mode="json"))
        return Boards(boards)
