"""Future-state retrieval as a user runs it: clips or stored features in, a result with floors and protocol out."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from internlm.data.clips import ClipDataset

from ...actions import frame_actions
from ...clips import ClipOutputs
from ...errors import EvalError
from ...feature_files import FrameFeatures
from ...report.page import Figure
from ...report.summary import named
from . import ranking as retrieval
from .options import RetrievalOptions


def retrieval_report(
    outputs: ClipOutputs, dataset: ClipDataset, *, feature: str | None = None, scope: str = "pool", horizon: int = 1
) -> tuple[dict[str, Any], retrieval.Gallery]:
    """Future-state retrieval in per cent beside its floors (see ``retrieval``), and the gallery for pictures.

    ``feature``: one of the outputs', by default the first.
    ``centred`` holds the same with the mean feature of each side taken away; ``per_action`` the scores by the action at
    the current frame, where the takes have such labels.
    """
    feature = feature or next(iter(outputs.prediction))
    gallery = retrieval.build_gallery(outputs.observed[feature], outputs.takes, outputs.frame_numbers)
    report, ranks, floor_ranks = _report(outputs.prediction[feature], gallery, scope, horizon)
    steps = ranks.shape[1]
    now = outputs.frame_numbers[:, :steps]
    names = frame_actions(dataset, outputs.takes.repeat_interleave(steps).numpy(), now.flatten().numpy())
    if names is not None:
        report["per_action"] = by_name(names, ranks.flatten(), floor_ranks.flatten())
    report["protocol"] |= {
        "query": "predicted next state, frames and actions up to t",
        "gallery": f"{scope}: observer features of all frames of the evaluated clips, each once, without the current frame"
        + (f" and the {horizon - 1} between it and the right answer" if horizon > 1 else ""),
        "feature": feature,
        "horizon_seconds": horizon * dataset.clip.frame_stride / dataset.takes[0].info.frame_rate,
        "constant_drift": "the observer's current feature plus its change since the frame before, per step of the horizon; "
        "the current feature itself at a clip's first step",
    }
    return report, gallery


def stored_report(stored: FrameFeatures, options: RetrievalOptions) -> dict[str, Any]:
    """The same for stored features of any model, in clips of ``steps`` whose frames are ``frame_stride`` numbers apart.

    The query is the model's prediction where it has one, else its feature of the current frame (as a model that predicts
    nothing is measured: then the current-frame floor is the model itself). Raises EvalError when no such clip is stored.
    """
    scope, horizon, stride = options.gallery, options.horizon, options.frame_stride
    steps = max(options.steps, horizon)
    place = {key: row for row, key in enumerate(zip(stored.takes.tolist(), stored.frame_numbers.tolist(), strict=True))}
    if len(place) < len(stored.takes):
        double = len(stored.takes) - len(place)
        raise EvalError(f"{double} stored frames occur twice (equal take and frame number); keep one of each")
    taken: set[tuple[int, int]] = set()
    clips = []
    for take, number in sorted(place):
        keys = [(take, number + k * stride) for k in range(steps + 1)]
        # A frame starts one clip at most and, as by default for a model's own clips, no image is in two of them.
        if all(key in place for key in keys) and not taken & set(keys[:-1] if steps == 1 else keys):
            taken |= set(keys[:-1] if steps == 1 else keys)
            clips.append([place[key] for key in keys])
    if not clips:
        raise EvalError(f"no stored frame has its next {steps} at steps of {stride} frame numbers; check --frame-stride")
    rows = torch.tensor(clips)
    takes, numbers = stored.takes[rows[:, 0]], stored.frame_numbers[rows]
    gallery = retrieval.build_gallery(stored.features[rows], takes, numbers)
    query = (stored.features if stored.predictions is None else stored.predictions)[rows[:, :-1]]
    report, _, _ = _report(query, gallery, scope, horizon)
    report["protocol"] |= {
        "query": "stored prediction" if stored.predictions is not None else "stored feature of the current frame",
        "gallery": f"{scope}: stored features of the frames of all clips, each once, without the current frame",
        "frame_stride": stride,
    }
    return report


def _report(prediction: Tensor, gallery: retrieval.Gallery, scope: str, horizon: int) -> tuple[dict[str, Any], Tensor, Tensor]:
    """What all reports say, and the ranks of the model and of the current-frame floor, int64 [C, steps]."""
    result, centred = (
        retrieval.retrieve(query, frames, scope=scope, horizon=horizon)
        for query, frames in ((prediction, gallery), retrieval.centred(prediction, gallery))
    )
    ranks, floor_ranks, floors = (result.pop(name) for name in ("ranks", "current_frame_ranks", "floors"))
    report = {
        **result,
        "floors": {name: scores["top1"] for name, scores in floors.items()},
        "floors_in_full": floors,
        "centred": {name: value for name, value in centred.items() if not name.endswith("ranks")},
        "per_action": [],
        "protocol": {
            "unit": "per cent",
            "similarity": "cosine",
            "map": "mean reciprocal rank (one right answer)",
            "ties": "count as ahead of the right answer",
            "horizon_steps": horizon,
            "clips": len(gallery.items),
            "takes": int(gallery.takes.unique().numel()),
        },
    }
    return report, ranks, floor_ranks


def by_name(names: np.ndarray, ranks: Tensor, floor_ranks: Tensor) -> list[dict[str, Any]]:
    """Scores of the queries of each name beside the current-frame floor, most frequent first."""
    rows = []
    for name in sorted(set(names.tolist()), key=lambda n: (-int((names == n).sum()), n)):
        mine = torch.from_numpy(np.flatnonzero(names == name))
        scores = retrieval.scores(ranks[mine])
        floor = retrieval.scores(floor_ranks[mine])
        rows.append({"action": name, "queries": len(mine), **scores, "floors": {"current_frame": floor["top1"]}})
    return rows


def figures(report: dict[str, Any], usual: str | None = None) -> list[Figure]:
    """The printed rows of a report; a feature other than the system's usual one is in their names."""
    feature = report["protocol"].get("feature")  # stored features have none
    by = "" if feature in (usual, None) else f", {feature}"
    where = f"finding the true next frame among {report['competing_items']:.0f}"
    by_map = named({name: scores["map"] for name, scores in report["floors_in_full"].items()})
    centred = report["centred"]
    by_centred = named({name: scores["top1"] for name, scores in centred["floors"].items()})
    return [
        Figure(f"Next-state retrieval top-1{by}", report["top1"], "%", named(report["floors"]), meaning=where),
        Figure(
            f"Next-state retrieval top-1{by}, centred", centred["top1"], "%", by_centred, meaning="each branch's mean taken away"
        ),
        Figure(f"Next-state retrieval mAP{by}", report["map"], "%", by_map, meaning="mean reciprocal rank"),
    ]
