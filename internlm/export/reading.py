"""From a run, a checkpoint or an exported folder to a model for evaluation."""

import logging
from pathlib import Path

import torch

from internlm.checkpoint.manager import CheckpointError
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.network import EgoAgent
from internlm.systems.egoagent.weights import check_shapes, load_trained

from .hf_folder import is_export, read_hf

log = logging.getLogger(__name__)


def load_agent(path: str | Path, device: torch.device | str = "cpu") -> tuple[EgoAgent, Config, int]:
    """The agent of a run folder or checkpoint folder, in eval mode, with its run's config and step.

    An exported Hugging Face folder is read too: its one network stands for both branches, as a model of single images.
    Raises CheckpointError when there is no intact checkpoint.
    """
    agent, config, step = _exported(Path(path)) if is_export(path) else load_trained(path)
    return agent.to(device).eval(), config, step


def _exported(folder: Path) -> tuple[EgoAgent, Config, int]:
    exported = read_hf(folder)
    # Stage 1, whatever the run was: there is no pair of branches that could predict and be predicted.
    config = Config.model_validate({"job_name": exported.job, "model": exported.model, "data": exported.data})
    agent = EgoAgent(config.model)
    own = agent.observer.state_dict()
    check_shapes("network", own, exported.tensors, folder)
    absent = [name for name in own if name not in exported.tensors]
    if absent:
        raise CheckpointError(f"{folder} lacks {len(absent)} tensors of the network, the first is {absent[0]}")
    tensors = {name: exported.tensors[name] for name in own}
    agent.observer.load_state_dict(tensors)
    agent.predictor.load_state_dict(agent.predictor.state_dict() | tensors)
    log.info("%s holds the %s alone; it stands for both branches", folder, exported.branch)
    return agent, config, exported.step
