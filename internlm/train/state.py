"""Everything that changes while training, and how it becomes a checkpoint and comes back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from internlm.checkpoint.manager import Checkpoint
from internlm.checkpoint.weights import init_from
from internlm.config.schema import Config
from internlm.core.init import choose_dtype
from internlm.core.mesh import Mesh
from internlm.core.seed import rng_state, seed_everything, set_rng_state
from internlm.loss.joint import JointLoss
from internlm.model.egoagent import EgoAgent
from internlm.parallel.apply import parallelise
from internlm.parallel.whole import gathered, load_whole

from .engine import Engine, TorchEngine


@dataclass
class Counters:
    """What a run has consumed; a checkpoint's ``counters``."""

    step: int = 0
    images_seen: int = 0  # by all processes together, like clips_seen
    clips_seen: int = 0
    bad_steps: int = 0  # non-finite steps, skipped
    bad_streak: int = 0  # of these, in a row until now


@dataclass
class TrainState:
    """The agent, the losses' centres, the engine with the optimizer, the counters, and the mesh they are divided over."""

    agent: EgoAgent
    loss: JointLoss
    engine: Engine
    counters: Counters
    mesh: Mesh

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All tensors, whole, by checkpoint part: the same whatever the mesh.

        A collective; of several processes only the one that writes gets the values (``parallel.whole.gathered``).
        """
        parts = {
            "predictor": self.engine.weights(),
            "observer": self.agent.observer.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.engine.optimizer_tensors(),
        }
        return {name: dict(gathered(part, self.mesh)) for name, part in parts.items()} | {"rng": rng_state()}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint. Raises RuntimeError or KeyError when it belongs to another model."""
        self.engine.load_weights(checkpoint.parts["predictor"])
        for name, module in {"observer": self.agent.observer, "loss": self.loss}.items():
            load_whole(module, checkpoint.parts[name], self.mesh)
        self.engine.load_optimizer_tensors(checkpoint.parts["optimizer"])
        set_rng_state(checkpoint.parts["rng"])
        self.counters = Counters(**checkpoint.meta["counters"])

    def meta(self, config: Config) -> dict[str, Any]:
        """The counters and the resolved config, as JSON."""
        return {"counters": vars(self.counters), "config": config.model_dump(mode="json")}


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
        freeze_action_parts(agent)
    parallelise(agent, loss, config.parallel, mesh, choose_dtype(config.train.dtype, device))
    return TrainState(agent.train(), loss.train(), TorchEngine(agent, config, mesh), Counters(), mesh)


def freeze_action_parts(agent: EgoAgent) -> None:
    """Stage 1 has no actions: the parts that the observer lacks get neither gradient nor decay."""
    shared = {name for name, _ in agent.observer.named_parameters()}
    for name, parameter in agent.predictor.named_parameters():
        if name not in shared:
            parameter.requires_grad_(False)
