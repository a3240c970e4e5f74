"""Results as rows of one table, the same on the console and on the page."""

from collections.abc import Iterable
from typing import Any

from .page import Figure

FLOOR_NAMES = {
    "random_weights": "random weights",
    "random_weights_uncalibrated": "random weights, uncalibrated",
    "pixels": "raw pixels",
    "current_frame": "current frame",
    "constant_drift": "constant drift",
    "random": "random order",
    "zero_velocity": "zero velocity",
    "constant_velocity": "constant velocity",
}


def print_table(title: str, rows: Iterable[Figure]) -> None:
    """The rows as a console table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", show_lines=True)
    table.add_column("")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("floors", no_wrap=True)
    table.add_column("against the best floor")
    for row in rows:
        floors = "\n".join(f"{name} {value:.4g}" for name, value in row.floors.items())
        colour = "green" if row.beats_floors else "yellow"
        table.add_row(row.name, f"[bold]{row.value:.4g}[/] {row.unit}", floors, f"[{colour}]{row.verdict()}[/]")
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # in a log file, lines need not be short
    console.print(table)


def named(floors: dict[str, float]) -> dict[str, float]:
    """Floors by the names that people read."""
    return {FLOOR_NAMES.get(name, name): value for name, value in floors.items()}


def named_floors(report: dict[str, Any]) -> dict[str, float]:
    """The floors of a report on classes, and chance."""
    return named(report["floors"]) | {"chance": report["chance"]}
