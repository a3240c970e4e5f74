"""A whole run: build or resume, step, log, save, stop in good order."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import torch

from internlm.checkpoint.manager import CheckpointError, CheckpointManager
from internlm.checkpoint.weights import init_from
from internlm.config.load import RESOLVED_NAME, ConfigError, save_config
from internlm.config.schema import Config
from internlm.core.init import choose_device, choose_dtype, set_threads
from internlm.data.batch import ClipBatch, ImageBatch
from internlm.data.loader import training_batches
from internlm.monitor.health import CollapseWatch, explain, read_health
from internlm.monitor.metrics import METRICS_NAME, MetricsWriter
from internlm.monitor.progress import Progress

from .signals import StopSignals
from .state import TrainState, build_state
from .step import BAD_STEPS_NAME, NonFiniteError, StepOutcome, TrainStep

CHECKPOINTS = "checkpoints"
RUNS = "runs"

Batches = Iterator[tuple[ImageBatch | None, ClipBatch | None]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """How a run, or this process's share of it, ended."""

    run_dir: Path
    step: int
    finished: bool
    stopped_by: str | None  # name of the signal
    verdict: str | None  # standing collapse verdict: "uniform", "constant" or None
    bad_steps: int
    seconds: float
    state: TrainState


def run_folder(config: Config) -> Path:
    """The run folder that a config asks for."""
    return Path(config.run_dir) if config.run_dir else Path(RUNS) / config.job_name


def train(config: Config, *, resume: bool = True, batches: Callable[[int], Batches] | None = None) -> TrainResult:
    """Train to ``train.steps``, continuing from the newest intact checkpoint of the run folder.

    Args:
        resume: False starts anew; what an earlier run left in the folder is moved into a ``previous-<n>`` folder in it.
        batches: step → iterator of the batches from that step on; None reads the config's data.

    Raises NonFiniteError after too many bad steps, CheckpointError, DataError, DeviceError and ConfigError.
    """
    began = time.monotonic()
    _refuse_mesh(config)
    set_threads(config.train.threads)
    device = choose_device(config.train.device)
    run_dir = run_folder(config)
    run_dir.mkdir(parents=True, exist_ok=True)
    if not resume:
        _set_aside(run_dir)
    run = _Run(config, run_dir, device)
    if run.state.counters.step >= config.train.steps:
        log.info("%s is complete: %d of %d steps", run_dir, run.state.counters.step, config.train.steps)
        return run.result(None, began)
    with ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        source = (batches or _batches_of(config, device))(run.state.counters.step)
        if hasattr(source, "close"):
            stack.enter_context(closing(source))
        stack.enter_context(closing(run.open_monitors()))
        stopped_by = run.loop(source, signals)
    return run.result(stopped_by, began)


