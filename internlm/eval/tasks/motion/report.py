"""Motion as a user evaluates it: the next chunk teacher-forced, and rolled out, in three frames, beside floors and baselines."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from internlm.data.clips import ClipDataset
from internlm.data.geometry import transform_points
from internlm.data.motion import MotionData, canonical, filled
from internlm.data.store import COCO_JOINTS

from ...actions import frame_actions
from ...clips import ClipOutputs
from ...report.page import Figure
from ...report.summary import named
from . import chunks as motion
from .forecasters import TITLES, Forecaster
from .metrics import paired_difference, score
from .rollout import RollOuts


def motion_report(outputs: ClipOutputs, dataset: ClipDataset) -> dict[str, Any]:
    """MPJPE (cm) and MPJVE (cm/s) of the teacher-forced next chunk beside both velocity floors (see ``motion``).

    Beside the means: ``detail`` with intervals over takes, PA-MPJPE, horizons, joints and actions, and ``world`` where camera
    poses are stored.
    """
    chunks = motion_chunks(outputs)
    rates = np.array([take.info.frame_rate for take in dataset.takes]) / dataset.pose_stride
    prediction, rate = _rows(outputs.action), rates[chunks.takes]
    report = motion.compare(prediction, chunks, rate)
    actions = frame_actions(dataset, chunks.takes, outputs.frame_numbers[:, :-1].numpy().ravel())
    kept = {"rate": rate, "takes": chunks.takes, "actions": actions, "joints": COCO_JOINTS}
    report["detail"] = score(prediction, chunks.target, motion.comparable(chunks), **kept)
    report["world"] = _world(outputs, dataset, rates)
    report["protocol"] = {
        "units": "cm and cm/s",
        "prediction": "next chunk, teacher-forced: frames up to t, poses up to t-1",
        "poses_per_chunk": outputs.poses.shape[2],
        "poses_per_second": sorted(set(rates[np.unique(chunks.takes)].tolist())),
        "horizon_seconds": outputs.poses.shape[2] / float(rate.min()),
        "coordinates": f"head camera ({dataset.clip.pose_coordinates})",
        "joints": "visible in the target and in the two poses before the chunk, for model and floors alike",
        "clips": len(outputs.takes),
        "takes": int(outputs.takes.unique().numel()),
    }
    return report


def rollout_report(
    rolled: RollOuts, dataset: ClipDataset, *, observed: int, baselines: tuple[Forecaster, ...] = ()
) -> dict[str, Any]:
    """Errors of rolled-out motion by frame of reference: ``world``, ``head_camera`` and ``root_relative``.

    Baselines forecast in the world (floors also in the head camera, where standing still is another motion); as errors do
    not change when truth and prediction move together, theirs hold for the camera of the last image too.
    """
    rates = np.array([take.info.frame_rate for take in dataset.takes])[rolled.takes] / dataset.pose_stride
    frames = rolled.target.shape[1]
    world = {"model_with_images": rolled.images, **motion.floors(rolled.past, frames)}
    world |= {b.name: _forecast(b, rolled.past, rolled.past_visible) for b in baselines if b.name not in world}
    own = {"model_without_images": rolled.no_images, **motion.floors(rolled.own_past, frames)}
    mask, kept = rolled.visible, {"rate": rates, "takes": rolled.takes, "joints": COCO_JOINTS}
    kept["actions"] = frame_actions(dataset, rolled.takes, rolled.anchors)
    if not mask.any():
        return {"skipped": "no joint is visible both in the predicted span and in the two poses before it"}
    if dataset.clip.pose_coordinates == "chunk":
        # One camera for all poses of a window: the turn into the world changes no distance.
        world["model_without_images"] = _moved(rolled.own_past, rolled.past, rolled.no_images)
    relative, seen = motion.root_relative(rolled.target, mask)
    result = {
        "world": {name: _scored(p, rolled.target, mask, world["zero_velocity"], kept) for name, p in world.items()},
        "head_camera": {name: _scored(p, rolled.own_target, mask, own["zero_velocity"], kept) for name, p in own.items()},
        "root_relative": None,
    }
    if seen.any():
        centred = {name: motion.root_relative(p, mask)[0] for name, p in world.items()}
        result["root_relative"] = {n: _scored(p, relative, seen, centred["zero_velocity"], kept) for n, p in centred.items()}
    result["protocol"] = {
        "units": "cm and cm/s",
        "observed_steps": observed,
        "observed_poses": rolled.past.shape[1],
        "predicted_poses": frames,
        "poses_per_second": sorted(set(rates.tolist())),
        "model_with_images": "predicted poses fed back; images and camera poses of the later steps known",
        "model_without_images": "predicted poses fed back; nothing after the last observed image known",
        "clips": len(rolled.takes),
        "takes": len(np.unique(rolled.takes)),
        "baselines": {b.name: {"title": TITLES[b.name], "training": b.report} for b in baselines},
    }
    return result


def motion_chunks(outputs: ClipOutputs) -> motion.MotionChunks:
    """All chunks of all clips, C·T of them, as arrays."""
    parts = (_rows(each) for each in (outputs.poses, outputs.visible, outputs.past_poses, outputs.past_visible))
    return motion.MotionChunks(*parts, np.repeat(outputs.takes.numpy(), outputs.poses.shape[1]))


def _world(outputs: ClipOutputs, dataset: ClipDataset, rates: np.ndarray) -> dict[str, Any] | None:
    """The same comparison with every pose in the world; None where camera poses are missing."""
    own, own_past = [], []
    for take, numbers in zip(outputs.takes.tolist(), outputs.frame_numbers.numpy()):
        if dataset.clip.pose_coordinates == "chunk":
            at, known = dataset.cameras(take, numbers[:-1])
            count = dataset.pose_offsets.shape[1]
            at, before = at[:, None].repeat(count, 1), at[:, None].repeat(count, 1)
        else:
            at, known = dataset.cameras(take, numbers[0] + dataset.pose_offsets)
            before, earlier = dataset.cameras(take, numbers[0] + dataset.past_offsets)
            known = known & (earlier | ~outputs.past_visible.any(-1).numpy()[len(own)])
        if not known.all():
            return None
        own.append(at)
        own_past.append(before)
    cameras, past_cameras = np.concatenate(own), np.concatenate(own_past)
    chunks = motion_chunks(outputs)
    target, past = transform_points(cameras, chunks.target), transform_points(past_cameras, chunks.past)
    moved = replace(chunks, target=target, past=past)
    result = motion.compare(transform_points(cameras, _rows(outputs.action)), moved, rates[chunks.takes])
    result.pop("root_relative")
    return result


def _forecast(baseline: Forecaster, past: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """A baseline's forecast in the world, from world poses [N, I, J, 3] whose invisible joints are filled from other times."""
    past = np.stack([filled(poses, seen) for poses, seen in zip(past, visible)])
    turned = canonical(past, past.shape[1], MotionData("", (), COCO_JOINTS, motion.HIPS))
    return _moved(turned, past, baseline.forecast(turned))


