"""What turns losses into the next weights: gradients, their norm, one optimizer step, the moving averages.

``TrainStep`` decides when; an engine knows how. ``TorchEngine`` works on what ``parallel/apply.py`` divided.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from internlm.checkpoint.index import Checkpoint
from internlm.config.schema import Config
from internlm.core.mesh import Mesh
from internlm.parallel.plan import cuts, partial_names, sum_partial
from internlm.parallel.shares import shares
from internlm.solver.clip import clip_grad_norm
from internlm.solver.ema import MovingAverage
from internlm.solver.optim import build_optimizer, create_optimizer_state, optimizer_tensors, set_step_values
from internlm.systems.base import Part


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

    def step(self, number: int, values: Mapping[str, float]) -> None:
        """Move the weights as step ``number`` (from 0), and the moving averages after them."""

    def drop(self) -> None:
        """Forget the gradients of a step that is not taken; weights and optimizer states stay."""

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Parameters and buffers of each trained part as they are held: whole, DTensors, or a tensor-parallel share.

        A collective.
        """

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The optimizer's state as ``<parameter>/<quantity>``, lying as the weights do; none before a step. A collective."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint's trained parts and optimizer. CheckpointError or KeyError when they belong to others."""

    def close(self) -> None:
        """Give back what the engine holds beside its tensors."""


def trained_modules(parts: Mapping[str, Part]) -> dict[str, nn.Module]:
    """The modules that the optimizer trains, by part."""
    return {name: part.module for name, part in parts.items() if part.trained}


def optimised(trained: Mapping[str, nn.Module]) -> nn.Module:
    """The trained modules as one, whose names are the optimizer's: with several parts each name begins with its part's."""
    return next(iter(trained.values())) if len(trained) == 1 else nn.ModuleDict(trained)


def moving_averages(parts: Mapping[str, Part]) -> list[MovingAverage]:
    """Those of the parts that follow another."""
    return [MovingAverage(parts[part.follows].module, part.module) for part in parts.values() if part.follows]


class TorchEngine:
    """PyTorch's own optimizer on whole or ``fully_shard``-ed parameters, tensor-parallel or not."""

    def __init__(self, parts: Mapping[str, Part], config: Config, mesh: Mesh) -> None:
        self.trained, self.mesh = trained_modules(parts), mesh
        self.max_norm, self.sequence_parallel = config.optim.grad_clip, config.parallel.sequence_parallel
        module = optimised(self.trained)
        self.optimizer = build_optimizer(module, config.optim)
        self.averages = moving_averages(parts)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        names = [name for group in self.optimizer.param_groups for name in group["param_names"]]
        self._cuts, partial = cuts(module), partial_names(module)
        named = list(zip(names, self.parameters, strict=True))
        self._divided = [parameter for name, parameter in named if name in self._cuts]
        self._partial = [parameter for name, parameter in named if name in partial]
        # Roots whose gradients stay whole until a step's last pass, which reduces what all passes have left, also in layers that
        # it does not touch. Of several roots it may not touch one: they reduce in every pass. So do single pieces of several
        # streams: what only the last one touches would have its gradient in bfloat16 and the rest in float32.
        roots = [root for root in self.trained.values() if isinstance(root, FSDPModule) and mesh.data.size > 1]
        self.accumulating = roots if len(roots) == len(self.trained) == 1 and config.train.accumulation > 1 else []

    def zero_grad(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        for root in self.accumulating:
            root.set_requires_gradient_sync(last)
        loss.backward()

    def clipped_norm(self) -> Tensor:
        for parameter in self.parameters:
            # Every parameter steps every time, so that the optimizer's state exists for all of them from the first step on.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.mesh.whole:
            self.mesh.data.average([parameter.grad for parameter in self.parameters])
        if self.mesh.tp.size > 1 and self.sequence_parallel:
            sum_partial(self._partial, self.mesh.tp)
        return clip_grad_norm(self.parameters, self.max_norm, divided=self._divided, tp=self.mesh.tp)

    def step(self, number: int, values: Mapping[str, float]) -> None:
        set_step_values(self.optimizer, step=number, lr=values["lr"], weight_decay=values["weight_decay"])
        self.optimizer.step()
        for average in self.averages:
            average.update(values["momentum"])

    def drop(self) -> None:
        self.zero_grad()

    def weights(self) -> dict[str, dict[str, Tensor]]:
        return {name: module.state_dict() for name, module in self.trained.items()}

    def optimizer_tensors(self) -> dict[str, Tensor]:
        return optimizer_tensors(self.optimizer)

    def restore(self, checkpoint: Checkpoint) -> None:
        for name, module in self.trained.items():
            checkpoint.fill(name, shares(module.state_dict(), self.mesh, cuts(module)))
        stored = checkpoint.index["optimizer"]
        create_optimizer_state(self.optimizer, {name: (about.shape, about.dtype) for name, about in stored.items()})
        checkpoint.fill("optimizer", shares(self.optimizer_tensors(), self.mesh, self._cuts))

    def close(self) -> None:
        pass
