"""The torch profiler over a few steps of a run, one Chrome trace file a process."""

import contextlib
import logging
import os
from pathlib import Path

import torch

PROFILES = "profile"

log = logging.getLogger(__name__)


class StepProfiler:
    """Records the steps ``first`` to ``last``; between them ``step`` is called before each step, ``close`` at the end.

    The trace (``profile/rank_<n>.json``; chrome://tracing or ui.perfetto.dev open it) holds the host's and the device's work.
    """

    def __init__(self, run_dir: Path, rank: int, steps: tuple[int, int] | None, device: torch.device) -> None:
        self.path, self.steps, self.device = run_dir / PROFILES / f"rank_{rank}.json", steps, device
        self._profile: torch.profiler.profile | None = None

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
            self._profile = torch.profiler.profile(activities=activities)
            self._profile.start()

    def close(self) -> None:
        """Stop and write the trace, where one was begun."""
        profile, self._profile = self._profile, None
        if profile is None:
            return
        profile.stop()
        temporary = self.path.with_suffix(".tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            profile.export_chrome_trace(str(temporary))
            os.replace(temporary, self.path)
        except (OSError, RuntimeError) as error:
            log.error("the profile could not be written to %s: %s", self.path, error)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        else:
            log.info("profile of the steps %d to %d: %s", *self.steps, self.path)
