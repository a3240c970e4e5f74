"""Errors of predicted body motion (docs/evaluation.md gives the formulas). Positions in metres; results in cm and cm/s."""

from collections.abc import Sequence

import numpy as np

CM = 100.0
HORIZONS_MS = (67, 167, 333, 1000)
DRAWS = 2000  # bootstrap samples
TINY = 1e-12


def position_error(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Distance of every joint in centimetres: [..., J, 3] -> [..., J]."""
    return CM * np.linalg.norm(prediction - target, axis=-1)


def velocity_error(prediction: np.ndarray, target: np.ndarray, rate: float | np.ndarray) -> np.ndarray:
    """Norm of the velocity error in cm/s: [N, P, J, 3] -> [N, P, J]. ``rate`` in Hz, one or [N].

    The first velocity starts at the last observed pose, which is known and so cancels.
    """
    difference = prediction - target
    before = np.concatenate([np.zeros_like(difference[:, :1]), difference[:, :-1]], axis=1)
    return CM * np.asarray(rate, float).reshape(-1, 1, 1) * np.linalg.norm(difference - before, axis=-1)


def moving(mask: np.ndarray) -> np.ndarray:
    """Where a velocity counts, given where positions do [N, P, J]: at both ends of the step; the pose before is known."""
    both = mask.copy()
    both[:, 1:] &= mask[:, :-1]
    return both


def procrustes(prediction: np.ndarray, target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``prediction`` [..., J, 3] after the similarity (turn, scale, shift) that brings it closest to ``target``, each pose for
    itself over its joints in ``mask`` [..., J] (least squares, Umeyama 1991). Poses of under three joints stay as they are."""
    weight = mask[..., None].astype(float)
    count = np.maximum(weight.sum(-2, keepdims=True), 1)
    centre_p, centre_t = (prediction * weight).sum(-2, keepdims=True) / count, (target * weight).sum(-2, keepdims=True) / count
    p, t = (prediction - centre_p) * weight, (target - centre_t) * weight
    u, s, v = np.linalg.svd(np.swapaxes(t, -1, -2) @ p)
    s[..., -1] *= np.sign(np.linalg.det(u) * np.linalg.det(v))
    u[..., -1] *= np.sign(np.linalg.det(u) * np.linalg.det(v))[..., None]
    scale = s.sum(-1)[..., None, None] / np.maximum((p**2).sum((-2, -1)), TINY)[..., None, None]
    aligned = scale * (prediction - centre_p) @ np.swapaxes(u @ v, -1, -2) + centre_t
    return np.where(mask.sum(-1)[..., None, None] >= 3, aligned, prediction)


def pooled(errors: np.ndarray, mask: np.ndarray) -> float:
    """Mean over the masked entries, NaN where there is none."""
    return float(np.where(mask, errors, 0).sum() / mask.sum()) if mask.any() else float("nan")


def at_horizons(errors: np.ndarray, mask: np.ndarray, rate: float, horizons_ms: Sequence[int] = HORIZONS_MS) -> dict[str, float]:
    """Mean error of the pose at each horizon, by milliseconds; a horizon that no pose falls on (to half a step) is left out."""
    found = {}
    for horizon in horizons_ms:
        pose = round(horizon * rate / 1000)
        if 1 <= pose <= errors.shape[1] and abs(pose / rate - horizon / 1000) <= 0.005:
            found[str(horizon)] = pooled(errors[:, pose - 1], mask[:, pose - 1])
    return found


def interval(
    errors: np.ndarray, mask: np.ndarray, takes: np.ndarray, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> list[float] | None:
    """Percentile bootstrap interval [low, high] of the pooled mean, drawing whole takes with replacement.

    Windows of a take resemble each other, so windows are not drawn one by one. None for a single take.
    """
    names, group = np.unique(takes, return_inverse=True)
    if len(names) < 2:
        return None
    axes = tuple(range(1, errors.ndim))
    total = np.bincount(group, np.where(mask, errors, 0).sum(axes), len(names))
    count = np.bincount(group, mask.sum(axes), len(names))
    rows = np.random.default_rng(seed).integers(0, len(names), (draws, len(names)))
    seen = count[rows].sum(1)
    means = total[rows].sum(1)[seen > 0] / seen[seen > 0]
    return [float(q) for q in np.quantile(means, [(1 - level) / 2, (1 + level) / 2])]


def score(
    prediction: np.ndarray,
    target: np.ndarray,
    mask: np.ndarray,
    *,
    rate: float | np.ndarray,
    takes: np.ndarray,
    actions: np.ndarray | None = None,
    joints: Sequence[str] | None = None,
) -> dict:
    """Everything about one prediction [N, P, J, 3] against its target over ``mask`` bool [N, P, J].

    ``takes`` [N] groups windows for the intervals; ``actions`` str [N] and ``joints`` (J names) give the tables. ``rate`` in
    Hz, one or [N]; horizons are only told where it is one.
    """
    one = np.unique(rate)
    place, speed, both = position_error(prediction, target), velocity_error(prediction, target, rate), moving(mask)
    aligned = position_error(procrustes(prediction, target, mask), target)
    result = {
        "mpjpe_cm": pooled(place, mask),
        "mpjve_cm_s": pooled(speed, both),
        "pa_mpjpe_cm": pooled(aligned, mask),
        "mpjpe_cm_interval": interval(place, mask, takes),
        "mpjve_cm_s_interval": interval(speed, both, takes),
        "mpjpe_cm_at_ms": at_horizons(place, mask, float(one[0])) if len(one) == 1 else {},
        "mpjve_cm_s_at_ms": at_horizons(speed, both, float(one[0])) if len(one) == 1 else {},
    }
    if actions is not None:
        result["by_action"] = {}
        for name in np.unique(actions):
            rows = actions == name
            errors = {"mpjpe_cm": pooled(place[rows], mask[rows]), "mpjve_cm_s": pooled(speed[rows], both[rows])}
            result["by_action"][str(name)] = errors
    if joints is not None:
        result["by_joint_cm"] = {name: pooled(place[..., j], mask[..., j]) for j, name in enumerate(joints)}
    return result


def paired_difference(prediction: np.ndarray, other: np.ndarray, target: np.ndarray, mask: np.ndarray, takes: np.ndarray) -> dict:
    """MPJPE of ``prediction`` minus that of ``other`` on the same windows, cm, with its interval over takes."""
    difference = position_error(prediction, target) - position_error(other, target)
    return {"mpjpe_cm": pooled(difference, mask), "interval": interval(difference, mask, takes)}
