"""AdamW: parameter groups, per-step learning rate and decay, and its state as named tensors."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from internlm.config.schema import OptimConfig
from internlm.core.roles import NO_DECAY, PROTOTYPES


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of a model in three groups: decayed, not decayed, prototypes.

    Without decay are parameters of one dimension (norms, biases) and those whose modules say so (``core/roles.py``), unless
    ``decay_one_dimensional``. Prototype rows are a group of their own, so that they can rest at lr 0 at the start.
    """
    groups = [group for group in parameter_groups(model, config) if group["params"]]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=0.0, fused=True)


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict]:
    """Sort a model's parameters into the groups of ``build_optimizer``; frozen parameters are left out."""
    frozen = math.inf if config.freeze_prototypes_steps is None else config.freeze_prototypes_steps
    groups = {
        "decay": {"params": [], "role": "decay", "decays": True, "frozen_steps": 0},
        NO_DECAY: {"params": [], "role": NO_DECAY, "decays": False, "frozen_steps": 0},
        PROTOTYPES: {"params": [], "role": PROTOTYPES, "decays": True, "frozen_steps": frozen},
    }
    declared = declared_roles(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[_role(declared.get(name), parameter, config.decay_one_dimensional)]["params"].append((name, parameter))
    return list(groups.values())


def set_step_values(optimizer: torch.optim.Optimizer, *, step: int, lr: float, weight_decay: float) -> None:
    """Write the learning rate and weight decay of a step into the groups."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if step < group["frozen_steps"] else lr
        group["weight_decay"] = weight_decay if group["decays"] else 0.0


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as ``<parameter name>/<quantity>`` → tensor. Groups and schedules come from the config."""
    return {
        f"{name}/{quantity}": tensor
        for name, parameter in _named(optimizer)
        for quantity, tensor in optimizer.state.get(parameter, {}).items()
    }


def create_optimizer_state(optimizer: torch.optim.Optimizer, stored: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
    """Make the state tensors that ``optimizer_tensors`` then returns for filling, all zero, where nothing has stepped yet.

    ``stored``: shape and dtype of each whole tensor by ``<parameter name>/<quantity>``. A quantity has one value or lies as its
    parameter does. Raises KeyError when they belong to another set of parameters.
    """
    known = {name for name, _ in _named(optimizer)}
    states: dict[str, dict[str, tuple[tuple[int, ...], torch.dtype]]] = {}
    for key, about in stored.items():
        name, quantity = key.rsplit("/", 1)
        states.setdefault(name, {})[quantity] = about
    # An optimizer that has not stepped yet has no state at all; anything between none and all is a mismatch.
    if states and states.keys() != known:
        raise KeyError(
            f"the optimizer state has {len(states)} parameters, the model {len(known)}; "
            f"only in the state: {sorted(states.keys() - known)[:5]}, only in the model: {sorted(known - states.keys())[:5]}"
        )
    for name, parameter in _named(optimizer):
        # A fused step counter is on the parameter's device, like the moments.
        optimizer.state[parameter] = {
            quantity: torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
            if shape
            else torch.zeros((), dtype=dtype, device=parameter.device)
            for quantity, (shape, dtype) in states.get(name, {}).items()
        }


def declared_roles(model: nn.Module) -> dict[str, str]:
    """The roles that modules declare for their own parameters, by the model's names."""
    return {
        f"{prefix}.{name}" if prefix else name: role
        for prefix, module in model.named_modules()
        for name, role in getattr(module, "roles", {}).items()
    }


def _role(declared: str | None, parameter: nn.Parameter, decay_one_dimensional: bool) -> str:
    if declared == PROTOTYPES:
        return PROTOTYPES
    if not decay_one_dimensional and (parameter.ndim <= 1 or declared == NO_DECAY):
        return NO_DECAY
    return "decay"


def _named(optimizer: torch.optim.Optimizer) -> Iterable[tuple[str, nn.Parameter]]:
    for group in optimizer.param_groups:
        yield from zip(group["param_names"], group["params"], strict=True)
