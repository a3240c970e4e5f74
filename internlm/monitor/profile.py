"""The torch profiler over a few steps of a run, one Chrome trace file a process."""

import logging
from pathlib import Path

import torch

from internlm.core.files import written

PROFILES = "profile"

log = logging.getLogger(__name__)


class StepProfiler:
    """Records the steps ``first`` to ``last``; between them ``step`` is called before each step, ``close`` at the end.

    The trace (``profile/rank_<n>.json``; chrome://tracing or ui.perfetto.dev open it) holds the host's and the device's work.
    ``communication``: seconds of a profiled step in which a collective was under way in this process, None before it is known.
    Only a profiler sees that: the collectives of ``fully_shard`` run beside the computing.
    """

    communication: float | None = None

    def __init__(self, run_dir: Path, rank: int, steps: tuple[int, int] | None, device: torch.device) -> None:
        self.path, self.steps, self.device = run_dir / PROFILES / f"rank_{rank}.json", steps, device
        self._profile: torch.profiler.profile | None = None
        self._count = 0  # steps in the profile

    def step(self, number: int) -> None:
        """Step ``number`` (from 1) begins."""
        if self.steps is None:
            return
        first, last = self.steps
        if number > last:
            self.close()
        elif number >= first and self._profile is None:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if self.device.type == "cuda":
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profile, self._count = torch.profiler.profile(activities=activities), 0
            self._profile.start()
        self._count += self._profile is not None

    def close(self) -> None:
        """Stop and write the trace, where one was begun."""
        profile, self._profile = self._profile, None
        if profile is None:
            return
        profile.stop()
        self.communication = _union(_collectives(profile)) / self._count
        try:
            with written(self.path) as temporary:
                profile.export_chrome_trace(str(temporary))
        except (OSError, RuntimeError) as error:
            log.error("the profile could not be written to %s: %s", self.path, error)
        else:
            log.info("profile of %d steps, communication in %.4f s of each: %s", self._count, self.communication, self.path)


def _collectives(profile: torch.profiler.profile) -> list[tuple[float, float]]:
    """(begin, end) in microseconds of every collective: NCCL's kernels on the device, gloo's work on the host."""
    cuda = torch.autograd.DeviceType.CUDA
    return [
        (event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.name.startswith("gloo:") or (event.device_type == cuda and "nccl" in event.name.lower())
    ]


def _union(spans: list[tuple[float, float]]) -> float:
    """Seconds that the spans (in microseconds) cover together."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return covered / 1e6
