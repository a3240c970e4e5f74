"""From the name of a system to the class of its configs: ``system: NAME`` is the folder ``internlm/systems/NAME``.

A name with dots is a package of that name, so that a system can be outside this one. Its module ``config`` has ``RunConfig``, its
module ``system`` has ``build`` (``systems/resolve.py``).
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import ConfigError, nearest_key
from .schema import Config

DEFAULT = Config.model_fields["system"].default


def system_module(system: str, part: str) -> ModuleType:
    """A module of a system. Raises ConfigError where there is no system of that name."""
    package = system if "." in system else f"internlm.systems.{system}"
    try:
        return import_module(f"{package}.{part}")
    except ModuleNotFoundError as error:
        if error.name is None or not f"{package}.{part}".startswith(error.name):
            raise  # something else that the system needs
    near = nearest_key(system, system_names())
    raise ConfigError(f"system {system!r} is unknown: there is no {package}.{part}" + (f"; did you mean {near}?" if near else ""))


def config_class(system: str) -> type[Config]:
    """The class of a system's configs. Raises ConfigError."""
    return system_module(system, "config").RunConfig


def parse_config(values: Mapping[str, Any]) -> Config:
    """A config from plain values, as a checkpoint holds them. Raises ConfigError and pydantic's ValidationError."""
    return config_class(values.get("system", DEFAULT)).model_validate(values)


def system_names(file: str = "system.py") -> list[str]:
    """The systems of this package that have a file."""
    folder = Path(__file__).resolve().parent.parent / "systems"
    return sorted(path.name for path in folder.iterdir() if (path / file).is_file())
