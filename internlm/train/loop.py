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
from internlm.config.load import RESOLVED_NAME, save_config
from internlm.config.schema import Config
from internlm.core.init import choose_device, choose_dtype, set_threads
from internlm.core.mesh import Mesh, local_device, open_mesh
from internlm.data.batch import ClipBatch, ImageBatch
from internlm.data.loader import training_batches
from internlm.monitor.health import CollapseWatch, explain, read_health
from internlm.monitor.metrics import METRICS_NAME, MetricsWriter
from internlm.monitor.progress import Progress

from .signals import STOPPING, StopSignals
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
        batches: step → iterator of this process's batches from that step on; None reads the config's data.

    Under a launcher of several processes (torchrun, srun) all of them call this, and the first writes the run folder.
    Raises NonFiniteError after too many bad steps, CheckpointError, DataError, DeviceError, MeshError and ConfigError.
    """
    began = time.monotonic()
    set_threads(config.train.threads)
    device = local_device(choose_device(config.train.device))
    parallel = config.parallel
    with open_mesh((parallel.dp_replicate, parallel.dp_shard, parallel.tp), device, parallel.timeout_minutes) as mesh:
        return _train(config, device, mesh, resume, batches, began)


def _train(
    config: Config, device: torch.device, mesh: Mesh, resume: bool, batches: Callable[[int], Batches] | None, began: float
) -> TrainResult:
    run_dir = run_folder(config)
    run_dir.mkdir(parents=True, exist_ok=True)
    if not resume:
        if mesh.writes:
            _set_aside(run_dir)
        mesh.world.max(torch.zeros((), device=device))  # nobody looks for checkpoints before they are out of the way
    run = _Run(config, run_dir, device, mesh)
    if run.state.counters.step >= config.train.steps:
        log.info("%s is complete: %d of %d steps", run_dir, run.state.counters.step, config.train.steps)
        return run.result(None, began)
    with ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        source = (batches or _batches_of(config, device, mesh))(run.state.counters.step)
        if hasattr(source, "close"):
            stack.enter_context(closing(source))
        stack.enter_context(closing(run.open_monitors()))
        stopped_by = run.loop(source, signals)
    return run.result(stopped_by, began)


class _Run:
    """The parts of one run in this process."""

    def __init__(self, config: Config, run_dir: Path, device: torch.device, mesh: Mesh) -> None:
        self.config, self.run_dir, self.device, self.mesh = config, run_dir, device, mesh
        train, monitor = config.train, config.monitor
        self.manager = CheckpointManager(run_dir / CHECKPOINTS, keep_last=train.keep_last, keep_every=train.keep_every)
        self.watch = CollapseWatch(
            patience=monitor.collapse_patience, grace_steps=int(max(config.optim.warmup_share, 0.1) * train.steps)
        )
        self._start()
        if mesh.writes:
            save_config(config, run_dir / RESOLVED_NAME)
        self.step = TrainStep(config, self.state, run_dir, choose_dtype(train.dtype, device))
        self._data_seconds = 0.0

    def open_monitors(self) -> "_Run":
        """Open the log files and the display of the process that writes; ``close`` ends them."""
        if not self.mesh.writes:
            return self
        done = self.state.counters.step
        self.metrics = MetricsWriter(self.run_dir, resume_step=done, tensorboard=self.config.monitor.tensorboard)
        self.progress = Progress(total=self.config.train.steps, start=done, bar=self.config.monitor.progress)
        return self

    def close(self) -> None:
        if self.mesh.writes:
            self.metrics.close()
            self.progress.close()

    def loop(self, batches: Batches, signals: StopSignals) -> str | None:
        """Step to the end or to a signal; returns the signal's name. The state is saved either way."""
        counters, train = self.state.counters, self.config.train
        self._logged_at, self._logged_images, self._logged_step = time.monotonic(), self._images_seen(), counters.step
        stopped_by = None
        while counters.step < train.steps:
            waiting = time.monotonic()
            images, clips = next(batches)
            self._data_seconds += time.monotonic() - waiting
            number = counters.step + 1
            last = number == train.steps
            healthy = number % self.config.monitor.health_every == 0
            outcome = self.step(images, clips, keep_outputs=healthy)
            if not outcome.finite:
                self._note(f"step {number}: loss or gradient not finite, skipped ({counters.bad_steps} so far)")
            if self.mesh.writes:
                if healthy or last or number % train.log_every == 0:
                    self._log(number, outcome)
                self.progress.advance(number)
            stopped_by = self._signal_of_any(signals)
            if last or stopped_by:
                self.save()
                break
            if number % train.checkpoint_every == 0:
                self._save_and_go_on()
        return stopped_by if counters.step < train.steps else None

    def save(self) -> None:
        """Write a checkpoint of the present state. All processes call it, and all raise CheckpointError when it fails."""
        meta = self.state.meta(self.config) | {"watch": self.watch.state()}
        tensors = self.state.tensors()
        failure: CheckpointError | None = None
        if self.mesh.writes:
            try:
                self.manager.save(self.state.counters.step, tensors, meta)
            except CheckpointError as error:
                failure = error
        if self._of_any(failure is not None):
            raise failure or CheckpointError("the process that writes could not save the checkpoint; its own message says why")

    def _signal_of_any(self, signals: StopSignals) -> str | None:
        """The stopping signal that some process received: all stop after the same step."""
        if self.mesh.alone:
            return signals.received
        names = [None, *(number.name for number in STOPPING)]
        return names[self._of_any(names.index(signals.received))]

    def _of_any(self, value: int) -> int:
        """The largest of all processes' values."""
        return int(self.mesh.world.max(torch.tensor(float(value), device=self.device)).item())

    def _note(self, message: str) -> None:
        if self.mesh.writes:
            self.progress.note(message)

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
        """Build the state: resumed, or with another run's weights, or fresh."""
        checkpoint = self.manager.load()
        self._check_same(-1 if checkpoint is None else checkpoint.step)
        other = self.config.train.init_from if checkpoint is None else None
        self.state = build_state(self.config, self.device, self.mesh, start_from=other)
        if checkpoint is not None:
            _warn_of_changes(self.config, checkpoint.meta["config"])
            self.state.restore(checkpoint)
            self.watch.load_state(checkpoint.meta["watch"])
            log.info("resumed from %s", checkpoint.path)

    def _check_same(self, step: int) -> None:
        """All processes must continue from the same checkpoint; a folder that is not shared between machines shows here."""
        steps = sorted({int(found) for found in self.mesh.world.gathered(torch.tensor([step], device=self.device)).tolist()})
        if len(steps) > 1:
            text = " and ".join("none" if found < 0 else f"step {found}" for found in steps)
            raise CheckpointError(
                f"the processes see different checkpoints in {self.manager.folder} ({text}); "
                "put run_dir on a file system that all machines share"
            )

    def _save_and_go_on(self) -> None:
        """A periodic save that fails must not end days of training: say so and rely on the earlier checkpoint."""
        try:
            self.save()
        except CheckpointError as error:
            self._note(f"SAVE FAILED, training goes on: {error}")

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


def _batches_of(config: Config, device: torch.device, mesh: Mesh) -> Callable[[int], Batches]:
    def open_at(step: int) -> Batches:
        # torch's loader draws a seed that no sample uses; the draw must not set a resumed run's generator apart.
        with torch.random.fork_rng(devices=[]):
            share = {"rank": mesh.data.rank, "world": mesh.data.size}
            return training_batches(config, step, **share, pin_memory=device.type == "cuda")

    return open_at


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
