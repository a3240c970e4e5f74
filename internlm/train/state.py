"""Everything that changes while training, and how it becomes a checkpoint and comes back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from internlm.checkpoint.index import Checkpoint
from internlm.checkpoint.sums import CheckpointError
from internlm.checkpoint.weights import init_from
from internlm.config.places import PATHS_FROM, portable
from internlm.config.schema import Config
from internlm.core.boxes import Share
from internlm.core.init import choose_dtype
from internlm.core.mesh import AXES, Mesh
from internlm.core.seed import rng_state, seed_everything, seed_process, set_rng_state
from internlm.loss.joint import JointLoss
from internlm.model.egoagent import EgoAgent
from internlm.model.kernels import use_attention
from internlm.parallel.apply import parallelise
from internlm.parallel.shares import shares

from .engine import Engine, TorchEngine


@dataclass
class Counters:
    """What a run has consumed; a checkpoint's ``counters``."""

    step: int = 0
    images_seen: int = 0  # by all processes together, like clips_seen
    clips_seen: int = 0
    bad_steps: int = 0  # skipped for what ``BadSteps`` found
    bad_streak: int = 0  # of these, in a row until now
    rewinds: int = 0  # returns to an earlier checkpoint after too many of them
    skipped_batches: int = 0  # of these returns: the data of step s are those at s + skipped_batches


@dataclass
class TrainState:
    """The agent, the losses' centres, the engine with the optimizer, the counters, and the mesh they are divided over."""

    agent: EgoAgent
    loss: JointLoss
    engine: Engine
    counters: Counters
    mesh: Mesh

    def shares(self) -> dict[str, dict[str, Share]]:
        """What this process holds of every tensor, by checkpoint part: views of the memory that is trained on. A collective."""
        parts = {
            "predictor": self.engine.weights(),
            "observer": self.agent.observer.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.engine.optimizer_tensors(),
        }
        return {name: shares(part, self.mesh) for name, part in parts.items()} | {"rng": self._rng()}

    def moving(self) -> dict[str, set[str]]:
        """Names by part of the tensors that forward passes change; all others change in optimizer steps only."""
        modules = {"predictor": self.agent.predictor, "observer": self.agent.observer, "loss": self.loss}
        return {part: {name for name, _ in module.named_buffers()} for part, module in modules.items()}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of any mesh, reading no more than this process's share.

        On the mesh that wrote it, every process's generators continue; on another, they are seeded anew from the run's seed, the
        step and the data-parallel rank. Raises CheckpointError or KeyError when it belongs to another model.
        """
        absent = sorted({"predictor", "observer", "loss", "optimizer", "rng"} - checkpoint.index.keys())
        if absent:
            raise CheckpointError(
                f"{checkpoint.path} lacks {', '.join(absent)} and cannot be continued; start from its weights with "
                f"train.init_from={checkpoint.path} and another run_dir"
            )
        self.engine.restore(checkpoint)
        for name, module in {"observer": self.agent.observer, "loss": self.loss}.items():
            checkpoint.fill(name, shares(module.state_dict(), self.mesh))
        self.counters = Counters(**checkpoint.meta["counters"])
        own = self._rng()
        if checkpoint.meta.get("mesh") == self._layout() and own.keys() <= checkpoint.index["rng"].keys():
            checkpoint.fill("rng", own, exact=False)
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
        return next(self.agent.parameters()).device

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
    agent = EgoAgent(config.model).to(device)
    loss = JointLoss(config.loss, config.model.prototypes).to(device)
    if start_from:
        init_from(agent, loss, start_from)
    if config.stage == "pretrain":
        agent.freeze_action_parts()
    dtype = choose_dtype(config.train.dtype, device)
    for network in (agent.predictor, agent.observer):
        use_attention(network, config.model.attention, device, dtype)
    parallelise(agent, loss, config.parallel, mesh, dtype)
    seed_process(config.seed, 0, mesh.data.rank)
    return TrainState(agent.train(), loss.train(), _engine(agent, config, mesh), Counters(), mesh)


def _engine(agent: EgoAgent, config: Config, mesh: Mesh) -> Engine:
    if config.parallel.engine == "torch":
        return TorchEngine(agent, config, mesh)
    from .deepspeed_engine import open_deepspeed

    return open_deepspeed(agent, config, mesh)
