"""Steps whose loss or gradient norm jumps out of what the run has shown lately."""

import statistics
from collections import deque

WINDOW = 200  # ordinary steps that are remembered
LEAST = 30  # of these before anything is called a spike
SMALLEST_SPREAD = 0.1  # of the median: a run that hardly varies is not spiking when it varies a little


class SpikeWatch:
    """Compares each step with the run's last ordinary ones.

    A value is a spike above median + factor · max(0.9-quantile − median, 0.1 · |median|) of the window: with the factor 10 never
    below twice the median. Spikes do not enter the window. Steps of different kinds (``kind``: which batches they had) are
    not compared with each other.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._seen: dict[str, deque[float]] = {}

    def update(self, kind: str, figures: dict[str, float]) -> str | None:
        """Take the finite figures of a step; the first that is a spike is returned in words, and the step is not remembered."""
        windows = {name: self._seen.setdefault(f"{kind}/{name}", deque(maxlen=WINDOW)) for name in figures}
        for name, value in figures.items():
            if len(windows[name]) >= LEAST and value > (limit := self._limit(windows[name])):
                return f"{name} {value:.4g} is above {limit:.4g}"
        for name, value in figures.items():
            windows[name].append(value)
        return None

    def state(self) -> dict[str, list[float]]:
        """What a checkpoint keeps."""
        return {name: list(window) for name, window in self._seen.items()}

    def load_state(self, state: dict[str, list[float]]) -> None:
        """Continue from ``state``."""
        self._seen = {name: deque(values, maxlen=WINDOW) for name, values in state.items()}

    def _limit(self, window: deque[float]) -> float:
        middle = statistics.median(window)
        high = sorted(window)[int(0.9 * (len(window) - 1))]
        return middle + self.factor * max(high - middle, SMALLEST_SPREAD * abs(middle))
