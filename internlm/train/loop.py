"""A whole run: start, step, stop in good order. What it saves is ``saving.py``, what it tells ``reporting.py``."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from internlm.checkpoint.manager import CheckpointError, Guard
from internlm.config.load import RESOLVED_NAME, save_config
from internlm.config.schema import Config
from internlm.core.collectives import is_lost_process
from internlm.core.init import choose_device, choose_dtype, set_threads
from internlm.core.meeting import AbsentProcessError
from internlm.core.mesh import Mesh, local_device, open_mesh, read_launch
from internlm.data.contents import difference, recorded
from internlm.data.loader import TrainingBatches, dead_worker, training_batches
from internlm.data.order import Source, Stream
from internlm.monitor.clock import Clock
from internlm.monitor.rank_log import rank_log_path
from internlm.monitor.watchdog import Watchdog

from .bad_steps import BadStepsError
from .reporting import Report
from .saving import Saver, held, set_aside
from .signals import EXIT_STUCK, STOPPING, StopSignals
from .state import TrainState
from .step import StepOutcome, TrainStep
from .validate import held_out_batches, held_out_losses

RUNS = "runs"
CALLER = "the caller"
COLLECTIVE_MARGIN = 1  # minutes: a collective gives up later than the watchdog, whose account says more
PATIENCE_SHARE = 0.8  # of the watchdog's time: who knows what is waited for speaks before it

Batches = Iterator[dict[str, Any]]  # of a step, by stream
AfterStep = Callable[[TrainState, StepOutcome], bool]

_WORDS = (None, *(number.name for number in STOPPING))  # what processes tell each other in a step: a signal that came

log = logging.getLogger(__name__)


class LostProcessError(RuntimeError):
    """Another process of the run ended or no longer answers."""


@dataclass(frozen=True)
class TrainResult:
    """How a run, or this process's share of it, ended."""

    run_dir: Path
    step: int
    finished: bool
    stopped_by: str | None  # name of the signal, or ``CALLER``
    verdict: str | None  # standing collapse verdict: "uniform", "constant" or None
    bad_steps: int
    seconds: float
    state: TrainState


def run_folder(config: Config) -> Path:
    """The run folder that a config asks for."""
    return Path(config.run_dir) if config.run_dir else Path(RUNS) / config.job_name


def train(
    config: Config,
    *,
    resume: bool = True,
    batches: Callable[[int], Batches] | None = None,
    after_step: AfterStep = lambda state, outcome: False,
    mesh: Mesh | None = None,
) -> TrainResult:
    """Train to ``train.steps``, continuing from the newest intact checkpoint of the run folder.

    Args:
        resume: False starts anew; what an earlier run left in the folder is moved into a ``previous-<n>`` folder in it.
        batches: step → iterator of this process's batches from that step on; None reads the config's data.
        after_step: looks at every step that is done; where it says True, on all processes alike, the run ends as by a signal.
        mesh: to train on; None opens the launch's. ``Mesh()`` lets one process of a launch train by itself.

    Under a launcher of several processes (torchrun, srun) all of them call this, and the first writes the run folder.
    Raises BadStepsError after too many bad steps, LostProcessError where another process is gone, RunLockError where another run
    holds the folder, CheckpointError, DataError, DeviceError, MeshError and ConfigError. A run that stands still for
    ``parallel.timeout_minutes`` ends the process.
    """
    began = time.monotonic()
    set_threads(config.train.threads)
    device = local_device(choose_device(config.train.device))
    parallel, run_dir, rank = config.parallel, run_folder(config), read_launch().rank
    watchdog = Watchdog(60 * parallel.timeout_minutes, rank_log_path(run_dir, rank), rank=rank, exit_code=EXIT_STUCK)
    shape, always = (parallel.dp_replicate, parallel.dp_shard, parallel.tp), parallel.engine == "deepspeed"
    try:
        limit, patience = parallel.timeout_minutes + COLLECTIVE_MARGIN, PATIENCE_SHARE * parallel.timeout_minutes
        opened = open_mesh(shape, device, limit, patience_minutes=patience, always=always)
        with watchdog, nullcontext(mesh) if mesh else opened as found, held(run_dir, found) as check_lock:
            if not resume:
                if found.writes:
                    set_aside(run_dir)
                found.world.max(torch.zeros((), device=device))  # nobody looks for checkpoints before they are out of the way
            run = _Run(config, run_dir, device, found, batches, after_step, watchdog, check_lock)
            with closing(run.state.engine):
                if run.state.counters.step >= config.train.steps:
                    log.info("%s is complete: %d of %d steps", run_dir, run.state.counters.step, config.train.steps)
                    return run.result(None, began)
                with StopSignals() as signals, run:
                    stopped_by = run.loop(signals)
        return run.result(stopped_by, began)
    except AbsentProcessError as error:
        raise LostProcessError(str(error)) from error
    except RuntimeError as error:
        if died := dead_worker(error):
            raise died from error
        if not is_lost_process(error):
            raise
        lost = f"rank {rank} lost the others: one of them has ended, and its own messages say why"
        raise LostProcessError(f"{lost}. The same command continues from the last checkpoint ({error})") from error