def _moved(source: np.ndarray, goal: np.ndarray, points: np.ndarray) -> np.ndarray:
    """``points`` [N, O, J, 3] by the rigid motion that brings ``source`` [N, I, J, 3] onto ``goal``, the same poses."""
    a, b = source.reshape(len(source), -1, 3), goal.reshape(len(goal), -1, 3)
    ca, cb = a.mean(1, keepdims=True), b.mean(1, keepdims=True)
    u, _, v = np.linalg.svd(np.swapaxes(b - cb, 1, 2) @ (a - ca))
    u[..., -1] *= np.sign(np.linalg.det(u) * np.linalg.det(v))[:, None]
    return (points - ca[:, None]) @ np.swapaxes(u @ v, 1, 2)[:, None] + cb[:, None]


def _scored(guess: np.ndarray, target: np.ndarray, mask: np.ndarray, still: np.ndarray, kept: dict[str, Any]) -> dict[str, Any]:
    difference = paired_difference(guess, still, target, mask, kept["takes"])
    return score(guess, target, mask, **kept) | {"minus_zero_velocity": difference}


def _rows(tensor: Tensor) -> np.ndarray:
    array = tensor.flatten(0, 1).numpy()
    return array if array.dtype == bool else array.astype(np.float64)


def figures(report: dict[str, Any]) -> list[Figure]:
    """The printed rows of a ``motion_report``."""
    meaning = f"next {1000 * report['protocol']['horizon_seconds']:.0f} ms of body motion"
    views = {"head camera": report, "root-relative": report["root_relative"]}
    return [row for view, part in views.items() if part for row in _figures(f", {view}", part, part["floors"], meaning)]


def rollout_figures(report: dict[str, Any]) -> list[Figure]:
    """Rows of a ``rollout_report``: each model beside the floors and baselines of its frame."""
    if "skipped" in report:
        return []
    rows = []
    protocol = report["protocol"]
    seconds = protocol["predicted_poses"] / min(protocol["poses_per_second"])
    for view in ("world", "head_camera", "root_relative"):
        part = report[view] or {}
        if view == "head_camera" and "model_without_images" in report["world"]:
            continue  # one camera for all poses: the same figures as in the world
        others = {name: values for name, values in part.items() if not name.startswith("model_")}
        for model in (name for name in part if name not in others):
            title = f" rolled out, {view}, {model.removeprefix('model_')}".replace("_", " ")
            rows += _figures(title, part[model], others, f"{seconds:.2g} s of motion")
    return rows


def _figures(title: str, values: dict[str, Any], floors: dict[str, Any], meaning: str) -> list[Figure]:
    return [
        Figure(name + title, values[key], unit, named({floor: v[key] for floor, v in floors.items()}), False, meaning)
        for key, name, unit in (("mpjpe_cm", "MPJPE", "cm"), ("mpjve_cm_s", "MPJVE", "cm/s"))
    ]
