"""k-nearest-neighbour classification on frozen features: exact cosine search in tiles, then a weighted vote.

Protocol (DINO's): features L2-normalised, one search for the largest k serves every k, each neighbour votes with
exp(similarity / 0.07). Search runs in float32 tile by tile with a running top-k; the candidates are then scored again
in float64, so the neighbours are those of a float64 brute force, and equal similarities fall to the lower index.
"""

import importlib.util

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import EvalError

KS = (10, 20, 100, 200)
HEADLINE_K = 20
TEMPERATURE = 0.07
TILE_BYTES = 32 * 2**20
EQUAL_DIGITS = 12  # float64 similarities that agree to this many digits are one value


def search(query: Tensor, gallery: Tensor, k: int, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """The k gallery rows of highest cosine similarity to each query row, exactly.

    query [N, D], gallery [M, D] (any float dtype, need not be normalised) -> similarity float64 [N, k] descending and
    index int64 [N, k]; k is clipped to M. Ties go to the lower index. ``backend`` is "auto" (FAISS where installed and
    the features are on the CPU), "faiss" or "torch"; the neighbours do not depend on it. Memory beyond the inputs and
    the result stays below about 200 MB whatever N and M. Raises EvalError for empty or non-finite features.
    """
    _check_features(query, "query")
    _check_features(gallery, "gallery")
    if query.shape[1] != gallery.shape[1]:
        raise EvalError(f"query features have {query.shape[1]} numbers, gallery features {gallery.shape[1]}; extract both alike")
    if k < 1:
        raise EvalError(f"k is {k}; at least one neighbour is needed")
    rows, dim = gallery.shape
    k = min(k, rows)
    reach = min(rows, k + max(16, k // 4))
    use_faiss = _use_faiss(backend, query.device)
    query_rows = max(1, min(1024, TILE_BYTES // (12 * reach), TILE_BYTES // (4 * dim)))
    similarities = torch.empty(len(query), k, dtype=torch.float64, device=query.device)
    indices = torch.empty(len(query), k, dtype=torch.int64, device=query.device)
    for start in range(0, len(query), query_rows):
        part = query[start : start + query_rows]
        unit = F.normalize(part.float(), dim=1)
        rough, candidates = _rough_search(unit, gallery, reach, use_faiss)
        exact, index = _rescore(part, gallery, candidates, k)
        if reach < rows:
            # A float32 dot product of unit vectors is off by at most about D·2^-24, and so are its normalised inputs:
            # a row whose last candidate is not clearly below the k-th neighbour may have missed one (duplicates).
            slack = 2 * (dim + 8) * 2.0**-24
            for row in (rough[:, -1].double() + slack >= exact[:, -1]).nonzero().flatten().tolist():
                exact[row], index[row] = _exact_row(part[row], gallery, k)
        similarities[start : start + query_rows], indices[start : start + query_rows] = exact, index
    return similarities, indices


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


def _check_features(features: Tensor, name: str) -> None:
    if features.dim() != 2 or not len(features) or not features.shape[1]:
        raise EvalError(f"the {name} features have shape {tuple(features.shape)}; need at least one row of at least one number")
    rows = max(1, TILE_BYTES // (16 * features.shape[1]))
    for start in range(0, len(features), rows):
        bad = ~torch.isfinite(features[start : start + rows]).all(1)
        if bad.any():
            raise EvalError(f"row {start + int(bad.nonzero()[0])} of the {name} features is not finite; leave such rows out")


def _use_faiss(backend: str, device: torch.device) -> bool:
    if backend not in ("auto", "faiss", "torch"):
        raise EvalError(f"search backend {backend!r} is unknown; choose auto, faiss or torch")
    installed = importlib.util.find_spec("faiss") is not None
    if backend == "faiss" and not installed:
        raise EvalError("search backend 'faiss' is not installed (pip install faiss-cpu); 'torch' gives the same neighbours")
    return backend != "torch" and installed and device.type == "cpu"


def _rough_search(unit: Tensor, gallery: Tensor, k: int, use_faiss: bool) -> tuple[Tensor, Tensor]:
    """Float32 top-k of unit queries over tiles of the gallery: similarity [n, k] descending, index int64 [n, k]."""
    tile_rows = max(k, min(TILE_BYTES // (4 * gallery.shape[1]), TILE_BYTES // (4 * len(unit))))
    best, index = unit.new_empty(len(unit), 0), torch.empty(len(unit), 0, dtype=torch.int64, device=unit.device)
    for start in range(0, len(gallery), tile_rows):
        tile = F.normalize(gallery[start : start + tile_rows].to(unit.device).float(), dim=1)
        values, found = _tile_top(unit, tile, min(k, len(tile)), use_faiss)
        best, index = torch.cat([best, values], 1), torch.cat([index, found + start], 1)
        if best.shape[1] > k:
            best, kept = best.topk(k, dim=1)
            index = index.gather(1, kept)
    return best, index


def _tile_top(unit: Tensor, tile: Tensor, k: int, use_faiss: bool) -> tuple[Tensor, Tensor]:
    if not use_faiss:
        return (unit @ tile.T).topk(k, dim=1)
    import faiss

    index = faiss.IndexFlatIP(tile.shape[1])
    index.add(tile.numpy())
    values, found = index.search(unit.numpy(), k)
    return torch.from_numpy(values), torch.from_numpy(found)


def _rescore(query: Tensor, gallery: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Float64 cosine of the candidates of each query, sorted: similarity [n, k], index [n, k]."""
    candidates = candidates.sort(dim=1).values
    rows = max(1, TILE_BYTES // (32 * candidates.shape[1] * gallery.shape[1]))
    # Written in place: small results left between the big temporaries would keep the allocator from reusing their memory.
    exact = torch.empty(candidates.shape, dtype=torch.float64, device=query.device)
    for start in range(0, len(query), rows):
        part = slice(start, start + rows)
        exact[part] = _cosine(query[part, None], gallery[candidates[part].to(gallery.device)].to(query.device))
    return _sorted_top(exact, candidates, k)


def _exact_row(query: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Float64 search of a single query over the whole gallery, for rows that float32 cannot decide."""
    rows = max(1, TILE_BYTES // (32 * gallery.shape[1]))
    exact = torch.empty(len(gallery), dtype=torch.float64, device=query.device)
    for start in range(0, len(gallery), rows):
        exact[start : start + rows] = _cosine(query[None], gallery[start : start + rows].to(query.device))
    similarity, index = _sorted_top(exact[None], torch.arange(len(gallery), device=query.device)[None], k)
    return similarity[0], index[0]


def _cosine(query: Tensor, rows: Tensor) -> Tensor:
    """Float64 cosine over the last axis. An elementwise product, since a matrix product rounds equal rows differently."""
    query, rows = F.normalize(query.double(), dim=-1), F.normalize(rows.double(), dim=-1)
    return (query * rows).sum(-1)


def _sorted_top(similarity: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top k by similarity, ties by index; ``index`` ascends along each row."""
    order = similarity.mul(10**EQUAL_DIGITS).round().argsort(dim=1, descending=True, stable=True)[:, :k]
    return similarity.gather(1, order), index.gather(1, order)
