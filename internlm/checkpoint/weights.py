"""From a checkpoint to a model: the trained agent for evaluation, or the start of stage 2."""

import logging
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from internlm.config.places import checkpoint_record, settle
from internlm.config.schema import Config
from internlm.model.egoagent import EgoAgent

from .hf_folder import is_export, read_hf
from .manager import Checkpoint, CheckpointError, find_checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InitReport:
    """What came from the other checkpoint and what did not, as ``<part>.<parameter>`` names."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # in the model, not in the checkpoint: freshly initialised
    unexpected: tuple[str, ...]  # in the checkpoint, not used

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded"
        for name, keys in (("fresh", self.missing), ("unused", self.unexpected)):
            text += f"; {len(keys)} {name}" + (f" ({', '.join(keys[:4])}{', …' if len(keys) > 4 else ''})" if keys else "")
        return text


def load_agent(path: str | Path, device: torch.device | str = "cpu") -> tuple[EgoAgent, Config, int]:
    """The agent of a run folder or checkpoint folder, in eval mode, with its run's config and step.

    An exported Hugging Face folder is read too: its one network stands for both branches, as a model of single images.
    Raises CheckpointError when there is no intact checkpoint.
    """
    if is_export(path):
        return _exported_agent(Path(path), device)
    checkpoint = find_checkpoint(path, ("predictor", "observer"))
    config = Config.model_validate(settled_values(checkpoint))
    agent = EgoAgent(config.model)
    agent.predictor.load_state_dict(checkpoint.parts["predictor"])
    agent.observer.load_state_dict(checkpoint.parts["observer"])
    return agent.to(device).eval(), config, checkpoint.step


def settled_values(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config of a checkpoint's run, its relative paths as the working directory needs them (``config.places``)."""
    values = deepcopy(checkpoint.meta["config"])
    settle(values, checkpoint_record(checkpoint.path, checkpoint.meta))
    return values


def _exported_agent(folder: Path, device: torch.device | str) -> tuple[EgoAgent, Config, int]:
    exported = read_hf(folder)
    # Stage 1, whatever the run was: there is no pair of branches that could predict and be predicted.
    config = Config.model_validate({"job_name": exported.job, "model": exported.model, "data": exported.data})
    agent = EgoAgent(config.model)
    own = agent.observer.state_dict()
    _check_shapes("network", own, exported.tensors, folder)
    absent = [name for name in own if name not in exported.tensors]
    if absent:
        raise CheckpointError(f"{folder} lacks {len(absent)} tensors of the network, the first is {absent[0]}")
    tensors = {name: exported.tensors[name] for name in own}
    agent.observer.load_state_dict(tensors)
    agent.predictor.load_state_dict(agent.predictor.state_dict() | tensors)
    log.info("%s holds the %s alone; it stands for both branches", folder, exported.branch)
    return agent.to(device).eval(), config, exported.step


def init_from(agent: EgoAgent, loss: nn.Module, path: str | Path) -> InitReport:
    """Start stage 2 from a stage-1 checkpoint: predictor, observer and the losses' centres, by name.

    Stage 1's summary token is the state query under the same name. Action parts that stage 1 never trained stay fresh.
    Raises CheckpointError when a tensor has another shape than the model's.
    """
    checkpoint = find_checkpoint(path, ("predictor", "observer", "loss"))
    trained_actions = checkpoint.meta.get("config", {}).get("stage") == "joint"
    observer_names = agent.observer.state_dict().keys()
    loaded: list[str] = []
    missing: list[str] = []
    unexpected: list[str] = []
    for part, module in (("predictor", agent.predictor), ("observer", agent.observer), ("loss", loss)):
        tensors = checkpoint.parts[part]
        if part == "predictor" and not trained_actions:
            tensors = {name: tensor for name, tensor in tensors.items() if name in observer_names}
        own = module.state_dict()
        _check_shapes(part, own, tensors, checkpoint.path)
        module.load_state_dict({name: tensors.get(name, own[name]) for name in own})
        loaded += [f"{part}.{name}" for name in own if name in tensors]
        missing += [f"{part}.{name}" for name in own if name not in tensors]
        unexpected += [f"{part}.{name}" for name in checkpoint.parts[part] if name not in own or name not in tensors]
    report = InitReport(tuple(loaded), tuple(missing), tuple(unexpected))
    log.info("initialised from %s: %s", checkpoint.path, report)
    return report


def _check_shapes(part: str, own: dict[str, Tensor], tensors: dict[str, Tensor], path: Path) -> None:
    wrong = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{path}: {part}.{name} has shape {tuple(tensors[name].shape)}, the model's is {tuple(own[name].shape)} "
            f"({len(wrong)} such tensors); the 'model' sections of the two configs must agree"
        )
