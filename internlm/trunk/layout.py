"""Token layouts: which token stands where, who may attend to whom, and where the read-outs are.

Every token carries four integers; one rule covers all layouts:

    allow(q, k) =  k.readable and (k.step < q.step or (k.step = q.step and k.rank < q.rank))
               or (k.step = q.step and k.rank = q.rank and k.group = q.group)

A layout whose (step, rank) pairs strictly increase and whose tokens are all readable is plain causal attention and
takes the ``is_causal`` fast path.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    """Labels of a sequence of L tokens: ``step``, ``rank``, ``group`` int64 [L], ``readable`` bool [L]; ``index`` maps a part's
    name to its positions, int64 [T, count]."""

    step: Tensor
    rank: Tensor
    group: Tensor
    readable: Tensor
    index: dict[str, Tensor]

    def __len__(self) -> int:
        return self.step.numel()

    @cached_property
    def is_causal(self) -> bool:
        """True where the rule is exactly the lower triangle."""
        later = (self.step[1:] > self.step[:-1]) | ((self.step[1:] == self.step[:-1]) & (self.rank[1:] > self.rank[:-1]))
        return bool(self.readable.all() and later.all())

    def rule(self, device: torch.device) -> Callable[..., Tensor]:
        """The rule as a function of (batch, head, query position, key position), FlexAttention's ``mask_mod``.

        Positions are int tensors of shapes that broadcast; batch and head do not matter.
        """
        labels = [label.to(device) for label in (self.step, self.rank, self.group, self.readable)]

        def allow(batch: Any, head: Any, q: Tensor, k: Tensor) -> Tensor:
            return _allowed([label[q] for label in labels], [label[k] for label in labels])

        return allow

    def allow(self) -> Tensor:
        """The rule as a dense mask, bool [L, L] (query, key)."""
        labels = (self.step, self.rank, self.group, self.readable)
        return _allowed([label[:, None] for label in labels], [label[None] for label in labels])

    def mask(self, device: torch.device) -> Tensor | None:
        """The mask that ``sdpa`` needs on ``device``: None where ``is_causal`` says it all. Built once per device."""
        if self.is_causal:
            return None
        return self._built(f"dense {device}", lambda: self.allow().to(device))

    def block_mask(self, device: torch.device) -> Any:
        """The rule as FlexAttention's ``BlockMask``, which leaves out blocks that nobody may see. Built once per device."""
        from torch.nn.attention.flex_attention import create_block_mask

        length = len(self)
        return self._built(
            f"blocks {device}", lambda: create_block_mask(self.rule(device), None, None, length, length, device=device)
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


def interleave(steps: Sequence[tuple[Part, ...]], kind: SequenceKind) -> Layout:
    """Lay the parts of every step out in order. Steps may lack parts that others have.

    ``causal``: rank is the running index, so every token sees all before it (published).
    ``block``: one rank per part; tokens of a part see each other, and queries are seen by nobody.
    """
    step, rank, readable = [], [], []
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
