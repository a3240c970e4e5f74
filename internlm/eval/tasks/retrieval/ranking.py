"""Future-state retrieval: does the predicted next state find the frame that really came next?

Query = S'_{t+1} of the predictor, which has seen frames and actions up to t. Gallery = the observer's features of all
frames of the evaluated pool, each frame once. The query's own current frame is removed, one item is right (the true
next frame), similarity is the cosine. With one positive the mean average precision equals the mean reciprocal rank.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import EvalError
from .options import SCOPES

TILE_ELEMENTS = 2**24


@dataclass(frozen=True)
class Gallery:
    """The frames of a pool, each once, and where each step of each clip points into them. C clips, T steps, G items."""

    features: Tensor  # float [G, D]
    takes: Tensor  # int64 [G]
    frame_numbers: Tensor  # int64 [G]
    items: Tensor  # int64 [C, T+1], the gallery row of each frame of each clip


def build_gallery(features: Tensor, takes: Tensor, frame_numbers: Tensor) -> Gallery:
    """One item per (take, frame number) from features [C, T+1, D], takes [C] and frame_numbers [C, T+1]."""
    clips, frames = frame_numbers.shape
    keys = torch.stack([takes[:, None].expand(clips, frames), frame_numbers], dim=-1).reshape(-1, 2)
    unique, items = keys.unique(dim=0, return_inverse=True)
    first = torch.full((len(unique),), len(keys), dtype=torch.int64, device=keys.device)
    first.scatter_reduce_(0, items, torch.arange(len(keys), device=keys.device), "amin")
    return Gallery(features.flatten(0, 1)[first], unique[:, 0], unique[:, 1], items.view(clips, frames))


def ranks(
    query: Tensor, gallery: Tensor, positive: Tensor, excluded: Tensor, groups: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Rank of the one right item for each query, 1 = best, and how many items competed.

    query [Q, D], gallery [G, D], positive int64 [Q] and excluded int64 [Q] or [Q, e] (gallery rows; an excluded row never
    competes, and must differ from the positive). With groups int64 [Q] and [G], only items of the query's group compete. An
    item that is as similar as the right one counts as ahead of it, so that collapsed features score nothing. Memory is one
    tile.
    """
    excluded = excluded.view(len(positive), -1)
    both = (positive[:, None] == excluded).any(1)
    if both.any():
        row = int(both.nonzero()[0])
        raise EvalError(f"query {row} has item {int(positive[row])} both as its right answer and as its removed current frame")
    query, gallery = F.normalize(query.float(), dim=1), F.normalize(gallery.float(), dim=1)
    ahead = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    count = torch.zeros_like(ahead)
    rows = max(1, TILE_ELEMENTS // len(gallery))
    for start in range(0, len(query), rows):
        part = slice(start, start + rows)
        similarity = query[part] @ gallery.T
        right = similarity.gather(1, positive[part, None])
        competes = torch.ones_like(similarity, dtype=torch.bool)
        if groups is not None:
            competes = groups[0][part, None] == groups[1][None]
        competes.scatter_(1, excluded[part], False)
        count[part] = competes.sum(1)
        competes.scatter_(1, positive[part, None], False)
        ahead[part] = (competes & (similarity >= right)).sum(1)
    return ahead + 1, count


def scores(rank: Tensor) -> dict[str, float]:
    """Top-1, Top-5 and mAP (= mean reciprocal rank) in per cent, and the median rank, from ranks int64 [Q]."""
    return {
        "top1": 100 * float((rank == 1).double().mean()),
        "top5": 100 * float((rank <= 5).double().mean()),
        "map": 100 * float((1 / rank.double()).mean()),
        "median_rank": float(rank.double().median()),
    }


def chance(count: Tensor) -> dict[str, float]:
    """Expected scores of a random order among ``count`` [Q] competing items: 1/n, min(5, n)/n and H_n/n, in per cent."""
    harmonic = torch.cat([torch.zeros(1, dtype=torch.float64), (1 / torch.arange(1, int(count.max()) + 1).double()).cumsum(0)])
    count = count.cpu()
    number = count.double()
    return {
        "top1": 100 * float((1 / number).mean()),
        "top5": 100 * float((number.clamp(max=5) / number).mean()),
        "map": 100 * float((harmonic[count] / number).mean()),
    }


def retrieve(prediction: Tensor, gallery: Gallery, *, scope: str = "pool", horizon: int = 1) -> dict:
    """Scores of the predictions beside their floors.

    prediction [C, T, D]: row (c, t) is the prediction made at clip c's frame t. ``scope`` says which frames compete: the
    whole pool, the query's take or the query's clip. ``horizon`` k: the right answer is frame t+k, and frames t to t+k-1 are
    removed (at 1, as by default: the next frame is right, the current one removed). Floors: the observer's feature of the
    current frame as the query, the same moved on by k times its last change, and a random order, all under the same removal.
    Steps whose next image is the current one (same frame number) do not occur.
    """
    if scope not in SCOPES:
        raise EvalError(f"gallery {scope!r} is unknown; choose one of {', '.join(SCOPES)}")
    clips, frames = gallery.items.shape
    if not 1 <= horizon < frames:
        raise EvalError(f"horizon {horizon} is outside 1..{frames - 1}: a clip has {frames} frames; take a smaller one")
    features, items, group = gallery.features, gallery.items, gallery.takes
    query_group = gallery.takes[items[:, 0]] if scope == "take" else None
    if scope == "clip":  # a frame of two clips competes in each of them
        features = features[items].flatten(0, 1)
        items = torch.arange(len(features), device=items.device).view(items.shape)
        group = query_group = torch.arange(clips, device=items.device)
        group = group.repeat_interleave(frames)
    steps = frames - horizon
    removed = torch.stack([items[:, k : k + steps].flatten() for k in range(horizon)], dim=1)
    following = items[:, horizon:].flatten()
    groups = None if query_group is None else (query_group.repeat_interleave(steps), group)
    rank, count = ranks(prediction[:, :steps].flatten(0, 1), features, following, removed, groups)
    floor, _ = ranks(features[removed[:, 0]], features, following, removed, groups)
    drift, _ = ranks(drifted(features[items], horizon)[:, :steps].flatten(0, 1), features, following, removed, groups)
    return {
        **scores(rank),
        "floors": {"current_frame": scores(floor), "constant_drift": scores(drift), "random": chance(count)},
        "by_step": [scores(r)["top1"] for r in rank.view(clips, steps).T],
        "queries": len(rank),
        "gallery_items": len(features),
        "competing_items": float(count.double().mean()),
        "ranks": rank.view(clips, steps),
        "current_frame_ranks": floor.view(clips, steps),
    }


def drifted(features: Tensor, horizon: int = 1) -> Tensor:
    """The constant-drift floor: S_t + k·(S_t - S_{t-1}) of features [C, F, D], unit vectors first; S_t itself at t = 0."""
    unit = F.normalize(features.float(), dim=-1)
    return unit + horizon * torch.cat([torch.zeros_like(unit[:, :1]), unit[:, 1:] - unit[:, :-1]], dim=1)


def centred(prediction: Tensor, gallery: Gallery) -> tuple[Tensor, Gallery]:
    """Predictions [C, T, D] and gallery with each side's own mean taken away (D stays).

    Centred or Sinkhorn targets leave an offset common to all frames free, so that the predictor's mean feature need not be
    the observer's: the plain cosine then compares offsets, the centred one compares frames.
    """
    mean = prediction.flatten(0, 1).mean(0)
    return prediction - mean, replace(gallery, features=gallery.features - gallery.features.mean(0))


def nearest(query: Tensor, gallery: Tensor, excluded: Tensor, k: int) -> Tensor:
    """The k most similar gallery rows of each query without its excluded row, for pictures: int64 [Q, k]."""
    similarity = F.normalize(query.float(), dim=1) @ F.normalize(gallery.float(), dim=1).T
    similarity.scatter_(1, excluded[:, None], -torch.inf)
    return similarity.topk(min(k, similarity.shape[1] - 1), dim=1).indices
