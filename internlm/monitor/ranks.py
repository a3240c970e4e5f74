"""All processes beside each other: who is slowest, who waits for data, who needs most memory."""

import socket
from collections.abc import Callable, Sequence
from statistics import median

import torch

from internlm.core.collectives import Group

PATIENCE = 3  # readings in a row that make, or lift, a standing condition


class Ranks:
    """Gathers the processes' figures. A collective, for the intervals at which figures are logged."""

    def __init__(self, world: Group, device: torch.device) -> None:
        self.world, self.device = world, device
        self.hosts = world.texts(socket.gethostname())

    def gathered(self, figures: dict[str, float]) -> dict[str, list[float]]:
        """Each figure of each process, in the order of ranks."""
        rows = self.world.gathered(torch.tensor([list(figures.values())], dtype=torch.float32, device=self.device)).tolist()
        return {name: [row[column] for row in rows] for column, name in enumerate(figures)}

    def name(self, rank: int) -> str:
        """A rank and its machine."""
        return f"rank {rank} on {self.hosts[rank]}"


def extremes(figures: dict[str, list[float]]) -> dict[str, float]:
    """Smallest and largest of each figure, and the rank of the largest, as metrics."""
    shown: dict[str, Callable[[list[float]], float]] = {"min": min, "max": max, "max_rank": lambda v: v.index(max(v))}
    return {f"ranks/{name}_{kind}": of(values) for name, values in figures.items() for kind, of in shown.items()}


def slower(values: Sequence[float], share: float) -> list[int]:
    """Ranks whose value is above the median of the others by more than ``share``; none in a world of one."""
    if len(values) == 1:
        return []
    others = [median([*values[:rank], *values[rank + 1 :]]) for rank in range(len(values))]
    return [rank for rank, value in enumerate(values) if value > (1 + share) * others[rank] > 0]


class Standing:
    """A condition that stands after PATIENCE readings in a row that show it, and passes after as many that do not."""

    def __init__(self) -> None:
        self.stands = False
        self._against = 0

    def update(self, shown: bool) -> bool:
        """Take a reading; True when the condition has just begun or just passed."""
        self._against = 0 if shown == self.stands else self._against + 1
        if self._against < PATIENCE:
            return False
        self.stands, self._against = shown, 0
        return True


class RankWatch:
    """Says once when a process has become a straggler or starves for data, and once when that has passed."""

    def __init__(self, ranks: Ranks, *, straggler_share: float, data_wait_share: float) -> None:
        self.ranks, self.straggler_share, self.data_wait_share = ranks, straggler_share, data_wait_share
        self._slow, self._hungry = [Standing() for _ in ranks.hosts], Standing()

    def update(self, compute: Sequence[float], data_wait: Sequence[float], step_seconds: float) -> list[str]:
        """Messages after a reading of every process: seconds of the same piece of work, and of waiting for data in a step."""
        messages = []
        slow = slower(compute, self.straggler_share)
        for rank, standing in enumerate(self._slow):
            if standing.update(rank in slow):
                messages.append(self._straggler(rank, compute) if standing.stands else f"{self.ranks.name(rank)} keeps up again")
        worst = max(range(len(data_wait)), key=data_wait.__getitem__)
        share = data_wait[worst] / max(step_seconds, 1e-9)
        if self._hungry.update(share > self.data_wait_share):
            messages.append(self._starving(worst, share) if self._hungry.stands else "data arrive in time again")
        return messages

    def _straggler(self, rank: int, compute: Sequence[float]) -> str:
        ratio = compute[rank] / median([*compute[:rank], *compute[rank + 1 :]])
        return (
            f"STRAGGLER: {self.ranks.name(rank)} computes {ratio:.1f} times as long as the others' median, and all wait for it. "
            "Look there for a throttled GPU, other jobs and busy cores; leave the machine out if it stays (sbatch --exclude)"
        )

    def _starving(self, rank: int, share: float) -> str:
        return (
            f"WAITING FOR DATA: {self.ranks.name(rank)} spends {share:.0%} of a step waiting for its batch. Raise data.workers, "
            "give each process more cores, or put the data on a faster disk"
        )
