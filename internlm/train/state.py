"""Everything that changes while training, and how it becomes a checkpoint and comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from internlm.checkpoint.index import Checkpoint
from internlm.checkpoint.sums import CheckpointError
from internlm.config.places import PATHS_FROM, portable
from internlm.config.schema import Config
from internlm.core.boxes import Share
from internlm.core.init import choose_dtype
from internlm.core.mesh import AXES, Mesh
from internlm.core.seed import rng_state, seed_everything, seed_process, set_rng_state
from internlm.parallel.apply import parallelise
from internlm.parallel.plan import cuts
from internlm.parallel.shares import shares
from internlm.systems.base import System
from internlm.systems.resolve import build_system

from .engine import Engine, TorchEngine, optimised, trained_modules

OPTIMIZER, RNG = "optimizer", "rng"  # parts of a checkpoint beside the system's


@dataclass
class Counters:
    """What a run has consumed; a checkpoint's ``counters``."""

    step: int = 0
    seen: dict[str, int] = field(default_factory=dict)  # samples of each stream, by all processes together
    bad_steps: int = 0  # skipped for what ``BadSteps`` found
    bad_streak: int = 0  # of these, in a row until now
    rewinds: int = 0  # returns to an earlier checkpoint after too many of them
    skipped_batches: int = 0  # of these returns: the data of step s are those at s + skipped_batches

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> "Counters":
        """From a checkpoint. Those of before named streams have ``<stream>s_seen`` in the place of ``seen``."""
        old = {name.removesuffix("s_seen"): count for name, count in saved.items() if name.endswith("s_seen")}
        values = {name: value for name, value in saved.items() if not name.endswith("s_seen")}
        return cls(**({"seen": old} if old else {}) | values)


@dataclass
class TrainState:
    """The system, the engine with the optimizer, the counters, and the mesh they are divided over."""

    system: System
    engine: Engine
    counters: Counters
    mesh: Mesh

    def shares(self) -> dict[str, dict[str, Share]]:
        """What this process holds of every tensor, by checkpoint part: views of the memory that is trained on. A collective."""
        modules, own = self.modules(), self.engine.weights()
        held = {name: shares(own.get(name) or module.state_dict(), self.mesh, cuts(module)) for name, module in modules.items()}
        optimizer = shares(self.engine.optimizer_tensors(), self.mesh, cuts(optimised(trained_modules(self.system.parts()))))
        return held | {OPTIMIZER: optimizer, RNG: self._rng()}

    def moving(self) -> dict[str, set[str]]:
        """Names by part of the tensors that forward passes change; all others change in optimizer steps only."""
        return {part: {name for name, _ in module.named_buffers()} for part, module in self.modules().items()}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of any mesh, reading no more than this process's share.

        On the mesh that wrote it, every process's generators continue; on another, they are seeded anew from the run's seed, the
        step and the data-parallel rank. Raises CheckpointError or KeyError when it belongs to another model.
        """
        modules = self.modules()
        absent = sorted({*modules, OPTIMIZER, RNG} - checkpoint.index.keys())
        if absent:
            way_out = f"start from its weights with train.init_from={checkpoint.path} and another run_dir"
            raise CheckpointError(f"{checkpoint.path} lacks {', '.join(absent)} and cannot be continued; {way_out}")
        self.engine.restore(checkpoint)
        trained = trained_modules(self.system.parts())
        for name, module in modules.items():
            if name not in trained:
                checkpoint.fill(name, shares(module.state_dict(), self.mesh, cuts(module)))
        self.counters = Counters.read(checkpoint.meta["counters"])
        own = self._rng()
        if checkpoint.meta.get("mesh") == self._layout() and own.keys() <= checkpoint.index[RNG].keys():
            checkpoint.fill(RNG, own, exact=False)
            states = {name.partition("/")[2]: share.pieces[0].tensor for name, share in own.items()}
            set_rng_state(states, self.device)
        else:
            seed_process(checkpoint.meta["config"]["seed"], self.counters.step, self.mesh.data.rank)

    def meta(self, config: Config) -> dict[str, Any]:
        """The counters, the resolved config with where its paths start from, and the mesh, as JSON."""
        values, paths_from = portable(config.model_dump(mode="json"))
        return {"counters": dict(vars(self.counters)), "config": values, PATHS_FROM: paths_from, "mesh": self._layout()}

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        return next(parameter.device for module in self.modules().values() for parameter in module.parameters())

    def modules(self) -> dict[str, nn.Module]:
        """The system's modules by checkpoint name."""
        return {name: part.module for name, part in self.system.parts().items()}

    def _rng(self) -> dict[str, Share]:
        states = rng_state(self.device)
        return {f"rank{self.mesh.world.rank}/{name}": Share.whole(state) for name, state in states.items()}

    def _layout(self) -> dict[str, int]:
        return dict(zip(AXES, self.mesh.shape, strict=True))


def build_state(
    config: Config, device: torch.device, mesh: Mesh | None = None, *, start_from: str | Path | None = None
) -> TrainState:
    """A fresh state under the run's seed, the same on every process, divided over the mesh.

    ``start_from``: checkpoint of another run whose weights replace the fresh ones (stage 2 from stage 1).
    """
    mesh = mesh or Mesh()
    seed_everything(config.seed)
    system = build_system(config)
    for part in system.parts().values():
        part.module.to(device)
    if start_from:
        system.init_from(Path(start_from), mesh.saves)
    dtype = choose_dtype(config.train.dtype, device)
    divide_system(system, device, dtype, mesh)
    seed_process(config.seed, 0, mesh.data.rank)
    return TrainState(system, _engine(system, mesh), Counters(), mesh)


def divide_system(system: System, device: torch.device, dtype: torch.dtype, mesh: Mesh) -> None:
    """Make a fresh system ready to train on a mesh, in place."""
    system.prepare(device, dtype, mesh)
    for part in system.parts().values():
        parallelise(part.module, system.config.parallel, mesh, dtype, trained=part.trained)
        part.module.train()


def _engine(system: System, mesh: Mesh) -> Engine:
    config = system.config
    if config.parallel.engine == "torch":
        return TorchEngine(system.parts(), config, mesh)
    from .deepspeed_engine import open_deepspeed

    return open_deepspeed(system.parts(), config, mesh)
