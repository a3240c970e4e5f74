"""The evaluations as a user runs them: agent and data in, a result with its floors and its protocol out."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from internlm.config.schema import Config
from internlm.data.clips import ClipDataset
from internlm.data.frames import ImageSource
from internlm.model.egoagent import EgoAgent, EgoNetwork

from . import features, knn, motion, retrieval
from .clips import ClipOutputs
from .errors import EvalError

FLOOR_SEED = 7  # of the untrained network; not a training seed of anyone


def untrained(config: Config, seed: int = FLOOR_SEED) -> EgoNetwork:
    """A branch with this config's shape and random weights, whatever the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EgoNetwork(config.model, actions=False).eval()


def knn_report(
    agent: EgoAgent,
    config: Config,
    train: ImageSource,
    test: ImageSource,
    *,
    which: str = "observer",
    kind: str = "state",
    ks: tuple[int, ...] = knn.KS,
    temperature: float = knn.TEMPERATURE,
    limit: int | None = None,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[dict[str, Any], dict[str, features.Features]]:
    """kNN accuracy in per cent beside the random-weights and the pixel floor, and the features of both sources.

    ``top1`` and ``top5`` are those of k = 20 (or the only k). Raises EvalError when a source has no labels.
    """
    for name, source in (("train", train), ("test", test)):
        if not source.classes:
            raise EvalError(f"the {name} images have no labels; open them with a label (a key of the takes, or 'folder')")
    encoders = {
        "model": features.encoder(getattr(agent, which), kind, device=device, dtype=dtype),
        "random_weights": features.encoder(untrained(config), kind, device=device, dtype=dtype),
        "pixels": features.pixels,
    }
    size = config.model.image_size
    found = {
        name: features.extract(source, encoders, size, limit=limit, batch_size=batch_size)
        for name, source in (("train", train), ("test", test))
    }
    labels = knn.match_classes(found["test"].labels, found["test"].classes, found["train"].classes)
    classes = len(found["train"].classes)
    by_k = {
        name: knn.classify(
            found["train"].values[name], found["train"].labels, found["test"].values[name], labels, classes,
            ks=ks, temperature=temperature,
        )
        for name in encoders
    }  # fmt: skip
    headline = knn.HEADLINE_K if knn.HEADLINE_K in ks else ks[0]
    report = {
        "top1": by_k["model"][headline]["top1"],
        "top5": by_k["model"][headline]["top5"],
        "k": headline,
        "floors": {name: by_k[name][headline]["top1"] for name in ("random_weights", "pixels")},
        "chance": 100 / classes,
        "by_k": {name: {str(k): scores for k, scores in rows.items()} for name, rows in by_k.items()},
        "protocol": {
            "unit": "per cent",
            "branch": which,
            "feature": kind,
            "similarity": "cosine, exact search",
            "vote": f"exp(similarity / {temperature})",
            "view": f"short side to {round(size * 256 / 224)}, central {size}",
            "train_images": len(found["train"].rows),
            "test_images": len(found["test"].rows),
            "unreadable_images": found["train"].unreadable + found["test"].unreadable,
            "classes": list(found["train"].classes),
            "test_images_of_unseen_classes": int((labels < 0).sum()),
            "pixel_floor": "32x32 pixels, centred per image, same search and vote",
            "random_floor": "the untrained network of the same config, same protocol",
        },
    }
    return report, found


def retrieval_report(
    outputs: ClipOutputs, dataset: ClipDataset, *, scope: str = "pool", feature: str = "bottleneck"
) -> tuple[dict[str, Any], retrieval.Gallery]:
    """Future-state retrieval in per cent beside its floors (see ``retrieval``), and the gallery for pictures.

    ``centred`` holds the same with the mean feature of each side taken away.
    """
    gallery = retrieval.build_gallery(outputs.observed, outputs.takes, outputs.frame_numbers)
    result = _retrieval_scores(outputs.prediction, gallery, scope)
    floors = result.pop("floors")
    rate = dataset.takes[0].info.frame_rate
    report = {
        **result,
        "floors": {name: scores["top1"] for name, scores in floors.items()},
        "floors_in_full": floors,
        "centred": _retrieval_scores(*retrieval.centred(outputs.prediction, gallery), scope),
        "protocol": {
            "unit": "per cent",
            "query": "predicted next state, frames and actions up to t",
            "gallery": f"{scope}: observer features of all frames of the evaluated clips, each once, without the current frame",
            "feature": feature,
            "similarity": "cosine",
            "map": "mean reciprocal rank (one right answer)",
            "ties": "count as ahead of the right answer",
            "horizon_seconds": dataset.clip.frame_stride / rate,
            "clips": len(outputs.takes),
            "takes": int(outputs.takes.unique().numel()),
        },
    }
    return report, gallery


def _retrieval_scores(prediction: Tensor, gallery: retrieval.Gallery, scope: str) -> dict[str, Any]:
    result = retrieval.retrieve(prediction, gallery, scope=scope)
    return {name: value for name, value in result.items() if name not in ("ranks", "current_frame_ranks")}


def motion_report(outputs: ClipOutputs, dataset: ClipDataset) -> dict[str, Any]:
    """MPJPE (cm) and MPJVE (cm/s) of the teacher-forced next chunk beside both velocity floors (see ``motion``)."""
    chunks = motion_chunks(outputs)
    rates = np.array([take.info.frame_rate for take in dataset.takes]) / dataset.pose_stride
    report = motion.compare(_rows(outputs.action), chunks, rates[chunks.takes])
    report["protocol"] = {
        "units": "cm and cm/s",
        "prediction": "next chunk, teacher-forced: frames up to t, poses up to t-1",
        "poses_per_chunk": outputs.poses.shape[2],
        "poses_per_second": sorted(set(rates[np.unique(chunks.takes)].tolist())),
        "horizon_seconds": outputs.poses.shape[2] / float(rates[chunks.takes].min()),
        "coordinates": f"head camera ({dataset.clip.pose_coordinates})",
        "joints": "visible in the target and in the two poses before the chunk, for model and floors alike",
        "clips": len(outputs.takes),
        "takes": int(outputs.takes.unique().numel()),
    }
    return report


def motion_chunks(outputs: ClipOutputs) -> motion.MotionChunks:
    """All chunks of all clips, C·T of them, as arrays."""
    steps = outputs.poses.shape[1]
    return motion.MotionChunks(
        target=_rows(outputs.poses),
        visible=_rows(outputs.visible),
        past=_rows(outputs.past_poses),
        past_visible=_rows(outputs.past_visible),
        takes=np.repeat(outputs.takes.numpy(), steps),
    )


def _rows(tensor: Tensor) -> np.ndarray:
    array = tensor.flatten(0, 1).numpy()
    return array if array.dtype == bool else array.astype(np.float64)
