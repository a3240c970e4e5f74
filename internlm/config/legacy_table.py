"""What each upstream config key means here: one row a key in ``legacy_table.json``. ``legacy.py`` applies the rows.

Key names and published values: spec of the upstream configs. A key that has no row is an error. The rows from ``rope_base`` on
are arguments of the framework's own models, for a file that names one of them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Map:
    """The value goes to one of our keys, through ``convert``."""

    key: str
    convert: Callable[[Any], Any]


@dataclass(frozen=True)
class Ignore:
    """The value has no effect here."""

    reason: str


@dataclass(frozen=True)
class Only:
    """One of these values is what this project does anyway; any other cannot be honoured."""

    values: tuple
    reason: str


Rule = Map | Ignore | Only

_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda value: value,
    "frame or clip": lambda per_frame: "frame" if per_frame else "clip",
    "full or none": lambda share: "full" if share else "none",  # upstream's number is the share of the blocks; here all or none
    "list": list,
    "size": lambda value: value["size"] if isinstance(value, dict) else value,
}


def _rules(rows: dict[str, dict[str, Any]]) -> dict[str, Rule]:
    rules: dict[str, Rule] = {}
    for key, row in rows.items():
        if "map" in row:
            rules[key] = Map(row["map"], _CONVERTERS[row.get("convert", "as it is")])
        elif "only" in row:
            rules[key] = Only(tuple(tuple(v) if isinstance(v, list) else v for v in row["only"]), row["reason"])
        else:
            rules[key] = Ignore(row["ignore"])
    return rules


_TABLE = json.loads(Path(__file__).with_name("legacy_table.json").read_text(encoding="utf-8"))
TRUNK = _rules(_TABLE["trunk"])  # keys of the sections model and teacher
_CHECKED = Ignore("checked against the model section")
RULES: dict[str, Rule] = {
    **{f"model.{key}": rule for key, rule in TRUNK.items()},
    **{f"teacher.{key}": _CHECKED if isinstance(rule, Map) else rule for key, rule in TRUNK.items()},
    **_rules(_TABLE["others"]),
}
COMBINED = frozenset(_TABLE["combined"])  # keys that only make sense together; `legacy.py` reads them
KNOWN = frozenset(RULES) | COMBINED
NUMBERS = frozenset(_TABLE["numbers"])  # rows that are calculated with, and so must be numbers before anything else is checked
