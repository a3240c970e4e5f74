"""Which samples belong to which step: pure functions of the run's counters, so that a resume needs no replay."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

IMAGE_STREAM, CLIP_STREAM = 0, 1


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


@dataclass(frozen=True)
class StepPlan:
    """How the two streams make up optimizer steps; batch sizes are per process.

    ``both``: each step has an image batch and a clip batch. ``alternate``: images on even, clips on odd steps.
    The ranks of a step take turns over one global run of positions, which therefore is the same for any world size
    at the same global batch.
    """

    image_batch: int
    clip_batch: int
    mixing: Literal["both", "alternate"] = "both"
    rank: int = 0
    world: int = 1

    def __post_init__(self):
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank {self.rank} is not inside a world of {self.world}")

    def positions(self, step: int) -> tuple[range, range]:
        """Positions of this rank's image samples and clip samples in one step; an empty range where there are none."""
        if self.mixing == "both" or not (self.image_batch and self.clip_batch):
            return self._slice(step, self.image_batch), self._slice(step, self.clip_batch)
        turn = step // 2
        if step % 2 == 0:
            return self._slice(turn, self.image_batch), range(0)
        return range(0), self._slice(turn, self.clip_batch)

    def _slice(self, turn: int, batch: int) -> range:
        start = turn * batch * self.world
        return range(start + self.rank, start + batch * self.world, self.world)
