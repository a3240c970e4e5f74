"""Token layouts: which token stands where, who may attend to whom, and where the read-outs are.

Every token carries four integers; one rule covers all layouts:

    allow(q, k) =  k.readable and (k.step < q.step or (k.step = q.step and k.rank < q.rank))
               or (k.step = q.step and k.rank = q.rank and k.group = q.group)

A layout whose (step, rank) pairs strictly increase and whose tokens are all readable is plain causal attention and
takes the ``is_causal`` fast path. Labels are [L], or [B, L] where the samples of a batch differ. A token always sees itself, so
padding (a step of its own behind all others, a group of its own, not readable) disturbs nobody and gives no NaN.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

SequenceKind = Literal["causal", "block"]


@dataclass(frozen=True)
class Part:
    """A run of ``count`` tokens of one kind inside a step. Queries are read out, so nobody else needs to read them."""

    name: str
    count: int
    query: bool = False


@dataclass(frozen=True, eq=False)
class Layout:
    """Labels of a sequence of L tokens: ``step``, ``rank``, ``group`` int64, ``readable`` bool, each [L], or [B, L] where the
    samples of a batch differ; ``index`` maps a part's name to its positions, int64 [T, count]."""

    step: Tensor
    rank: Tensor
    group: Tensor
    readable: Tensor
    index: dict[str, Tensor] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        shapes = {tuple(label.shape) for label in self.labels}
        if len(shapes) > 1 or self.step.ndim not in (1, 2):
            raise ValueError(f"labels of a sequence are all [L] or all [B, L]; these have the shapes {sorted(shapes)}")

    def __len__(self) -> int:
        return self.step.shape[-1]

    @property
    def labels(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.step, self.rank, self.group, self.readable

    @property
    def batch(self) -> int | None:
        """How many samples the labels are of; None where they hold for any."""
        return self.step.shape[0] if self.step.ndim == 2 else None

    @cached_property
    def order(self) -> Tensor:
        """(step, rank) as one number, int64 like the labels: a readable token is seen from every larger one."""
        return self.step * 2**32 + self.rank

    @cached_property
    def is_causal(self) -> bool:
        """True where the rule is exactly the lower triangle, for every sample."""
        return bool(self.readable.all() and (self.order[..., 1:] > self.order[..., :-1]).all())

    def __getitem__(self, tokens: slice) -> "Layout":
        """The labels of a run of tokens; ``index`` keeps the parts that are whole in it, at their places in the run."""
        start, stop, _ = tokens.indices(len(self))
        whole = {name: at[((at >= start) & (at < stop)).all(-1)] - start for name, at in self.index.items()}
        labels = (label[..., start:stop] for label in self.labels)
        return Layout(*labels, index={name: at for name, at in whole.items() if len(at)})

    def select(self, tokens: Tensor) -> "Layout":
        """The labels of tokens by their places, int64 [n], or by a bool mask [L]; without ``index``."""
        return Layout(*(label[..., tokens] for label in self.labels))

    def repeated(self, times: int) -> "Layout":
        """For a batch whose every sample stands ``times`` times in a row; without ``index``."""
        return self if self.batch is None else Layout(*(label.repeat_interleave(times, 0) for label in self.labels))

    def rule(self, device: torch.device) -> Callable[..., Tensor]:
        """The rule as a function of (batch, head, query position, key position), FlexAttention's ``mask_mod``.

        Positions are int tensors of shapes that broadcast; the head does not matter, nor does the batch where labels are [L].
        """
        labels = [label.to(device) for label in self.labels]

        def allow(batch: Any, head: Any, q: Tensor, k: Tensor) -> Tensor:
            return _allowed([label[q] for label in labels], [label[k] for label in labels])

        def allow_in_sample(batch: Any, head: Any, q: Tensor, k: Tensor) -> Tensor:
            return _allowed([label[batch, q] for label in labels], [label[batch, k] for label in labels])

        return allow if self.batch is None else allow_in_sample

    def allow(self, keys: "Layout | None" = None) -> Tensor:
        """The rule as a dense mask, bool [L, K] (query, key), or [B, L, K] where either's labels are [B, ...].

        ``keys``: the K tokens that are looked at, these tokens themselves where None.
        """
        seen = self if keys is None else keys
        return _allowed([label[..., :, None] for label in self.labels], [label[..., None, :] for label in seen.labels])

    def mask(self, device: torch.device) -> Tensor | None:
        """The mask that ``sdpa`` needs on ``device``: None where ``is_causal`` says it all, else bool [L, L] or [B, 1, L, L].

        Built once per device.
        """
        if self.is_causal:
            return None
        return self._built(f"dense {device}", lambda: over_heads(self.allow()).to(device))

    def block_mask(self, device: torch.device) -> Any:
        """The rule as FlexAttention's ``BlockMask``, which leaves out blocks that nobody may see. Built once per device."""
        from torch.nn.attention.flex_attention import create_block_mask

        length = len(self)
        return self._built(
            f"blocks {device}", lambda: create_block_mask(self.rule(device), self.batch, None, length, length, device=device)
        )

    def _built(self, key: str, build: Callable[[], Any]) -> Any:
        if key not in self._masks:
            self._masks[key] = build()
        return self._masks[key]

    @cached_property
    def _masks(self) -> dict[str, Any]:
        return {}


def _allowed(query: Sequence[Tensor], key: Sequence[Tensor]) -> Tensor:
    """The rule on labels (step, rank, group, readable) of queries and keys, whose shapes broadcast."""
    (step_q, rank_q, group_q, _), (step_k, rank_k, group_k, readable_k) = query, key
    earlier = (step_k < step_q) | ((step_k == step_q) & (rank_k < rank_q))
    together = (step_k == step_q) & (rank_k == rank_q) & (group_k == group_q)
    return (readable_k & earlier) | together


def over_heads(allow: Tensor) -> Tensor:
    """A mask [L, K] as it is, one of several samples as [B, 1, L, K]: what attention of ``[B, heads, L, d]`` takes."""
    return allow.unsqueeze(1) if allow.ndim == 3 else allow


def join(first: Layout | None, second: Layout) -> Layout:
    """The labels of one run of tokens after another's; without ``index``."""
    if first is None:
        return Layout(*second.labels)
    batch = first.batch if second.batch is None else second.batch
    pairs = zip(first.labels, second.labels, strict=True)
    if batch is None or first.batch == second.batch:
        return Layout(*(torch.cat(pair, -1) for pair in pairs))
    return Layout(*(torch.cat([label.expand(batch, -1) for label in pair], -1) for pair in pairs))


def interleave(steps: Sequence[tuple[Part, ...]], kind: SequenceKind) -> Layout:
    """Lay the parts of every step out in order. Steps may lack parts that others have.

    ``causal``: rank is the running index, so every token sees all before it (published).
    ``block``: one rank per part; tokens of a part see each other, and queries are seen by nobody.
    """
    step: list[int] = []
    rank, readable = [], []
    index: dict[str, list[list[int]]] = {part.name: [] for parts in steps for part in parts}
    for t, parts in enumerate(steps):
        for order, part in enumerate(parts):
            start = len(step)
            index[part.name].append(list(range(start, start + part.count)))
            step += [t] * part.count
            rank += list(range(start, start + part.count)) if kind == "causal" else [order] * part.count
            readable += [kind == "causal" or not part.query] * part.count
    return Layout(
        step=torch.tensor(step),
        rank=torch.tensor(rank),
        group=torch.zeros(len(step), dtype=torch.int64),
        readable=torch.tensor(readable),
        index={name: torch.tensor(positions) for name, positions in index.items()},
    )
