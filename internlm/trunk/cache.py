"""Keys and values of what a trunk has read, so that what follows is computed without reading it again.

Kept are *readable* tokens alone, after rotation: nobody looks at the others once the call that brought them is over. (In a causal
layout all are readable, so all are kept.) A call's tokens may see each other; they must not be such that an earlier call's
token would have seen them, and ``open`` refuses that. Results equal one call with all tokens up to rounding.
"""

import weakref
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import Layout, join, over_heads


@dataclass(eq=False)
class _Segment:
    """Growing buffers ``[B, heads, capacity, d]``, one of keys and one of values for each layer."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    lent: int = 0  # rows that a branch looks at, and so nobody may write over

    def write(self, layer: int, start: int, capacity: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put a layer's new keys and values at row ``start``; returns all up to there and the new ones."""
        stop = start + k.shape[2]
        for buffers, new in ((self.keys, k), (self.values, v)):
            if layer == len(buffers):
                buffers.append(new.new_empty(*new.shape[:2], max(capacity, stop), new.shape[3]))
            old = buffers[layer]
            if old.dtype != new.dtype:
                raise ValueError(f"the cache holds {old.dtype} and is given {new.dtype}: use one dtype, or autocast always")
            if old.shape[2] < stop or start < self.lent:
                grown = old.new_empty(*old.shape[:2], max(stop, old.shape[2] * (2 if old.shape[2] < stop else 1)), old.shape[3])
                grown[:, :, :start] = old[:, :, :start]
                buffers[layer] = grown
            buffers[layer][:, :, start:stop] = new
        return self.keys[layer][:, :, :stop], self.values[layer][:, :, :stop]

    def rows(self, kept: Tensor, start: int) -> None:
        """Move rows ``kept`` to ``start`` and after, in every layer."""
        for buffers in (self.keys, self.values):
            for buffer in buffers:
                buffer[:, :, start : start + len(kept)] = buffer[:, :, kept.to(buffer.device)]


@dataclass(frozen=True, eq=False)
class Mark:
    """A state of a cache to come back to."""

    seen: int
    length: int
    held: Layout | None
    passed: Layout | None
    own: _Segment


