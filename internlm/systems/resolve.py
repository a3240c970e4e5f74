"""From a config to the system that it names: ``system: NAME`` is the folder ``systems/NAME``, which has a ``build``."""

from importlib import import_module
from pathlib import Path

from internlm.checkpoint.manager import find_checkpoint
from internlm.config.errors import ConfigError
from internlm.config.load import config_class
from internlm.config.schema import Config

from .base import System


def build_system(config: Config) -> System:
    """The system of a config, freshly initialised on the current default device. Raises ConfigError for an unknown name."""
    name = f"{__package__}.{config.system}"
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(f"system {config.system!r} is unknown: there is no folder internlm/systems/{config.system}") from None
    return module.build(config)


def load_system(path: str | Path) -> tuple[System, int]:
    """The system of a run folder or checkpoint folder, with its weights, and its step. CheckpointError where none is intact."""
    checkpoint = find_checkpoint(path, ())
    values = checkpoint.meta["config"]
    system = build_system(config_class(values).model_validate(values))
    system.init_from(checkpoint.path)
    return system, checkpoint.step
