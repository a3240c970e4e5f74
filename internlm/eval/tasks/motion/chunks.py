"""Body motion: error of the predicted next chunk of poses beside the zero-velocity and constant-velocity floors.

MPJPE is the mean Euclidean distance of joints in centimetres; MPJVE the mean norm of the velocity error in cm/s, where
velocities are finite differences between successive poses, the first one against the last observed pose. Model and floors
are measured on the same joints: those visible in the target and in the last two observed poses (which the floors need).
"""

from dataclasses import dataclass

import numpy as np

from internlm.data.motion import constant_velocity, zero_velocity

from ...errors import EvalError
from .metrics import TINY, moving, position_error, velocity_error

HIPS = (11, 12)  # COCO order: left hip, right hip


@dataclass(frozen=True)
class MotionChunks:
    """N chunks of P poses with what was observed just before, all in the same coordinates; metres."""

    target: np.ndarray  # float [N, P, J, 3]
    visible: np.ndarray  # bool [N, P, J]
    past: np.ndarray  # float [N, Q, J, 3], the Q poses before the chunk at the same spacing
    past_visible: np.ndarray  # bool [N, Q, J]
    takes: np.ndarray  # int64 [N]


def comparable(chunks: MotionChunks) -> np.ndarray:
    """Joints that model and floors are compared on: visible in the target and in the last two observed poses, bool [N, P, J]."""
    return chunks.visible & chunks.past_visible[:, -2:].all(1)[:, None]


def root_relative(poses: np.ndarray, visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Subtract the mid-hip from every pose: [..., J, 3], bool [..., J] -> both, nothing visible where a hip is missing."""
    root = poses[..., HIPS, :].mean(-2, keepdims=True)
    return poses - root, visible & visible[..., HIPS].all(-1, keepdims=True)


def mean_over_joints(errors: np.ndarray, mask: np.ndarray, takes: np.ndarray) -> dict[str, float]:
    """Plain mean over the masked joints, and the mean over takes of each take's own mean. NaN where nothing is visible."""
    totals = np.where(mask, errors, 0).sum((1, 2)), mask.sum((1, 2))
    per_take = [(totals[0][takes == take].sum(), totals[1][takes == take].sum()) for take in np.unique(takes)]
    return {
        "mean": float(totals[0].sum() / totals[1].sum()) if totals[1].sum() else float("nan"),
        "mean_over_takes": float(np.mean([s / n for s, n in per_take if n])) if totals[1].sum() else float("nan"),
    }


def measure(prediction: np.ndarray, chunks: MotionChunks, rate: float | np.ndarray, mask: np.ndarray) -> dict:
    """MPJPE and MPJVE of a prediction [N, P, J, 3] over ``mask`` bool [N, P, J] (see ``comparable``).

    A velocity counts where the joint is in the mask at both ends of the step; the pose before the chunk is in it anyway.
    """
    errors = position_error(prediction, chunks.target)
    velocity = velocity_error(prediction, chunks.target, rate)
    place, speed = mean_over_joints(errors, mask, chunks.takes), mean_over_joints(velocity, moving(mask), chunks.takes)
    per_pose = mask.sum((0, 2))
    return {
        "mpjpe_cm": place["mean"],
        "mpjve_cm_s": speed["mean"],
        "mpjpe_cm_over_takes": place["mean_over_takes"],
        "mpjve_cm_s_over_takes": speed["mean_over_takes"],
        "mpjpe_cm_by_pose": [float(e) for e in np.where(mask, errors, 0).sum((0, 2)) / np.maximum(per_pose, TINY)],
    }


def compare(prediction: np.ndarray, chunks: MotionChunks, rate: float | np.ndarray) -> dict:
    """The model beside both floors, in the chunks' own coordinates and root-relative, on one set of joints.

    prediction [N, P, J, 3] metres; ``rate`` = poses per second, one or [N]. Also ``mpjpe_cm_all_visible``: the model over
    every visible target joint, whether the floors have it or not. Raises EvalError when no joint is comparable.
    """
    mask = comparable(chunks)
    if not mask.any():
        raise EvalError("no joint is visible both in a target chunk and in the two poses before it: nothing to measure")
    candidates = {"model": prediction, **floors(chunks.past, prediction.shape[1])}
    result = _beside_floors({name: measure(p, chunks, rate, mask) for name, p in candidates.items()})
    everything = mean_over_joints(position_error(prediction, chunks.target), chunks.visible, chunks.takes)
    result["mpjpe_cm_all_visible"] = everything["mean"]
    result["joints_compared_share"] = float(mask.sum() / max(chunks.visible.sum(), 1))
    result["chunks"] = len(prediction)

    target, target_mask = root_relative(chunks.target, mask)
    past, _ = root_relative(chunks.past, chunks.past_visible)
    relative = MotionChunks(target, target_mask, past, chunks.past_visible, chunks.takes)
    centred = {name: root_relative(p, mask)[0] for name, p in candidates.items()}
    seen = target_mask.any()  # else the hips are nowhere
    relative = {name: measure(p, relative, rate, target_mask) for name, p in centred.items()} if seen else None
    result["root_relative"] = relative and _beside_floors(relative)
    return result


def floors(past: np.ndarray, poses: int) -> dict[str, np.ndarray]:
    """What needs no learning: the next ``poses`` poses after ``past`` [N, Q, J, 3] at zero and at constant velocity."""
    return {"zero_velocity": zero_velocity(past, poses), "constant_velocity": constant_velocity(past, poses)}


def _beside_floors(measured: dict[str, dict]) -> dict:
    return {**measured.pop("model"), "floors": measured}