class _Run:
    """The parts of one run in this process."""

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        device: torch.device,
        mesh: Mesh,
        batches: Callable[[int], Batches] | None,
        after_step: AfterStep,
        watchdog: Watchdog,
        check_lock: Guard,
    ) -> None:
        self.config, self.run_dir, self.device, self.mesh = config, run_dir, device, mesh
        self.saver = Saver(config, run_dir, device, mesh, check_lock)
        self.state, saved = self.saver.start()
        if mesh.writes:
            save_config(config, run_dir / RESOLVED_NAME)
        self.clock, dtype = Clock(device), choose_dtype(config.train.dtype, device)
        self.step = TrainStep(config, self.state, run_dir, dtype, self.clock, self.saver.background.before_change)
        self.report = Report(config, run_dir, self.state, self.clock, dtype)
        self._take_over(saved)
        self._open_batches, self._after_step, self._watchdog = batches, after_step, watchdog

    def __enter__(self) -> "_Run":
        with ExitStack() as stack:
            stack.enter_context(self.report)
            stack.enter_context(self.saver)
            self._batches = self._batches_from_here()
            stack.callback(lambda: _close(self._batches))
            if self.config.train.validate_every:
                self._watchdog.beat("reading what is held out")
                sources = getattr(self._batches, "sources", {})
                self._held_out = held_out_batches(self.config, self._read, sources)
                self._watchdog.beat(f"step {self.state.counters.step + 1}")
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._closing.__exit__(*error)

    def loop(self, signals: StopSignals) -> str | None:
        """Step to the end or to a signal; returns who stopped it. The state is saved either way."""
        train, stopped_by, due = self.config.train, None, False
        while self.state.counters.step < train.steps and not stopped_by:
            number = self.state.counters.step + 1
            healthy = self.report.step_begins(number)
            with self.clock.phase("data"):
                batches = self._next_batch(signals)
            if batches is None:
                stopped_by = signals.received
                self._save(self.saver.save)
                break
            try:
                outcome = self.step(batches, keep_outputs=healthy, word=_WORDS.index(signals.received))
            except BadStepsError as error:
                self._rewind(error)
                continue
            self._watchdog.beat(f"step {number}")
            self.report.step_done(number, outcome, self._validate(number, outcome))
            # All processes stop after the same step: the one in which the signal of any was heard.
            signal = signals.received if self.mesh.alone else _WORDS[outcome.heard]
            stopped_by = signal or (CALLER if self._after_step(self.state, outcome) else None)
            self._note_failed_save()
            due = due or number % train.checkpoint_every == 0
            if number == train.steps or stopped_by:
                self._save(self.saver.save)
                self._note_failed_save()
            elif due and not outcome.bad:  # amid bad steps there is nothing to go back to
                self._save_and_go_on()
                due = False
        return stopped_by if self.state.counters.step < train.steps else None

    def _validate(self, number: int, outcome: StepOutcome) -> dict[str, Tensor]:
        """The held-out losses where they are due."""
        every = self.config.train.validate_every
        if not every or number % every:
            return {}
        with self.clock.phase("validation"):
            found = held_out_losses(self.state, self._held_out, outcome.values, self.step.dtype)
        self._watchdog.beat(f"validated step {number}")
        return found

    def _next_batch(self, signals: StopSignals) -> dict[str, Any] | None:
        """The next batches; None when a process alone is told to stop while they do not come. Others must step together."""
        ready = getattr(self._batches, "ready", None)
        while ready and not ready():
            if signals.received and self.mesh.alone:
                return None
        return next(self._batches)

    def _batches_from_here(self) -> Batches:
        """This process's batches for the next step on.

        Millions of files are listed for minutes: opening the data and the step after it each have the watchdog's whole time.
        """
        self._watchdog.beat("opening the data")
        counters = self.state.counters
        start, stop = (step + counters.skipped_batches for step in (counters.step, self.config.train.steps))
        if self._open_batches:
            batches = self._open_batches(start)
        else:
            batches = self._read(self.state.system.streams(), range(start, stop), pin_memory=self.device.type == "cuda")
        self._note_contents(getattr(batches, "sources", {}))
        self._watchdog.beat(f"step {counters.step + 1}")
        return batches

    def _read(self, streams: Mapping[str, Stream], steps: range, **options: Any) -> TrainingBatches:
        config, data = self.config, self.mesh.data
        limit = PATIENCE_SHARE * 60 * config.parallel.timeout_minutes
        options |= {"seed": config.seed, "data": config.data, "rank": data.rank, "world": data.size, "timeout": limit}
        # torch's loader draws a seed that no sample uses; the draw must not set a resumed run's generator apart.
        with torch.random.fork_rng(devices=[]):
            return training_batches(streams, steps, **options)

    def _note_contents(self, sources: Mapping[str, Source]) -> None:
        """Keep for the checkpoints what the order of samples depends on, and say where it is not what the last one had."""
        if not self.mesh.writes:
            return
        now = {name: recorded(source.contents()) for name, source in sources.items()}
        for name in now:
            if name in self._contents and (found := difference(self._contents[name], now[name])):
                log.warning(
                    "data changed since the checkpoint, stream %s: %s. The order of its samples differs from here on", name, found
                )
        self._contents = now

    def _rewind(self, error: BadStepsError) -> None:
        """Go back to the last checkpoint and on with the batches after the bad ones; raise ``error`` where that must not be."""
        train, bad = self.config.train, self.state.counters
        if train.on_bad == "stop" or bad.rewinds >= train.max_rewinds or not self.saver.restore(self.state):
            raise error
        now = self.state.counters
        now.skipped_batches = bad.step + bad.skipped_batches - now.step
        now.rewinds, now.bad_steps, now.bad_streak = bad.rewinds + 1, bad.bad_steps, 0
        _close(self._batches)
        self._batches = self._batches_from_here()
        self.report.rewound()
        self.report.note(
            f"REWIND {now.rewinds} of at most {train.max_rewinds}: back from step {bad.step} to step {now.step}, "
            f"on with the batches after the bad ones. {error}",
            logging.WARNING,
        )
        self._save_and_go_on()  # whoever is killed now must not meet the same batches again, and again

    def _beside(self) -> dict[str, Any]:
        """What a checkpoint holds beside the state."""
        spikes = self.step.bad_steps.spikes
        beside = {"watch": self.report.watch.state(), "spikes": spikes.state() if spikes else {}}
        return beside | ({"data": self._contents} if self._contents else {})

    def _take_over(self, beside: dict[str, Any]) -> None:
        self._contents = beside.get("data", {})
        if "watch" in beside:
            self.report.watch.load_state(beside["watch"])
        if self.step.bad_steps.spikes:
            self.step.bad_steps.spikes.load_state(beside.get("spikes", {}))

    def _save(self, save: Callable[[TrainState, dict[str, Any]], None]) -> None:
        self._watchdog.beat(f"saving step {self.state.counters.step}")
        with self.clock.phase("save"):
            save(self.state, self._beside())
        self._watchdog.beat(f"saved step {self.state.counters.step}")

    def _save_and_go_on(self) -> None:
        """A periodic save that fails must not end days of training: say so and rely on the earlier checkpoint."""
        try:
            self._save(self.saver.begin)
        except CheckpointError as error:
            self._note_failed_save(error)

    def _note_failed_save(self, error: CheckpointError | None = None) -> None:
        if error := error or self.saver.background.failure():
            self.report.note(f"SAVE FAILED, training goes on: {error}", logging.ERROR)

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


def _close(batches: Batches) -> None:
    if hasattr(batches, "close"):
        batches.close()
