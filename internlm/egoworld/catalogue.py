"""All furniture there is and which class of rooms holds what: ``furniture.json`` and the pieces of ``pieces``."""

import json
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internlm.egoworld import pieces
from internlm.egoworld.furniture import Builder, Piece, measured, wall_hanging

_SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@dataclass(frozen=True)
class Furnishing:
    """What a class of rooms holds. Musts are placed first; walls and islands fill what is left."""

    musts: tuple[Builder, ...]  # along walls, one each
    walls: tuple[Builder, ...]  # along walls, drawn again and again
    islands: tuple[Builder, ...]  # free standing
    hangings: tuple[Builder, ...]  # typical things on the wall
    finishes: tuple[str, ...]  # patterns of the furniture's plain parts
    shell: tuple[str, str]  # patterns of walls and floor


def listed(parts: list[tuple[str, dict[str, Any]]], measures: dict[str, Any], things: tuple = (), count: int = 0) -> Builder:
    """The builder of a piece that is a list of calls of ``Piece``; places x, y and z may be sums over its measures."""

    def shape(piece: Piece, **drawn: float) -> None:
        for what, words in parts:
            getattr(piece, what)(**{key: length(value, drawn) if key in "xyz" else value for key, value in words.items()})

    return measured(*things, count=count, **measures)(shape)


def length(value: Any, measures: dict[str, float]) -> Any:
    """Metres of a number or of words like ``w / 2 - 0.15``, which are calculated from left to right; of a list each."""
    if isinstance(value, list):
        return [length(one, measures) for one in value]
    if not isinstance(value, str):
        return value
    first, *rest = (measures[word] if word in measures else _SIGNS.get(word) or float(word) for word in value.split())
    for sign, term in zip(rest[::2], rest[1::2]):
        first = sign(first, term)
    return first


def _builder(what: str | list) -> Builder:
    if isinstance(what, list):
        return wall_hanging(*what)
    return PIECES[what] if what in PIECES else getattr(pieces, what)


def _furnishing(finishes: list[str], shell: list[str], **builders: list) -> Furnishing:
    found = {name: tuple(map(_builder, listed)) for name, listed in builders.items()}
    return Furnishing(finishes=tuple(finishes), shell=tuple(shell), **found)


_TABLE = json.loads(Path(__file__).with_name("furniture.json").read_bytes())
PIECES = {name: listed(**row) for name, row in _TABLE["pieces"].items()}
DISTRACTORS, HANGINGS = (tuple(map(_builder, _TABLE[name])) for name in ("distractors", "hangings"))
FURNISHINGS = {place: _furnishing(**row) for place, row in _TABLE["furnishings"].items()}
