"""A run folder as a finished training leaves it, with random weights."""

import torch

from internlm.checkpoint.manager import CheckpointManager
from internlm.systems.egoagent.network import EgoAgent


def trained_agent(config) -> EgoAgent:
    """Random weights, another for each branch, with running statistics that are not their initial ones."""
    torch.manual_seed(5)
    agent = EgoAgent(config.model)
    for network in (agent.predictor, agent.observer):
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():  # a variance stays positive
                noise = torch.rand_like(tensor) if name.endswith("running_var") else torch.randn_like(tensor)
                tensor.add_(0.2 * noise)
    return agent.eval()


def save_run(folder, config, step=8):
    agent = trained_agent(config)
    parts = {"predictor": agent.predictor.state_dict(), "observer": agent.observer.state_dict(), "loss": {}}
    CheckpointManager(folder / "checkpoints").save(step, parts, {"config": config.model_dump(mode="json")})
    return folder
