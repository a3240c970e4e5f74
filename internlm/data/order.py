"""Which samples belong to which step: pure functions of the run's counters, so that a resume needs no replay."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from internlm.data.contents import Contents


class Source(Protocol):
    """The samples of a stream."""

    files: int  # that reading can fail on: broken ones are counted against them

    def __len__(self) -> int: ...

    def contents(self) -> Contents:
        """What decides which sample an index means, by take, folder or recording that gives samples; reads nothing more.

        Checkpoints keep it, so that a run resumed on other data can say what changed.
        """

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One sample as arrays, named as the fields of the stream's batch, without its axis and ``sample_ids``.

        Raises BrokenFile, whose ``resume_at`` is the index of the next sample that may be read in its place.
        """


@dataclass(frozen=True)
class Stream:
    """One kind of sample that a step reads: ``size`` samples a process in every step, or in each ``every``-th by turns.

    ``number`` tells the random numbers of a run's streams apart and must stay what it is for a run to be repeated. The ranks of
    a step take turns over one global run of positions, which therefore is the same for any world size at the same global batch.
    """

    open: Callable[[], Source]
    batch: type[Any]  # a dataclass of tensors with ``sample_ids`` int64 [B]
    size: int
    number: int
    every: int = 1
    turn: int = 0  # read in the steps s with s % every == turn

    def positions(self, step: int, rank: int = 0, world: int = 1) -> range:
        """Positions of a rank's samples in a step; empty where it is not the stream's turn."""
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not inside a world of {world}")
        turns, place = divmod(step, self.every)
        start = turns * self.size * world
        return range(start + rank, start + self.size * world, world) if place == self.turn else range(0)


class SampleOrder:
    """The endless order of one stream: epoch after epoch, each in its own permutation of the samples."""

    def __init__(self, length: int, seed: int, stream: int):
        self.length, self.seed, self.stream = length, seed, stream
        self._permutation = lru_cache(maxsize=2)(self._permute)

    def locate(self, position: int) -> tuple[int, int]:
        """(epoch, index) of the sample at a position of the run."""
        epoch, place = divmod(position, self.length)
        return epoch, int(self._permutation(epoch)[place])

    def rng(self, position: int) -> np.random.Generator:
        """The generator of everything random about the sample at a position."""
        return np.random.default_rng((self.seed, self.stream, position // self.length, position))

    def _permute(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, self.stream, epoch)).permutation(self.length)

    def __getstate__(self):
        return self.length, self.seed, self.stream

    def __setstate__(self, state):
        self.__init__(*state)
