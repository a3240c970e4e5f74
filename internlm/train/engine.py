"""What turns losses into the next weights: gradients, their norm, one optimizer step, the observer's move.

``TrainStep`` decides when; an engine knows how. ``TorchEngine`` works on what ``parallel/apply.py`` divided.
"""

from typing import Protocol

import torch
from torch import Tensor

from internlm.checkpoint.index import Checkpoint
from internlm.config.schema import Config
from internlm.core.mesh import Mesh
from internlm.parallel.plan import cuts, partial_names, sum_partial
from internlm.parallel.shares import shares
from internlm.solver.clip import clip_grad_norm
from internlm.solver.ema import MovingAverage
from internlm.solver.optim import build_optimizer, create_optimizer_state, optimizer_tensors, set_step_values
from internlm.solver.schedule import StepValues
from internlm.systems.egoagent.network import EgoAgent


class Engine(Protocol):
    """One optimizer step is: ``zero_grad``, ``backward`` of every piece, ``clipped_norm``, then ``step`` or ``drop``.

    All processes call the same methods in the same order. Tensors that go out and come in are named as in one process.
    """

    def zero_grad(self) -> None:
        """Forget all gradients."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a scalar loss's gradients; ``last`` says that no further piece of this step follows."""

    def clipped_norm(self) -> Tensor:
        """L2 norm of the mean gradient of all processes, a scalar tensor; afterwards gradients are clipped to the config's."""

    def step(self, number: int, values: StepValues) -> None:
        """Move the weights as step ``number`` (from 0), and the observer after them."""

    def drop(self) -> None:
        """Forget the gradients of a step that is not taken; weights and optimizer states stay."""

    def weights(self) -> dict[str, Tensor]:
        """The predictor's parameters and buffers as they lie here: whole, DTensors, or a tensor-parallel share. A collective."""

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The optimizer's state as ``<parameter>/<quantity>``, lying as the weights do; none before a step. A collective."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take the parts predictor and optimizer of a checkpoint over. CheckpointError or KeyError when they belong to others."""

    def close(self) -> None:
        """Give back what the engine holds beside its tensors."""


class TorchEngine:
    """PyTorch's own optimizer on whole or ``fully_shard``-ed parameters, tensor-parallel or not."""

    def __init__(self, agent: EgoAgent, config: Config, mesh: Mesh) -> None:
        self.predictor, self.mesh = agent.predictor, mesh
        self.max_norm, self.sequence_parallel = config.optim.grad_clip, config.parallel.sequence_parallel
        self.optimizer = build_optimizer(agent.predictor, config.optim)
        self.average = MovingAverage(agent.predictor, agent.observer)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        names = [name for group in self.optimizer.param_groups for name in group["param_names"]]
        self._cuts, partial = cuts(agent.predictor), partial_names(agent.predictor)
        named = list(zip(names, self.parameters, strict=True))
        self._divided = [parameter for name, parameter in named if name in self._cuts]
        self._partial = [parameter for name, parameter in named if name in partial]

    def zero_grad(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()

    def clipped_norm(self) -> Tensor:
        for parameter in self.parameters:
            # Every parameter steps every time, so that the optimizer's state exists for all of them from the first step on.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.mesh.tp.size > 1 and self.sequence_parallel:
            sum_partial(self._partial, self.mesh.tp)
        return clip_grad_norm(self.parameters, self.max_norm, divided=self._divided, tp=self.mesh.tp)

    def step(self, number: int, values: StepValues) -> None:
        set_step_values(self.optimizer, step=number, lr=values.lr, weight_decay=values.weight_decay)
        self.optimizer.step()
        self.average.update(values.momentum)

    def drop(self) -> None:
        self.zero_grad()

    def weights(self) -> dict[str, Tensor]:
        return self.predictor.state_dict()

    def optimizer_tensors(self) -> dict[str, Tensor]:
        return optimizer_tensors(self.optimizer)

    def restore(self, checkpoint: Checkpoint) -> None:
        checkpoint.fill("predictor", shares(self.weights(), self.mesh, self._cuts))
        stored = checkpoint.index["optimizer"]
        create_optimizer_state(self.optimizer, {name: (about.shape, about.dtype) for name, about in stored.items()})
        checkpoint.fill("optimizer", shares(self.optimizer_tensors(), self.mesh, self._cuts))

    def close(self) -> None:
        pass
