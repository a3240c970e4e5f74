"""From the name of a system to the class of its configs: ``system: NAME`` is the folder ``internlm/systems/NAME``.

Its module ``config`` has ``RunConfig`` where it has sections of its own, its module ``system`` has ``build``.
"""

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from .errors import ConfigError
from .schema import Config

DEFAULT = Config.model_fields["system"].default


def system_module(system: str, part: str) -> ModuleType | None:
    """A module of a system, None where it has none. Raises ConfigError where there is no system of that name."""
    package = f"internlm.systems.{system}"
    try:
        return import_module(f"{package}.{part}")
    except ModuleNotFoundError as error:
        if error.name == f"{package}.{part}":
            return None
        if error.name is None or not package.startswith(error.name):
            raise  # something else that the system needs
    raise ConfigError(f"system {system!r} is unknown: there is no {package}")


def config_class(system: str) -> type[Config]:
    """The class of a system's configs. Raises ConfigError."""
    return getattr(system_module(system, "config"), "RunConfig", Config)


def parse_config(values: Mapping[str, Any]) -> Config:
    """A config from plain values, as a checkpoint holds them. Raises ConfigError and pydantic's ValidationError."""
    return config_class(values.get("system", DEFAULT)).model_validate(values)
