"""Future-state retrieval as a user runs it: clips or stored features in, a result with floors and protocol out."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from internlm.data.clips import ClipDataset

from . import retrieval
from .clips import ClipOutputs


def retrieval_report(
    outputs: ClipOutputs, dataset: ClipDataset, *, scope: str = "pool", feature: str = "bottleneck", horizon: int = 1
) -> tuple[dict[str, Any], retrieval.Gallery]:
    """Future-state retrieval in per cent beside its floors (see ``retrieval``), and the gallery for pictures.

    ``centred`` holds the same with the mean feature of each side taken away; ``per_action`` the scores by the action at
    the current frame, where the takes have such labels.
    """
    gallery = retrieval.build_gallery(outputs.observed, outputs.takes, outputs.frame_numbers)
    result, ranks, floor_ranks = retrieval_scores(outputs.prediction, gallery, scope, horizon)
    floors = result.pop("floors")
    rate = dataset.takes[0].info.frame_rate
    steps = ranks.shape[1]
    names = action_names(dataset, outputs.takes, outputs.frame_numbers[:, :steps])
    centred, _, _ = retrieval_scores(*retrieval.centred(outputs.prediction, gallery), scope, horizon)
    report = {
        **result,
        "floors": {name: scores["top1"] for name, scores in floors.items()},
        "floors_in_full": floors,
        "centred": centred,
        "per_action": [] if names is None else by_name(names, ranks.flatten(), floor_ranks.flatten()),
        "protocol": {
            "unit": "per cent",
            "query": "predicted next state, frames and actions up to t",
            "gallery": f"{scope}: observer features of all frames of the evaluated clips, each once, without the current frame"
            + (f" and the {horizon - 1} between it and the right answer" if horizon > 1 else ""),
            "feature": feature,
            "similarity": "cosine",
            "map": "mean reciprocal rank (one right answer)",
            "ties": "count as ahead of the right answer",
            "horizon_steps": horizon,
            "horizon_seconds": horizon * dataset.clip.frame_stride / rate,
            "constant_drift": "the observer's current feature plus its change since the frame before, per step of the horizon; "
            "the current feature itself at a clip's first step",
            "clips": len(outputs.takes),
            "takes": int(outputs.takes.unique().numel()),
        },
    }
    return report, gallery


def retrieval_scores(
    prediction: Tensor, gallery: retrieval.Gallery, scope: str, horizon: int = 1
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """``retrieval.retrieve`` without its ranks, and the ranks of the model and of the current-frame floor, int64 [C, steps]."""
    result = retrieval.retrieve(prediction, gallery, scope=scope, horizon=horizon)
    ranks, floor_ranks = result.pop("ranks"), result.pop("current_frame_ranks")
    return result, ranks, floor_ranks


def action_names(dataset: ClipDataset, takes: Tensor, frame_numbers: Tensor) -> list[str] | None:
    """The action label of each (clip, step), takes [C] and frame_numbers [C, T] -> C·T names; None when no take has any.

    ``labels.npz`` holds ``action`` by frame number; the take's ``extra["actions"]`` names the numbers. "unlabelled" where a
    frame has none.
    """
    tables = {row: _action_table(dataset, row) for row in takes.unique().tolist()}
    if not any(tables.values()):
        return None
    return [
        tables[take].get(number, "unlabelled")
        for take, row in zip(takes.tolist(), frame_numbers.tolist(), strict=True)
        for number in row
    ]


def by_name(names: list[str], ranks: Tensor, floor_ranks: Tensor) -> list[dict[str, Any]]:
    """Scores of the queries of each name beside the current-frame floor, most frequent first."""
    array = np.array(names)
    rows = []
    for name in sorted(set(names), key=lambda n: (-int((array == n).sum()), n)):
        mine = torch.from_numpy(np.flatnonzero(array == name))
        scores = retrieval.scores(ranks[mine])
        floor = retrieval.scores(floor_ranks[mine])
        rows.append({"action": name, "queries": len(mine), **scores, "floors": {"current_frame": floor["top1"]}})
    return rows


def _action_table(dataset: ClipDataset, row: int) -> dict[int, str]:
    take = dataset.takes[row]
    labels = take.labels()
    if "action" not in labels:
        return {}
    names = take.info.extra.get("actions", [])
    actions = labels["action"].tolist()
    known = [names[a] if isinstance(a, int) and 0 <= a < len(names) else str(a) for a in actions]
    return dict(zip(labels["frames"].tolist(), known, strict=True))
