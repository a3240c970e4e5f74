"""k-nearest-neighbour classification on frozen features: exact cosine search in tiles, then a weighted vote.

Protocol (DINO's): features L2-normalised, one search for the largest k serves every k, each neighbour votes with
exp(similarity / 0.07). The neighbours are those of a float64 brute force (see ``search``), equal similarities fall to the
lower index, and classes with equal votes to the lower number.
"""

import torch
from torch import Tensor

from .errors import EvalError
from .search import search

KS = (10, 20, 100, 200)
HEADLINE_K = 20
TEMPERATURE = 0.07
TILE_BYTES = 32 * 2**20


def vote(similarity: Tensor, labels: Tensor, num_classes: int, *, temperature: float = TEMPERATURE) -> Tensor:
    """Sum of exp(similarity / temperature) of the neighbours of each class: [N, k], int64 [N, k] -> float64 [N, classes].

    Scaled by each row's largest weight, which leaves the ranking unchanged and cannot overflow.
    """
    weight = ((similarity.double() - similarity.double().amax(1, keepdim=True)) / temperature).exp()
    return weight.new_zeros(len(weight), num_classes).scatter_add_(1, labels, weight)


def classify(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    num_classes: int,
    *,
    ks: tuple[int, ...] = KS,
    temperature: float = TEMPERATURE,
    backend: str = "auto",
) -> dict[int, dict[str, float]]:
    """Top-1 and top-5 accuracy in per cent for every k, all from one search: {k: {"top1", "top5"}}.

    train [M, D], test [N, D]; labels int64, train labels in [0, num_classes), a test label outside that range is a class
    that training never saw and counts as wrong. k above M uses all M. A class without a vote is never a prediction;
    classes with equal votes rank by their number.
    """
    if len(train) != len(train_labels) or len(test) != len(test_labels):
        raise EvalError(f"{len(train)} train features with {len(train_labels)} labels, {len(test)} test with {len(test_labels)}")
    if len(train_labels) and not (0 <= int(train_labels.min()) and int(train_labels.max()) < num_classes):
        raise EvalError(f"train labels reach from {train_labels.min()} to {train_labels.max()}, outside 0..{num_classes - 1}")
    similarity, index = search(test, train, max(ks), backend=backend)
    neighbour_labels = train_labels.to(index.device)[index]
    top = min(5, num_classes)
    rows = max(1, TILE_BYTES // (16 * num_classes))
    hits = {k: torch.zeros(2) for k in ks}
    for start in range(0, len(test), rows):
        part = slice(start, start + rows)
        truth = test_labels[part].to(index.device)[:, None]
        for k in ks:
            votes = vote(similarity[part, :k], neighbour_labels[part, :k], num_classes, temperature=temperature)
            count, ranked = votes.sort(dim=1, descending=True, stable=True)
            right = ((ranked == truth) & (count > 0))[:, :top]
            hits[k] += torch.tensor([float(right[:, 0].sum()), float(right.sum())])
    return {k: {"top1": 100 * float(h[0]) / len(test), "top5": 100 * float(h[1]) / len(test)} for k, h in hits.items()}


def match_classes(labels: Tensor, classes: tuple[str, ...], wanted: tuple[str, ...]) -> Tensor:
    """Renumber labels of ``classes`` as those of ``wanted``, by name: int64 [N], -1 for a class (or label) that is not there."""
    number = {name: i for i, name in enumerate(wanted)}
    table = torch.tensor([number.get(name, -1) for name in classes] + [-1])
    return table[labels.where(labels >= 0, torch.full_like(labels, len(classes)))]
