"""From a run, a checkpoint or an exported folder to a model for evaluation."""

from pathlib import Path

import torch

from internlm.config.schema import Config
from internlm.systems.resolve import load_system


def load_agent(path: str | Path, device: torch.device | str = "cpu") -> tuple[torch.nn.Module, Config, int]:
    """The networks of a system, its run's config and step; see ``load_system``."""
    system, step = load_system(path, device)
    return system.agent.eval(), system.config, step
