"""Results on disk: JSON written whole or not at all, and one self-contained HTML page that needs no network."""

import json
import math
import os
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from internlm.core.files import write_text

from . import figures


@dataclass(frozen=True)
class Figure:
    """One measured number beside its floors."""

    name: str
    value: float
    unit: str
    floors: dict[str, float] = field(default_factory=dict)
    higher_is_better: bool = True
    meaning: str = ""

    @property
    def best_floor(self) -> tuple[str, float] | None:
        """Name and value of the floor that is hardest to beat."""
        floors = {name: floor for name, floor in self.floors.items() if math.isfinite(floor)}
        return (max if self.higher_is_better else min)(floors.items(), key=lambda item: item[1]) if floors else None

    @property
    def beats_floors(self) -> bool:
        """Whether the value is better than every floor."""
        best = self.best_floor
        return best is not None and (self.value > best[1] if self.higher_is_better else self.value < best[1])

    def verdict(self) -> str:
        """Where the value stands against its best floor, in words."""
        if self.best_floor is None or not math.isfinite(self.value):
            return ""
        name, best = self.best_floor
        ratio = f" ({self.value / best:.2f} × it)" if best > 0 else ""
        if not self.beats_floors:
            return f"not better than {name}{ratio}"
        unit = "points" if self.unit == "%" else self.unit
        return f"{abs(self.value - best):.3g} {unit} {'above' if self.higher_is_better else 'below'} {name}{ratio}"


@dataclass(frozen=True)
class Section:
    """A titled part of the page; ``body`` is HTML."""

    title: str
    body: str
    lead: str = ""


def write_json(path: str | os.PathLike, content: dict[str, Any]) -> Path:
    """Write a JSON file that a reader sees whole or not at all.

    Numbers that JSON lacks (NaN, infinity) become null.
    """
    return write_text(Path(path), json.dumps(_plain(content), indent=1) + "\n")


def curves(records: list[dict[str, Any]], keys: dict[str, str], *, x: str = "step") -> dict[str, tuple[list, list]]:
    """Series for ``figures.line_chart``: ``keys`` maps a name in the legend to a key of the records.

    Beside each stands its held-out one (``val/<key>``), where that was logged.
    """
    series, held_out = {}, {f"{name}, held out": f"val/{key}" for name, key in keys.items()}
    for name, key in (keys | held_out).items():
        rows = [(r[x], r[key]) for r in records if isinstance(r.get(key), int | float) and isinstance(r.get(x), int | float)]
        if rows:
            series[name] = ([a for a, _ in rows], [b for _, b in rows])
    return series


def table_of_figures(rows: list[Figure]) -> str:
    """The main table as HTML: every figure with its floors as bars, its meaning and where it stands."""
    body = []
    for row in rows:
        arrow = "higher is better" if row.higher_is_better else "lower is better"
        values = {"this model": row.value, **row.floors}
        verdict = f'<span class="{"good" if row.beats_floors else "plain"}">{escape(row.verdict())}</span>'
        body.append(
            f"<tr><th>{escape(row.name)}<small>{escape(row.meaning)}</small><small>{arrow}</small></th>"
            f"<td>{figures.bars(values, unit=row.unit)}</td><td>{verdict}</td></tr>"
        )
    head = "<tr><th>What is measured</th><th>Value beside its floors</th><th>Against the best floor</th></tr>"
    return f'<table class="results"><thead>{head}</thead><tbody>{"".join(body)}</tbody></table>'


def facts(rows: dict[str, Any]) -> str:
    """A two-column list of facts as HTML."""
    cells = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in rows.items())
    return f'<dl class="facts">{cells}</dl>'


def write_page(path: str | os.PathLike, *, title: str, summary: str, sections: list[Section]) -> Path:
    """One HTML file with everything inside: style, pictures and curves. ``summary`` is plain text."""
    body = "".join(f'<section><h2>{escape(s.title)}</h2><p class="lead">{escape(s.lead)}</p>{s.body}</section>' for s in sections)
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>'
        f"<body><header><h1>{escape(title)}</h1><p>{escape(summary)}</p></header><main>{body}</main></body></html>\n"
    )
    return write_text(Path(path), page, errors="backslashreplace")  # names of files need not be text


def _plain(value: Any) -> Any:
    """Containers and scalars of other libraries as JSON's own."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # tensors and arrays
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, os.PathLike) else value
