"""The checkpoints of one run: which one all processes continue from, and writing the next ones together."""

import itertools
import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from internlm.checkpoint.background import BackgroundSaver
from internlm.checkpoint.lock import RunLock, RunLockError
from internlm.checkpoint.manager import CheckpointManager, Guard
from internlm.checkpoint.run_config import settled_values
from internlm.config.errors import ConfigError
from internlm.config.load import RESOLVED_NAME, dotted
from internlm.config.resolve import parse_config
from internlm.config.schema import Config
from internlm.core.code_version import CODE_NAME, PATCH_NAME, code_version, described, write_code
from internlm.core.mesh import Mesh
from internlm.monitor.boards import TENSORBOARD, WANDB_ID
from internlm.monitor.metrics import METRICS_NAME
from internlm.monitor.profile import PROFILES
from internlm.monitor.rank_log import LOGS

from .bad_steps import BAD_STEPS_NAME
from .state import TrainState, build_state

CHECKPOINTS = "checkpoints"
CODE = "code"  # in a checkpoint's meta data: the version that trained last

log = logging.getLogger(__name__)


@contextmanager
def held(run_dir: Path, mesh: Mesh) -> Iterator[Guard]:
    """Hold the run folder for this run, by its first process; yields the check that it still does, to which others say yes.

    RunLockError on all processes where another run holds it.
    """
    with ExitStack() as stack:
        lock, refusal = RunLock(run_dir), None
        if mesh.writes:
            try:
                stack.enter_context(lock)
            except RunLockError as error:
                refusal = str(error)
        refusal = json.loads(mesh.saves.texts(json.dumps(refusal))[0])
        if refusal:
            raise RunLockError(refusal)
        yield lock.check if mesh.writes else lambda: None


class Saver:
    """Restores and saves a run's state. Every method is a collective: all processes call it, and all fail when one does.

    As a context it first writes down which code trains, and waits for a save in the background before it ends. ``background``:
    must be asked before weights and optimizer states change, and knows of saves that failed.
    """

    def __init__(self, config: Config, run_dir: Path, device: torch.device, mesh: Mesh, guard: Guard = lambda: None) -> None:
        self.config, self.run_dir, self.device, self.mesh = config, run_dir, device, mesh
        self._code, self._patch = code_version() if mesh.writes else ({}, "")
        train = config.train
        kept = {"keep_last": train.keep_last, "keep_every": train.keep_every}
        self.manager = CheckpointManager(run_dir / CHECKPOINTS, **kept, group=mesh.saves, guard=guard)
        self.background = BackgroundSaver(self.manager)

    def start(self) -> tuple[TrainState, dict[str, Any]]:
        """The state to train from (resumed, or with another run's weights, or fresh) and what ``save`` was given beside it."""
        checkpoint = self.manager.load()
        other = self.config.train.init_from if checkpoint is None else None
        state = build_state(self.config, self.device, self.mesh, start_from=other)
        if checkpoint is None:
            return state, {}
        _warn_of_changes(self.config, settled_values(checkpoint))
        then, now = checkpoint.meta.get(CODE), self._about()[CODE]
        if then and now and then != now:
            log.warning("code changed since the checkpoint: it was %s, is %s", described(then), described(now))
        state.restore(checkpoint)
        log.info("resumed from %s", checkpoint.path)
        return state, checkpoint.meta

    def restore(self, state: TrainState) -> bool:
        """Take a running state back to the newest checkpoint; False where there is none."""
        self.background.wait()
        checkpoint = self.manager.load()
        if checkpoint is not None:
            state.restore(checkpoint)
        return checkpoint is not None

    def save(self, state: TrainState, beside: dict[str, Any]) -> None:
        """Write a checkpoint of the present state, with ``beside`` (JSON) in its meta data. CheckpointError when it fails."""
        self.background.wait()
        self.manager.save(state.counters.step, state.shares(), state.meta(self.config) | self._about() | beside)

    def begin(self, state: TrainState, beside: dict[str, Any]) -> None:
        """``save``, or with ``train.async_save`` the start of it: ``background`` tells later where it came to nothing."""
        if self.config.train.async_save:
            meta = state.meta(self.config) | self._about() | beside
            self.background.start(state.counters.step, state.shares(), meta, moving=state.moving())
        else:
            self.save(state, beside)

    def _about(self) -> dict[str, Any]:
        """What a checkpoint says of the code; nothing on processes that do not write it."""
        return {CODE: {key: self._code[key] for key in ("version", "commit", "clean") if key in self._code}}

    def __enter__(self) -> "Saver":
        if self.mesh.writes:
            try:
                write_code(self.run_dir, self._code, self._patch)
            except OSError as error:  # a disk that is nearly full: the checkpoints name the commit
                log.warning("the code that trains is not written down in %s: %s", self.run_dir, error)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not KeyboardInterrupt:  # who presses Ctrl-C twice does not want to wait
            self.background.wait()


def set_aside(run_dir: Path) -> None:
    """Move an earlier run's files out of the way, keeping them."""
    logged = (METRICS_NAME, BAD_STEPS_NAME, TENSORBOARD, WANDB_ID, LOGS, PROFILES)
    names = (CHECKPOINTS, *logged, RESOLVED_NAME, CODE_NAME, PATCH_NAME)
    found = [run_dir / name for name in names if (run_dir / name).exists()]
    if not found:
        return
    places = (run_dir / f"previous-{number}" for number in itertools.count(1))
    target = next(place for place in places if not place.exists())
    target.mkdir()
    for path in found:
        os.rename(path, target / path.name)
    log.info("moved the earlier run to %s", target)


def _warn_of_changes(config: Config, saved: dict) -> None:
    """Name the keys in which a resumed run's config differs from the checkpoint's; the loss will not continue as it was."""
    ignored = ("run_dir", "job_name")
    with suppress(ValueError, ConfigError):  # keys that the checkpoint's version did not have had their defaults
        saved = parse_config(saved).model_dump(mode="json")
    now, then = dict(dotted(config.model_dump(mode="json"))), dict(dotted(saved))
    for key in sorted(now.keys() | then.keys()):
        if key not in ignored and now.get(key) != then.get(key):
            log.warning("config changed since the checkpoint: %s was %r, is %r", key, then.get(key), now.get(key))
