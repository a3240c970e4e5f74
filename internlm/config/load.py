"""From a config file and the command line's overrides to a validated :class:`Config`, and back to a file."""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from internlm.config import legacy, places, yaml12
from internlm.config.errors import ConfigError, nearest_key
from internlm.config.places import PATHS_FROM, RESOLVED_NAME
from internlm.config.resolve import DEFAULT, config_class
from internlm.config.schema import Config
from internlm.config.source import Source, read_names
from internlm.core.files import write_text

__all__ = ["COMMAND_LINE", "RESOLVED_NAME", "ConfigError", "config_keys", "load_config", "save_config"]

COMMAND_LINE = "command line"


def load_config(path: str | Path, overrides: Sequence[str] = (), *, quiet: bool = False) -> Config:
    """Read a config file (.py, .yaml, or a run folder holding config.yaml) and lay ``section.key=value`` overrides over it.

    A run folder's config is of that folder, wherever it is now, and its data is looked up from there (``places.py``). A file
    written with upstream's keys is recognised and translated; the keys that have no effect here are listed on standard error
    with the reason. ``quiet`` leaves out what is said of where a run's data is.

    Raises ConfigError naming the file or the command line, the key and the nearest valid key; FileNotFoundError.
    """
    path = Path(path)
    as_folder = path.is_dir()
    source = Source()
    _read_into(source, path / RESOLVED_NAME if as_folder else path, (), as_folder=as_folder)
    for override in overrides:
        _apply_override(source, override)
    for name, record in source.records.items():
        said = places.settle(source.values, record, only=lambda key, name=name: source.origin(key) == name)
        if said and not quiet:
            print("\n".join(said), file=sys.stderr)
    return _validate(source)


def save_config(config: Config, path: str | Path, *, nameless: bool = False) -> None:
    """Write the resolved config, every key included, as YAML; ``load_config`` reads it back as an equal Config.

    The directory that its relative paths start from is written as well; with ``nameless`` as seen from the file, which names
    nothing of this machine. The file appears whole or not at all.
    """
    path = Path(path)
    values, base = places.portable(config.model_dump(mode="json"))
    base = os.path.relpath(base, path.parent) if nameless else base
    write_text(path, yaml12.dump({PATHS_FROM: base, **values}))


def dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(section.key, value) of nested sections, as ``Config.model_dump`` gives them."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def config_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every valid dotted key, sections included."""
    for name, info in model.model_fields.items():
        yield prefix + name
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from config_keys(info.annotation, f"{prefix}{name}.")


def _read_into(source: Source, path: Path, seen: tuple[Path, ...], *, as_folder: bool = False) -> None:
    if not path.is_file():
        if path.name == RESOLVED_NAME and path.parent.is_dir() and not path.exists() and not seen:
            raise FileNotFoundError(f"{path.parent} holds no {RESOLVED_NAME}; give a config file, or a run folder that has one")
        raise FileNotFoundError(f"config file {path} does not exist" + (f" (base of {seen[-1]})" if seen else ""))
    if path.resolve() in (p.resolve() for p in seen):
        raise ConfigError(f"{path}: is its own base through {' -> '.join(map(str, seen))}")
    names = read_names(path)
    if legacy.is_legacy(names):
        translated = legacy.translate(names, str(path))
        print(translated.report(str(path)), file=sys.stderr)
        source.merge(translated.values, f"{path} (upstream keys)")
        return
    if record := places.record_of(path, names, as_folder=as_folder):
        source.records[str(path)] = record
    start = names.pop(PATHS_FROM, None)
    if not isinstance(start, str | None):
        raise ConfigError(f"{path}: {PATHS_FROM} is {start!r}; it must be the folder that the file's relative paths start from")
    bases = names.pop("base", ())
    for base in [bases] if isinstance(bases, str) else bases:
        if not isinstance(base, str):
            raise ConfigError(f"{path}: base is {base!r}; it must be a file name or a list of file names")
        _read_into(source, path.parent / base, (*seen, path))
    if path.suffix == ".py":
        names = {name: value for name, value in names.items() if not name.isupper()}
    source.merge(names, str(path))


def _apply_override(source: Source, override: str) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key or any(not part.isidentifier() for part in key.split(".")):
        raise ConfigError(f"{COMMAND_LINE}: {override!r} is not of the form section.key=value")
    try:
        value = yaml12.parse(text)
    except yaml12.YamlError as error:
        raise ConfigError(f"{COMMAND_LINE}: value of {key} is not valid YAML: {text!r}: {error}") from error
    section, _, leaf = key.rpartition(".")
    source.merge({leaf: value}, COMMAND_LINE, section)


def _validate(source: Source) -> Config:
    system = source.values.get("system", DEFAULT)
    if not isinstance(system, str):
        raise ConfigError(f"{source.origin('system')}: system = {system!r}: must be a name")
    kind = config_class(system)
    # Strict JSON mode refuses "3" for 3 and 3.0 for an int, and takes a list for a tuple.
    try:
        return kind.model_validate_json(json.dumps(_plain(source, source.values, "")), strict=True)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(source, kind, problem) for problem in error.errors())) from None


def _plain(source: Source, value: Any, dotted: str) -> Any:
    """Dicts, lists and scalars only; anything else would be written wrongly into the run folder."""
    if isinstance(value, dict):
        return {key: _plain(source, below, f"{dotted}.{key}" if dotted else key) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(source, below, dotted) for below in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # how a file name in another encoding arrives here
            raise ConfigError(f"{source.origin(dotted)}: {dotted} = {value!r} is not UTF-8; give it another name") from None
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ConfigError(f"{source.origin(dotted)}: {dotted} = {value!r} is not a finite number, text, list or section")


def _explain(source: Source, kind: type[Config], problem: dict[str, Any]) -> str:
    dotted = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))
    value = problem["input"]
    if problem["type"] == "extra_forbidden":
        while isinstance(value, dict) and value:
            leaf, value = next(iter(value.items()))
            dotted = f"{dotted}.{leaf}"
        near = nearest_key(dotted, config_keys(kind))
        return f"{source.origin(dotted)}: unknown key {dotted}" + (f"; did you mean {near}?" if near else "")
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{source.contributors(dotted)}: {dotted + ': ' if dotted else ''}{message}"
    if problem["type"] == "model_type" or message.endswith("an object"):
        message = "must be a section with keys"
    return f"{source.origin(dotted)}: {dotted} = {value!r}: {message[0].lower()}{message[1:]}"
