"""What a person sees while training: a live bar on a terminal, one plain line per logged step otherwise."""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from .console import say

SPEEDS = ("images_per_s", "tokens_per_s")  # the first that there is
LOSSES = ("loss", "rep_kl", "pred_kl", "act")
SHOWN = (*LOSSES, *(f"val/{name}" for name in LOSSES), "grad_norm", "mfu")


class Progress:
    """Shows step, speed, time left and the loss parts.

    Args:
        total: steps of the whole run.
        start: steps done before this process started.
        bar: False prints plain lines even on a terminal.
    """

    def __init__(self, *, total: int, start: int = 0, bar: bool = True, stream: TextIO | None = None) -> None:
        self.total, self.start, self.step = total, start, start
        self.stream = stream or sys.stderr
        self._began = time.monotonic()
        self._bar: _Bar | None = None
        if bar and self.stream is not None and not getattr(self.stream, "closed", False) and self.stream.isatty():
            with contextlib.suppress(OSError):
                self._bar = _Bar(self.stream, total, start)

    def advance(self, step: int) -> None:
        """Move to a number of finished steps."""
        self.step = step
        self._on_bar(lambda bar: bar.advance(step))

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Show the figures of a logged step."""
        text = "  ".join(f"{name} {values[name]:.4g}" for name in SHOWN if name in values)
        speed = next((f"{values[key]:.1f} {key.removesuffix('_per_s')}/s" for key in SPEEDS if key in values), "")
        if not self._on_bar(lambda bar: bar.caption(f"{speed}  {text}")):
            say(f"step {step}/{self.total}  {text}  {speed}  {_clock(self.seconds_left(step))} left", self.stream)

    def note(self, message: str) -> None:
        """Print a message without breaking the bar."""
        if not self._on_bar(lambda bar: bar.print(message)):
            say(message, self.stream)

    def seconds_left(self, step: int) -> float:
        """Seconds to the end of the run at this process's mean speed so far."""
        done = step - self.start
        return (time.monotonic() - self._began) / done * (self.total - step) if done else 0.0

    def close(self) -> None:
        """Take the bar down."""
        self._on_bar(lambda bar: bar.stop())

    def _on_bar(self, call: Callable[["_Bar"], None]) -> bool:
        """Whether there is a bar and it could do that; plain lines from then on where its terminal is gone."""
        if self._bar:
            try:
                call(self._bar)
            except (OSError, ValueError):
                self._bar = None
        return self._bar is not None


class _Bar:
    """A bar with a line of figures under it, so that neither squeezes the other out of a narrow terminal."""

    def __init__(self, stream: TextIO, total: int, start: int) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("<"), TimeRemainingColumn())
        self._progress = RichProgress(*columns)
        self._task = self._progress.add_task("train", total=total, completed=start)
        self._live = Live(self._progress, console=Console(file=stream), refresh_per_second=4)
        self._live.start()

    def advance(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def caption(self, text: str) -> None:
        from rich.console import Group
        from rich.text import Text

        self._live.update(Group(self._progress, Text(text, overflow="ellipsis", no_wrap=True)))

    def print(self, message: str) -> None:
        self._live.console.print(message, markup=False, highlight=False)

    def stop(self) -> None:
        self._live.stop()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
