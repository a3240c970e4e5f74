"""From a config, or a checkpoint, to the system that it names."""

from pathlib import Path

import torch

from internlm.checkpoint.manager import find_checkpoint
from internlm.checkpoint.run_config import settled_values
from internlm.config.resolve import parse_config, system_module
from internlm.config.schema import Config
from internlm.core.boxes import Share

from .base import System


def build_system(config: Config) -> System:
    """The system of a config, freshly initialised on the current default device. Raises ConfigError for an unknown name."""
    return system_module(config.system, "system").build(config)


def build_system_on_meta(config: Config) -> System:
    """The same with shapes alone: nothing is drawn or allocated."""
    with torch.device("meta"):
        return build_system(config)


def load_system(path: str | Path, device: torch.device | str = "cpu") -> tuple[System, int]:
    """The system of a run folder or checkpoint folder with its weights, in evaluation mode on a device, and its step.

    Raises CheckpointError where there is no intact checkpoint, or one of another system.
    """
    system = build_system(parse_config(settled_values(find_checkpoint(path, ()))))
    parts = system.parts()
    kept = [name for name, part in parts.items() if part.trained or part.follows]
    checkpoint = find_checkpoint(path, kept)
    for name, part in parts.items():
        # Of what only training needs, an imported checkpoint may lack some.
        own, stored = part.module.state_dict(), checkpoint.index.get(name, {})
        shares = {key: Share.whole(tensor) for key, tensor in own.items() if name in kept or key in stored}
        checkpoint.fill(name, shares, exact=name in kept)
        part.module.to(device).eval()
    return system, checkpoint.step