class _Run:
    """The parts of one run in this process."""

    def __init__(self, config: Config, run_dir: Path, device: torch.device) -> None:
        self.config, self.run_dir = config, run_dir
        train, monitor = config.train, config.monitor
        self.manager = CheckpointManager(run_dir / CHECKPOINTS, keep_last=train.keep_last, keep_every=train.keep_every)
        self.watch = CollapseWatch(
            patience=monitor.collapse_patience, grace_steps=int(max(config.optim.warmup_share, 0.1) * train.steps)
        )
        self.state = build_state(config, device)
        self._start()
        save_config(config, run_dir / RESOLVED_NAME)
        self.step = TrainStep(config, self.state, run_dir, choose_dtype(train.dtype, device))
        self._data_seconds = 0.0

    def open_monitors(self) -> "_Run":
        """Open the log files and the display; ``close`` ends them."""
        done = self.state.counters.step
        self.metrics = MetricsWriter(self.run_dir, resume_step=done, tensorboard=self.config.monitor.tensorboard)
        self.progress = Progress(total=self.config.train.steps, start=done, bar=self.config.monitor.progress)
        return self

    def close(self) -> None:
        self.metrics.close()
        self.progress.close()

    def loop(self, batches: Batches, signals: StopSignals) -> str | None:
        """Step to the end or to a signal; returns the signal's name. The state is saved either way."""
        counters, train = self.state.counters, self.config.train
        self._logged_at, self._logged_images, self._logged_step = time.monotonic(), self._images_seen(), counters.step
        while counters.step < train.steps:
            waiting = time.monotonic()
            images, clips = next(batches)
            self._data_seconds += time.monotonic() - waiting
            number = counters.step + 1
            last = number == train.steps
            healthy = number % self.config.monitor.health_every == 0
            outcome = self.step(images, clips, keep_outputs=healthy)
            if not outcome.finite:
                self.progress.note(f"step {number}: loss or gradient not finite, skipped ({counters.bad_steps} so far)")
            if healthy or last or number % train.log_every == 0:
                self._log(number, outcome)
            self.progress.advance(number)
            if last or signals.received:
                self.save()
                break
            if number % train.checkpoint_every == 0:
                self._save_and_go_on()
        return signals.received if counters.step < train.steps else None

    def save(self) -> None:
        """Write a checkpoint of the present state."""
        meta = self.state.meta(self.config) | {"watch": self.watch.state()}
        self.manager.save(self.state.counters.step, self.state.tensors(), meta)

    def result(self, stopped_by: str | None, began: float) -> TrainResult:
        counters = self.state.counters
        return TrainResult(
            run_dir=self.run_dir,
            step=counters.step,
            finished=counters.step >= self.config.train.steps,
            stopped_by=stopped_by,
            verdict=self.watch.verdict,
            bad_steps=counters.bad_steps,
            seconds=time.monotonic() - began,
            state=self.state,
        )

    def _start(self) -> None:
        """Resume, or initialise from another run's checkpoint, or leave the fresh state as it is."""
        checkpoint = self.manager.load()
        if checkpoint is not None:
            _warn_of_changes(self.config, checkpoint.meta["config"])
            self.state.restore(checkpoint)
            self.watch.load_state(checkpoint.meta["watch"])
            log.info("resumed from %s", checkpoint.path)
        elif self.config.train.init_from:
            init_from(self.state.agent, self.state.loss, self.config.train.init_from)

    def _save_and_go_on(self) -> None:
        """A periodic save that fails must not end days of training: say so and rely on the earlier checkpoint."""
        try:
            self.save()
        except CheckpointError as error:
            self.progress.note(f"SAVE FAILED, training goes on: {error}")

    def _log(self, number: int, outcome: StepOutcome) -> None:
        now = time.monotonic()
        elapsed = max(now - self._logged_at, 1e-9)
        record = {name: float(value) for name, value in outcome.losses.items()}
        record |= {"grad_norm": float(outcome.grad_norm), **vars(outcome.values)}
        record |= {
            "images_per_s": (self._images_seen() - self._logged_images) / elapsed,
            "seconds_per_step": elapsed / max(number - self._logged_step, 1),
            "data_share": self._data_seconds / elapsed,
            "bad_steps": self.state.counters.bad_steps,
        }
        if outcome.teacher and outcome.finite:
            record |= self._health(number, outcome)
        self.metrics.write(number, record)
        self.progress.report(number, record)
        self._logged_at, self._logged_images, self._logged_step, self._data_seconds = now, self._images_seen(), number, 0.0

    def _health(self, number: int, outcome: StepOutcome) -> dict[str, float | str | None]:
        before = self.watch.verdict
        reading = read_health(torch.cat(outcome.teacher), torch.cat(outcome.features))
        verdict = self.watch.update(number, reading)
        if verdict != before:
            self.progress.note(explain(verdict, reading) if verdict else f"step {number}: the {before} collapse has passed")
        return reading.named() | {"health/verdict": verdict}

    def _images_seen(self) -> int:
        counters = self.state.counters
        return counters.images_seen + counters.clips_seen * (self.config.data.clip.steps + 1)


def _batches_of(config: Config, device: torch.device) -> Callable[[int], Batches]:
    def open_at(step: int) -> Batches:
        # torch's loader draws a seed that no sample uses; the draw must not set a resumed run's generator apart.
        with torch.random.fork_rng(devices=[]):
            return training_batches(config, step, pin_memory=device.type == "cuda")

    return open_at


def _refuse_mesh(config: Config) -> None:
    mesh = config.parallel
    if mesh.dp_replicate * mesh.dp_shard * mesh.tp != 1:
        shape = f"{mesh.dp_replicate}×{mesh.dp_shard}×{mesh.tp}"
        raise ConfigError(f"parallel asks for {shape} processes, and this version trains in one; set its three keys to 1")


def _set_aside(run_dir: Path) -> None:
    """Move an earlier run's files out of the way, keeping them."""
    names = (CHECKPOINTS, METRICS_NAME, BAD_STEPS_NAME, "tensorboard", RESOLVED_NAME)
    found = [run_dir / name for name in names if (run_dir / name).exists()]
    if not found:
        return
    number = 1
    while (run_dir / f"previous-{number}").exists():
        number += 1
    target = run_dir / f"previous-{number}"
    target.mkdir()
    for path in found:
        os.rename(path, target / path.name)
    log.info("moved the earlier run to %s", target)


def _warn_of_changes(config: Config, saved: dict) -> None:
    """Name the keys in which a resumed run's config differs from the checkpoint's; the loss will not continue as it was."""
    ignored = ("run_dir", "job_name")
    now, then = dict(_flat(config.model_dump(mode="json"))), dict(_flat(saved))
    for key in sorted(now.keys() | then.keys()):
        if key not in ignored and now.get(key) != then.get(key):
            log.warning("config changed since the checkpoint: %s was %r, is %r", key, then.get(key), now.get(key))


def _flat(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


__all__ = ["NonFiniteError", "TrainResult", "run_folder", "train"]
