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
            text = yaml12.decode(path.read_bytes())
            # JSON may be indented with tabs, which cannot be part of its texts; YAML may not.
            values = yaml12.parse(text.replace("\t", " ") if path.suffix == ".json" else text)
        except yaml12.YamlError as error:
            raise ConfigError(f"{path}{f':{error.line}' if error.line else ''}: not valid YAML: {error}") from error
        if values is None:
            raise ConfigError(f"{path}: is empty; a config sets at least one key ({{}} takes the defaults for all)")
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: holds a {type(values).__name__}, not keys with values")
        return values
    raise ConfigError(f"{path}: a config file ends in .py, .yaml or .yml")


def _run_python(path: Path) -> dict[str, Any]:
    try:
        tree = ast.parse(path.read_bytes(), str(path))  # bytes: the file's own coding line and byte order mark hold
        _refuse_what_is_lost(tree, path)
        names = runpy.run_path(str(path))
    except ConfigError:
        raise
    except SystemExit as error:
        raise ConfigError(f"{path}: the file calls exit({error.code})") from error
    except Exception as error:
        line = _line_in(path, error)
        raise ConfigError(f"{path}{line}: {type(error).__name__}: {error}") from error
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    private = (types.ModuleType, types.FunctionType, type)
    found = {
        name: value
        for name, value in names.items()
        if not name.startswith("_") and name not in imported and not isinstance(value, private)
    }
    if all(name.isupper() for name in found):
        raise ConfigError(f"{path}: sets no key; a config sets at least one")
    return found


def _refuse_what_is_lost(tree: ast.Module, path: Path) -> None:
    """ConfigError for a key that the file sets twice without having read the first value: Python would keep the last alone."""

    def refuse(name: object, first: int, line: int) -> None:
        raise ConfigError(f"{path}:{line}: {name} is given twice, in line {first} and in line {line}; join the two")

    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            lines: dict[object, int] = {}
            for key in (key for key in node.keys if isinstance(key, ast.Constant)):
                if key.value in lines:
                    refuse(key.value, lines[key.value], key.lineno)
                lines[key.value] = key.lineno
    unread: dict[str, int] = {}
    for statement in tree.body:
        key, value = _sets(statement)
        for node in ast.walk(value):
            if isinstance(node, ast.Name):
                unread.pop(node.id, None)
        if key in unread:
            refuse(key, unread[key], statement.lineno)
        if key:
            unread[key] = statement.lineno


def _sets(statement: ast.stmt) -> tuple[str | None, ast.AST]:
    """The config key that a plain ``key = value`` sets, and its value; of anything else None, and the whole of it."""
    target = None
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        target = statement.target
    if isinstance(target, ast.Name) and not target.id.startswith("_") and not target.id.isupper():
        return target.id, statement.value
    return None, statement


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
