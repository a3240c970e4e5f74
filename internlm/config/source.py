"""Reads configuration files into plain nested dicts, and remembers which file set which key.

A Python config file is executed; its lower-case names are keys, and UPPERCASE names, names with a leading underscore,
imports, functions and classes are its private helpers. ``base = "other.py"`` (relative to the file, or a list of such)
starts from another config file and replaces what the file names.
"""

import ast
import runpy
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from internlm.config import yaml12
from internlm.config.errors import ConfigError
from internlm.config.places import Record


@dataclass
class Source:
    """Nested values and, per dotted key, the name of the file or command line that set it."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)  # files that a run wrote

    def merge(self, values: dict[str, Any], origin: str, prefix: str = "") -> None:
        """Lay ``values`` over what is here: dicts merge, anything else replaces."""
        here = self.values
        for part in prefix.split(".") if prefix else ():
            below = here.get(part)
            if not isinstance(below, dict):
                below = here[part] = {}
            here = below
        for key, value in values.items():
            if not isinstance(key, str):
                raise ConfigError(f"{origin}: key {key!r} under {prefix or 'the top level'} is not text")
            dotted = f"{prefix}.{key}" if prefix else key
            self.origins[dotted] = origin
            if isinstance(value, dict):
                if not isinstance(here.get(key), dict):
                    here[key] = {}
                self.merge(value, origin, dotted)
            else:
                here[key] = value

    def origin(self, dotted: str) -> str:
        """Who set a key, or the section above it."""
        while dotted and dotted not in self.origins:
            dotted = dotted.rpartition(".")[0]
        return self.origins[dotted] if dotted else self.contributors("")

    def contributors(self, section: str) -> str:
        """Everyone who set a key inside a section, in order."""
        inside = [by for key, by in self.origins.items() if not section or key == section or key.startswith(section + ".")]
        return ", ".join(dict.fromkeys(inside)) or "defaults"


def read_names(path: Path) -> dict[str, Any]:
    """Every public top-level name of a Python or YAML config file, helpers of a Python file included where UPPERCASE."""
    if path.suffix == ".py":
        return _run_python(path)
    if path.suffix in (".yaml", ".yml", ".json"):
        try:
            values = yaml12.parse(path.read_text())
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
        if values is None:
            return {}
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: holds a {type(values).__name__}, not keys with values")
        return values
    raise ConfigError(f"{path}: a config file ends in .py, .yaml or .yml")


def _run_python(path: Path) -> dict[str, Any]:
    try:
        names = runpy.run_path(str(path))
    except SystemExit as error:
        raise ConfigError(f"{path}: the file calls exit({error.code})") from error
    except Exception as error:
        line = _line_in(path, error)
        raise ConfigError(f"{path}{line}: {type(error).__name__}: {error}") from error
    imported = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    private = (types.ModuleType, types.FunctionType, type)
    return {
        name: value
        for name, value in names.items()
        if not name.startswith("_") and name not in imported and not isinstance(value, private)
    }


def _line_in(path: Path, error: BaseException) -> str:
    """The last line of the config file that the traceback passes through, as ':12'."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f":{error.lineno}"
    line = ""
    traceback = error.__traceback__ or sys.exc_info()[2]
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path):
            line = f":{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return line
