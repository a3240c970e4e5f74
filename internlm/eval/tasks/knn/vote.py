"""k-nearest-neighbour classification on frozen features: exact cosine search in tiles, then a weighted vote.

Protocol (DINO's): features L2-normalised, one search for the largest k serves every k, each neighbour votes with
exp(similarity / 0.07). The neighbours are those of a float64 brute force (see ``search``), equal similarities fall to the
lower index, and classes whose votes agree to 9 decimals of the nearest neighbour's vote to the lower number.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import EvalError
from .options import KS
from .search import search

HEADLINE_K = 20
TEMPERATURE = 0.07
TILE_BYTES = 32 * 2**20


def vote(similarity: Tensor, labels: Tensor, num_classes: int, *, temperature: float = TEMPERATURE) -> Tensor:
    """Sum of exp(similarity / temperature) of the neighbours of each class: [N, k], int64 [N, k] -> float64 [N, classes].

    Scaled by each row's largest weight, which leaves the ranking unchanged and cannot overflow.
    """
    weight = ((similarity.double() - similarity.double().amax(1, keepdim=True)) / temperature).exp()
    return weight.new_zeros(len(weight), num_classes).scatter_add_(1, labels, weight)


@dataclass(frozen=True)
class Outcome:
    """What kNN says of N test images; ``ranked`` = the best classes, at most 5, -1 where fewer have a vote."""

    ranked: dict[int, Tensor]  # by k: int64 [N, min(5, classes)]
    index: Tensor  # int64 [N, k], the neighbours of the largest k, best first
    similarity: Tensor  # float64 [N, k]

    def scores(self, truth: Tensor) -> dict[int, dict[str, float]]:
        """Top-1 and top-5 in per cent for every k; a truth of -1 is a class that training never saw and counts as wrong."""
        result = {}
        for k, ranked in self.ranked.items():
            right = (ranked == truth.to(ranked.device)[:, None]) & (ranked >= 0)
            counts = float(right[:, 0].sum()), float(right.sum())
            result[k] = {name: 100 * count / len(truth) for name, count in zip(("top1", "top5"), counts, strict=True)}
        return result


def decide(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    num_classes: int,
    *,
    ks: tuple[int, ...] = KS,
    temperature: float = TEMPERATURE,
    backend: str = "auto",
) -> Outcome:
    """The classes of test images by their neighbours' votes, for every k from one search.

    train [M, D], test [N, D], train_labels int64 [M] in [0, num_classes). k above M uses all M. A class without a vote is
    never a prediction; classes with equal votes rank by their number, where sums that agree to 9 decimals are equal: they
    may have been added in another order. Computed on the device of ``test``.
    """
    if not 0 < temperature < math.inf:
        raise EvalError(f"temperature {temperature}: votes need a finite one above zero")
    if not ks or min(ks) < 1:
        raise EvalError(f"neighbours {ks}: need at least one number, all at least 1")
    if len(train) != len(train_labels):
        raise EvalError(f"{len(train)} train features with {len(train_labels)} labels")
    if len(train_labels) and not (0 <= int(train_labels.min()) and int(train_labels.max()) < num_classes):
        raise EvalError(f"train labels reach from {train_labels.min()} to {train_labels.max()}, outside 0..{num_classes - 1}")
    similarity, index = search(test, train, max(ks), backend=backend)
    neighbour_labels = train_labels.to(index.device)[index]
    top = min(5, num_classes)
    rows = max(1, TILE_BYTES // (16 * num_classes))
    ranked = {k: torch.full((len(test), top), -1, dtype=torch.int64, device=index.device) for k in ks}
    for start in range(0, len(test), rows):
        part = slice(start, start + rows)
        for k in ks:
            votes = vote(similarity[part, :k], neighbour_labels[part, :k], num_classes, temperature=temperature)
            rank = torch.where(votes > 0, votes.round(decimals=9), -1.0)
            rank, best = rank.sort(dim=1, descending=True, stable=True)
            ranked[k][part] = best[:, :top].masked_fill(rank[:, :top] < 0, -1)
    return Outcome(ranked, index, similarity)
