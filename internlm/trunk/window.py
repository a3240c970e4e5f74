"""A stream of steps without an end through a trunk that was trained on sequences of so many."""

from typing import Literal

from torch import Tensor

from .adaln import Condition
from .backbone import Backbone
from .cache import KVCache, Mark
from .layout import Layout

Policy = Literal["restart", "slide"]


class Window:
    """Reads a stream step by step and remembers at most ``steps`` steps; step numbers grow by one.

    ``restart``: when they are full, the newer half of them is read anew from position 0, as a trained sequence begins.
    ``slide``: the oldest one is dropped. What stays was computed with it in sight, so results differ from those of a sequence of
    the last steps alone; they are those of a full sequence whose tokens see ``steps`` steps back. Nothing is computed twice, and
    positions go on for ever.
    """

    def __init__(self, backbone: Backbone, steps: int, policy: Policy = "restart"):
        if steps < 1 or policy not in ("restart", "slide"):
            raise ValueError(f"a window of {steps} steps, policy {policy!r}: at least one step, and restart or slide")
        self.backbone, self.steps, self.policy = backbone, steps, policy
        self.cache = KVCache()
        self._first: int | None = None  # the oldest step that is remembered
        self._read: tuple[tuple, ...] = ()  # what a restart reads anew: (tokens, layout, positions, condition) of each call

    def append(
        self, tokens: Tensor, layout: Layout, positions: Tensor | None = None, condition: Condition | None = None
    ) -> Tensor:
        """Hidden states ``[B, L, h]`` of tokens of one step, arguments as in ``Backbone.forward``. A step may take many calls.

        Raises ValueError for tokens of several steps or of a step before the newest.
        """
        first, last = int(layout.step.min()), int(layout.step.max())
        if first != last:
            raise ValueError(f"these tokens are of steps {first} to {last}: a window reads one step at a time")
        if self._first is None:
            self._first = last
        if last - self._first >= self.steps:
            self._make_room(last)
        if self.policy == "restart":
            self._read += ((tokens, layout, positions, condition),)
        return self.backbone(tokens, layout, positions, condition=condition, cache=self.cache)

    def mark(self) -> tuple[KVCache, Mark, int | None, tuple]:
        """The state to ``rollback`` to, across restarts."""
        return self.cache, self.cache.mark(), self._first, self._read

    def rollback(self, mark: tuple[KVCache, Mark, int | None, tuple]) -> None:
        """Forget what was read since a mark."""
        self.cache, at, self._first, self._read = mark
        self.cache.rollback(at)

    def _make_room(self, newest: int) -> None:
        if self.policy == "slide":
            self._first = newest - self.steps + 1
            self.cache.forget(self._first)
            return
        self._first = newest - min((self.steps + 1) // 2, self.steps - 1)
        self.cache = KVCache(self.cache.capacity)
        self._read = tuple(call for call in self._read if int(call[1].step.min()) >= self._first)
        for tokens, layout, positions, condition in self._read:
            self.backbone(tokens, layout, positions, condition=condition, cache=self.cache)
