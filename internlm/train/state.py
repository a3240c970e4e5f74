"""Everything that changes while training, and how it becomes a checkpoint and comes back."""

from dataclasses import dataclass
from functools import partial
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
from internlm.parallel.whole import gathered, load_whole, share_of
from internlm.solver.ema import MovingAverage
from internlm.solver.optim import build_optimizer, load_optimizer_tensors, optimizer_tensors


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
    """The agent, the losses' centres, the optimizer, the observer's average, the counters, and the mesh they are divided over."""

    agent: EgoAgent
    loss: JointLoss
    optimizer: torch.optim.Optimizer
    average: MovingAverage
    counters: Counters
    mesh: Mesh

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All tensors, whole, by checkpoint part: the same whatever the mesh.

        A collective; of several processes only the one that writes gets the values (``parallel.whole.gathered``).
        """
        parts = {
            "predictor": self.agent.predictor.state_dict(),
            "observer": self.agent.observer.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
        }
        return {name: dict(gathered(part, self.mesh)) for name, part in parts.items()} | {"rng": rng_state()}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint. Raises RuntimeError or KeyError when it belongs to another model."""
        modules = {"predictor": self.agent.predictor, "observer": self.agent.observer, "loss": self.loss}
        for name, module in modules.items():
            load_whole(module, checkpoint.parts[name], self.mesh)
        load_optimizer_tensors(self.optimizer, checkpoint.parts["optimizer"], partial(share_of, mesh=self.mesh))
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
    optimizer = build_optimizer(agent.predictor, config.optim)
    average = MovingAverage(agent.predictor, agent.observer)
    return TrainState(agent.train(), loss.train(), optimizer, average, Counters(), mesh)


def freeze_action_parts(agent: EgoAgent) -> None:
    """Stage 1 has no actions: the parts that the observer lacks get neither gradient nor decay."""
    shared = {name for name, _ in agent.observer.named_parameters()}
    for name, parameter in agent.predictor.named_parameters():
        if name not in shared:
            parameter.requires_grad_(False)
