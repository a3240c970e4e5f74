"""Where a step's time goes, without waiting for the device except when asked."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

PHASES = ("data", "forward", "backward", "optimizer", "save")
HOST_PHASES = ("data", "save")  # waiting and writing: the device has no part in them


class Clock:
    """Adds up the seconds of each phase until they are read.

    On CUDA the phases of a step lie between events of the current stream, so that they are the device's time and marking them
    waits for nothing; elsewhere, and for ``HOST_PHASES``, it is the host's time.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_device = device.type == "cuda"
        self._seconds: dict[str, float] = defaultdict(float)
        self._pairs: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._free: list[torch.cuda.Event] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block as phase ``name``. Blocks of one clock do not overlap."""
        if self._on_device and name not in HOST_PHASES:
            start = self._mark()
            yield
            self._pairs.append((name, start, self._mark()))
            return
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """Seconds by phase since the last reading. On CUDA it waits for what has been launched."""
        if self._pairs:
            self._pairs[-1][2].synchronize()
        for name, start, end in self._pairs:
            self._seconds[name] += start.elapsed_time(end) / 1000
            self._free += (start, end)
        self._pairs = []
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds

    def _mark(self) -> "torch.cuda.Event":
        event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Probe:
    """How long this process takes for a piece of work that waits for nobody: the forward pass of one module.

    Processes that train together take equally long for a step, since each waits for the slowest; in a module without
    collectives the slow one shows.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._clock = Clock(device)
        self._open = None
        self._calls = 0
        self._handles = [module.register_forward_pre_hook(self._before), module.register_forward_hook(self._after)]

    def read(self) -> float:
        """Mean seconds of a call since the last reading; 0 without one."""
        seconds, calls, self._calls = self._clock.read().get("probe", 0.0), self._calls, 0
        return seconds / calls if calls else 0.0

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _before(self, *_) -> None:
        self._open = self._clock.phase("probe")
        self._open.__enter__()

    def _after(self, *_) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open, self._calls = None, self._calls + 1
