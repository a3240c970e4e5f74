"""From a config, or a checkpoint, to the system that it names."""

from pathlib import Path

import torch

from internlm.checkpoint.manager import find_checkpoint
from internlm.config.resolve import parse_config, system_module
from internlm.config.schema import Config

from .base import System


def build_system(config: Config) -> System:
    """The system of a config, freshly initialised on the current default device. Raises ConfigError for an unknown name."""
    return system_module(config.system, "system").build(config)


def build_system_on_meta(config: Config) -> System:
    """The same with shapes alone: nothing is drawn or allocated."""
    with torch.device("meta"):
        return build_system(config)


def load_system(path: str | Path) -> tuple[System, int]:
    """The system of a run folder or checkpoint folder, with its weights, and its step. CheckpointError where none is intact."""
    checkpoint = find_checkpoint(path, ())
    system = build_system(parse_config(checkpoint.meta["config"]))
    system.init_from(checkpoint.path)
    return system, checkpoint.step
