"""Cases that are worked through by processes of their own, by the number of processes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from processes import start


def worked_through(
    cases: Mapping[int, Mapping[str, Any]], work: Callable[[Any], Any], folder: Path
) -> dict[tuple[int, str], Any]:
    """What the first process returns of each case, by (number of processes, name)."""
    results = {}
    for world, named in cases.items():
        start(_all, world, named, work, folder / f"{world}.pt")
        results |= {(world, name): result for name, result in torch.load(folder / f"{world}.pt").items()}
    return results


def _all(rank: int, world: int, cases: Mapping[str, Any], work: Callable[[Any], Any], path: Path) -> None:
    found = {name: work(case) for name, case in cases.items()}
    if rank == 0:
        torch.save(found, path)
