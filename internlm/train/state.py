"""Everything that changes while training, and how it becomes a checkpoint and comes back."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from internlm.checkpoint.manager import Checkpoint
from internlm.config.schema import Config
from internlm.core.seed import rng_state, seed_everything, set_rng_state
from internlm.loss.joint import JointLoss
from internlm.model.egoagent import EgoAgent
from internlm.solver.ema import MovingAverage
from internlm.solver.optim import build_optimizer, load_optimizer_tensors, optimizer_tensors


@dataclass
class Counters:
    """What a run has consumed; a checkpoint's ``counters``."""

    step: int = 0
    images_seen: int = 0
    clips_seen: int = 0
    bad_steps: int = 0  # non-finite steps, skipped
    bad_streak: int = 0  # of these, in a row until now


@dataclass
class TrainState:
    """The agent, the losses' centres, the optimizer, the observer's average, and the counters."""

    agent: EgoAgent
    loss: JointLoss
    optimizer: torch.optim.Optimizer
    average: MovingAverage
    counters: Counters

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All tensors by checkpoint part."""
        return {
            "predictor": self.agent.predictor.state_dict(),
            "observer": self.agent.observer.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
            "rng": rng_state(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint. Raises RuntimeError or KeyError when it belongs to another model."""
        self.agent.predictor.load_state_dict(checkpoint.parts["predictor"])
        self.agent.observer.load_state_dict(checkpoint.parts["observer"])
        self.loss.load_state_dict(checkpoint.parts["loss"])
        load_optimizer_tensors(self.optimizer, checkpoint.parts["optimizer"])
        set_rng_state(checkpoint.parts["rng"])
        self.counters = Counters(**checkpoint.meta["counters"])

    def meta(self, config: Config) -> dict[str, Any]:
        """The counters and the resolved config, as JSON."""
        return {"counters": vars(self.counters), "config": config.model_dump(mode="json")}


def build_state(config: Config, device: torch.device) -> TrainState:
    """A fresh state under the run's seed; the same on every process."""
    seed_everything(config.seed)
    agent = EgoAgent(config.model).to(device)
    loss = JointLoss(config.loss, config.model.prototypes).to(device)
    if config.stage == "pretrain":
        freeze_action_parts(agent)
    optimizer = build_optimizer(agent.predictor, config.optim)
    return TrainState(agent.train(), loss.train(), optimizer, MovingAverage(agent.predictor, agent.observer), Counters())


def freeze_action_parts(agent: EgoAgent) -> None:
    """Stage 1 has no actions: the parts that the observer lacks get neither gradient nor decay."""
    shared = {name for name, _ in agent.observer.named_parameters()}
    for name, parameter in agent.predictor.named_parameters():
        if name not in shared:
            parameter.requires_grad_(False)
