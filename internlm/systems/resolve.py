"""From a config to the system that it names."""

import torch

from internlm.config.resolve import system_module
from internlm.config.schema import Config

from .base import System


def build_system(config: Config) -> System:
    """The system of a config, freshly initialised on the current default device. Raises ConfigError for an unknown name."""
    return system_module(config.system, "system").build(config)


def build_system_on_meta(config: Config) -> System:
    """The same with shapes alone: nothing is drawn or allocated."""
    with torch.device("meta"):
        return build_system(config)
