"""A whole run: start, step, stop in good order. What it saves is ``saving.py``, what it tells ``reporting.py``."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from internlm.checkpoint.manager import CheckpointError
from internlm.config.load import RESOLVED_NAME, save_config
from internlm.config.schema import Config
from internlm.core.init import choose_device, choose_dtype, set_threads
from internlm.core.mesh import Mesh, local_device, open_mesh
from internlm.data.batch import ClipBatch, ImageBatch
from internlm.data.loader import training_batches

from .reporting import Report
from .saving import Saver, set_aside
from .signals import STOPPING, StopSignals
from .state import TrainState
from .step import NonFiniteError, TrainStep

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
    shape, always = (parallel.dp_replicate, parallel.dp_shard, parallel.tp), parallel.engine == "deepspeed"
    with open_mesh(shape, device, parallel.timeout_minutes, always=always) as mesh:
        return _train(config, device, mesh, resume, batches, began)


def _train(
    config: Config, device: torch.device, mesh: Mesh, resume: bool, batches: Callable[[int], Batches] | None, began: float
) -> TrainResult:
    run_dir = run_folder(config)
    run_dir.mkdir(parents=True, exist_ok=True)
    if not resume:
        if mesh.writes:
            set_aside(run_dir)
        mesh.world.max(torch.zeros((), device=device))  # nobody looks for checkpoints before they are out of the way
    run = _Run(config, run_dir, device, mesh)
    with ExitStack() as stack:
        stack.enter_context(closing(run.state.engine))
        if run.state.counters.step >= config.train.steps:
            log.info("%s is complete: %d of %d steps", run_dir, run.state.counters.step, config.train.steps)
            return run.result(None, began)
        signals = stack.enter_context(StopSignals())
        source = (batches or _batches_of(config, device, mesh))(run.state.counters.step)
        if hasattr(source, "close"):
            stack.enter_context(closing(source))
        stack.enter_context(run.report)
        stack.enter_context(run.saver)
        stopped_by = run.loop(source, signals)
    return run.result(stopped_by, began)


class _Run:
    """The parts of one run in this process."""

    def __init__(self, config: Config, run_dir: Path, device: torch.device, mesh: Mesh) -> None:
        self.config, self.run_dir, self.device, self.mesh = config, run_dir, device, mesh
        self.saver = Saver(config, run_dir, device, mesh)
        self.state, saved = self.saver.start()
        if mesh.writes:
            save_config(config, run_dir / RESOLVED_NAME)
        self.step = TrainStep(config, self.state, run_dir, choose_dtype(config.train.dtype, device))
        self.report = Report(config, run_dir, self.state.counters, writes=mesh.writes)
        if "watch" in saved:
            self.report.watch.load_state(saved["watch"])

    def loop(self, batches: Batches, signals: StopSignals) -> str | None:
        """Step to the end or to a signal; returns the signal's name. The state is saved either way."""
        counters, train = self.state.counters, self.config.train
        stopped_by = None
        while counters.step < train.steps:
            waiting = time.monotonic()
            images, clips = next(batches)
            self.report.waited(time.monotonic() - waiting)
            number = counters.step + 1
            outcome = self.step(images, clips, keep_outputs=self.report.wants_outputs(number))
            self.report.step_done(number, outcome)
            stopped_by = self._signal_of_any(signals)
            self._note_failed_save()
            if number == train.steps or stopped_by:
                self.saver.save(self.state, self._beside())
                self._note_failed_save()
                break
            if number % train.checkpoint_every == 0:
                self._save_and_go_on()
        return stopped_by if counters.step < train.steps else None

    def _beside(self) -> dict[str, Any]:
        return {"watch": self.report.watch.state()}

    def _save_and_go_on(self) -> None:
        """A periodic save that fails must not end days of training: say so and rely on the earlier checkpoint."""
        try:
            self.saver.begin(self.state, self._beside())
        except CheckpointError as error:
            self._note_failed_save(error)

    def _note_failed_save(self, error: CheckpointError | None = None) -> None:
        if error := error or self.saver.failure():
            self.report.note(f"SAVE FAILED, training goes on: {error}")

    def _signal_of_any(self, signals: StopSignals) -> str | None:
        """The stopping signal that some process received: all stop after the same step."""
        if self.mesh.alone:
            return signals.received
        names = [None, *(number.name for number in STOPPING)]
        return names[int(self.mesh.world.largest(names.index(signals.received), self.device))]

    def result(self, stopped_by: str | None, began: float) -> TrainResult:
        counters = self.state.counters
        return TrainResult(
            run_dir=self.run_dir,
            step=counters.step,
            finished=counters.step >= self.config.train.steps,
            stopped_by=stopped_by,
            verdict=self.report.watch.verdict,
            bad_steps=counters.bad_steps,
            seconds=time.monotonic() - began,
            state=self.state,
        )


def _batches_of(config: Config, device: torch.device, mesh: Mesh) -> Callable[[int], Batches]:
    def open_at(step: int) -> Batches:
        # torch's loader draws a seed that no sample uses; the draw must not set a resumed run's generator apart.
        with torch.random.fork_rng(devices=[]):
            share = {"rank": mesh.data.rank, "world": mesh.data.size}
            return training_batches(config, step, **share, pin_memory=device.type == "cuda")

    return open_at


__all__ = ["NonFiniteError", "TrainResult", "run_folder", "train"]