class KVCache:
    """What a trunk has read of B sequences: ``backbone(tokens, layout, cache=cache)`` looks at it and adds to it.

    ``capacity``: tokens to make room for at first; it grows. Under tensor parallelism every process has a cache of its own heads.
    """

    def __init__(self, capacity: int = 0):
        self.capacity = capacity
        self.batch: int | None = None
        self.seen = 0  # tokens read, kept or not: the running position of the next one
        self._own, self._length = _Segment(), 0
        self._shared: tuple[tuple[list[Tensor], list[Tensor]], ...] = ()  # what stood in the caches that this is a branch of
        self._held: Layout | None = None  # labels of what is kept, the shared tokens first
        self._passed: Layout | None = None  # and of what was not kept
        self._marks: list[weakref.ref[Mark]] = []  # weak: one that its owner dropped keeps no old buffers alive

    def __len__(self) -> int:
        """How many tokens are kept and seen by new ones, shared ones included."""
        return 0 if self._held is None else len(self._held)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values that are this cache's own."""
        buffers = (*self._own.keys, *self._own.values)
        return sum(b[:, :, : self._length].numel() * b.element_size() for b in buffers)

    def mark(self) -> Mark:
        """A mark to ``rollback`` to, as often as wanted, until one before it is gone back to."""
        mark = Mark(self.seen, self._length, self._held, self._passed, self._own)
        self._marks = [*(known for known in self._marks if known() is not None), weakref.ref(mark)]
        return mark

    def rollback(self, mark: Mark) -> None:
        """Forget all that was read since ``mark``. ValueError where it is not this cache's, or was itself rolled back."""
        at = next((at for at, known in enumerate(self._marks) if known() is mark), None)
        if at is None:
            raise ValueError("this mark is not of this cache, or the cache was taken back to before it")
        del self._marks[at + 1 :]
        self.seen, self._length, self._own = mark.seen, mark.length, mark.own
        self._held, self._passed = mark.held, mark.passed

    def branch(self, n: int) -> "KVCache":
        """A cache of n continuations of every sequence: sequence b's are rows b·n to b·n + n-1.

        They share what is kept here without a copy, and what they read is theirs. This cache may go on meanwhile.
        """
        if self._held is None or self.batch is None:
            raise ValueError("nothing is kept yet that branches could share")
        other = KVCache()
        other.batch, other.seen = self.batch * n, self.seen
        keys, values = ([b[:, :, : self._length] for b in buffers] for buffers in (self._own.keys, self._own.values))
        other._shared = (*self._shared, (keys, values)) if self._length else self._shared
        self._own.lent = max(self._own.lent, self._length)
        other._held = self._held.repeated(n)
        other._passed = None if self._passed is None else self._passed.repeated(n)
        return other

    def forget(self, before: int) -> None:
        """Drop the tokens of all steps before step ``before``: what is read from now on does not see them.

        Later tokens keep what they have taken from them, so this is not a fresh start on the steps that stay.
        """
        if self._shared:
            raise ValueError("a branch cannot forget what it shares: forget first, then branch")
        if self._held is None or (kept := self._recent(self._held, before)).all():
            return
        rows = kept.nonzero()[:, 0]
        fresh = _Segment()
        for mine, buffers in ((fresh.keys, self._own.keys), (fresh.values, self._own.values)):
            for buffer in buffers:
                room = buffer.new_empty(buffer.shape)
                room[:, :, : len(rows)] = buffer[:, :, rows.to(buffer.device)]
                mine.append(room)
        self._own, self._length = fresh, len(rows)
        self._held = self._held.select(kept) if len(rows) else None
        if self._passed is not None:
            recent = self._recent(self._passed, before)
            self._passed = self._passed.select(recent) if recent.any() else None

    @staticmethod
    def _recent(layout: Layout, before: int) -> Tensor:
        recent = layout.step >= before
        return recent if layout.batch is None else recent.any(0)

    def open(self, batch: int, layout: Layout, device: torch.device) -> Tensor | None:
        """Begin to read tokens: the mask that ``attend`` takes. Nothing changes before ``close``.

        Raises ValueError where the batch is another, or where a token read before would have seen one of these.
        """
        if self.batch not in (None, batch):
            raise ValueError(f"the cache is of {self.batch} sequences and is given {batch}; branch() gives several to each")
        for earlier in (self._held, self._passed):
            if earlier is not None and earlier.order.max() >= layout.order.min() and earlier.allow(layout).any():
                raise ValueError(
                    "tokens read before would have seen some of these: read tokens in the order of their labels, and those that "
                    "see each other in one call"
                )
        self.batch = batch
        if self._held is None:
            return layout.mask(device)
        allow = _beside(layout.allow(self._held), layout.allow())
        return None if allow.all() else over_heads(allow).to(device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of new tokens ``[B, heads, L, d]`` to what is kept and to each other; ``mask`` is ``open``'s."""
        own = self._own.write(layer, self._length, self.capacity, k, v)
        if self._shared:
            return _attend_segments(q, [*((keys[layer], values[layer]) for keys, values in self._shared), own], mask)
        return F.scaled_dot_product_attention(q, *own, attn_mask=mask, is_causal=mask is None and self._held is None)

    def close(self, layout: Layout) -> None:
        """Keep the readable ones of the tokens that all layers have seen."""
        if self._length < self._own.lent:
            self._own.lent = 0  # every layer has moved to buffers of its own
        readable = layout.readable if layout.batch is None else layout.readable.any(0)
        if readable.all():
            self._length += len(layout)
            self._held = join(self._held, layout)
        else:
            kept = readable.nonzero()[:, 0]
            self._own.rows(self._length + kept, self._length)
            self._length += len(kept)
            self._held = join(self._held, layout.select(kept)) if len(kept) else self._held
            self._passed = join(self._passed, layout.select(~readable))
        self.seen += len(layout)


def _beside(first: Tensor, second: Tensor) -> Tensor:
    """[..., L, K1] and [..., L, K2] -> [..., L, K1 + K2]."""
    batch = torch.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    return torch.cat((first.expand(*batch, *first.shape[-2:]), second.expand(*batch, *second.shape[-2:])), dim=-1)


def _attend_segments(q: Tensor, segments: list[tuple[Tensor, Tensor]], mask: Tensor | None) -> Tensor:
    """Attention of q ``[B, heads, L, d]`` to segments of keys and values ``[b, heads, K, d]``, each shared by B/b rows of q.

    The rows that share a segment are rows of one matrix product, so that it is neither copied nor read for each. Softmax in
    float32.
    """
    scores = torch.cat([_by_segment(q, keys.transpose(-1, -2)) for keys, _ in segments], dim=-1).float() * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1).to(q.dtype).split([keys.shape[2] for keys, _ in segments], dim=-1)
    mixed = (_by_segment(weight, values) for weight, (_, values) in zip(weights, segments, strict=True))
    return sum(mixed, start=q.new_zeros(()))


def _by_segment(x: Tensor, shared: Tensor) -> Tensor:
    """``x [B, heads, L, n] @ shared [b, heads, n, m]``, rows b·B/b.. of x with row b of ``shared`` -> ``[B, heads, L, m]``."""
    (batch, heads, length, _), few = x.shape, shared.shape[0]
    if few == batch:
        return x @ shared
    together = x.unflatten(0, (few, -1)).transpose(1, 2).flatten(2, 3) @ shared
    return together.unflatten(2, (batch // few, length)).transpose(1, 2).reshape(batch, heads, length, -1)
