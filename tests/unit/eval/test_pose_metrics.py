"""Errors of predicted motion against hand-computed cases and closed forms."""

import numpy as np
import pytest

from internlm.eval.tasks.motion import metrics as pm

RNG = np.random.default_rng(0)


def rotation(seed: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def test_procrustes_undoes_turn_scale_and_shift_but_no_mirror():
    target = RNG.normal(size=(4, 5, 17, 3))
    moved = 1.7 * target @ rotation(1).T + np.array([3.0, -2.0, 0.5])
    mask = np.ones((4, 5, 17), bool)
    assert pm.position_error(pm.procrustes(moved, target, mask), target).max() < 1e-9
    assert pm.pooled(pm.position_error(pm.procrustes(moved * [-1, 1, 1], target, mask), target), mask) > 10


def test_procrustes_is_the_least_squares_similarity():
    target, prediction = RNG.normal(size=(1, 17, 3)), RNG.normal(size=(1, 17, 3))
    mask = np.ones((1, 17), bool)
    mask[0, 3] = False
    error = lambda p: float((((p - target) ** 2).sum(-1) * mask).sum())  # noqa: E731
    best = pm.procrustes(prediction, target, mask)
    centre = best[mask[None][0]].mean(0)
    for seed in range(20):
        small = np.random.default_rng(seed)
        axis = small.normal(size=3) * 0.01
        turn = np.eye(3) + np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
        other = (best - centre) @ turn.T * (1 + 0.01 * small.normal()) + centre + 0.01 * small.normal(size=3)
        assert error(best) <= error(other) + 1e-9
    hidden = prediction.copy()
    hidden[0, 3] = 1e3
    np.testing.assert_allclose(pm.procrustes(hidden, target, mask)[0, :3], best[0, :3])


def test_horizons_at_thirty_and_ten_hertz():
    errors = np.arange(1.0, 31)[None, :, None]
    mask = np.ones_like(errors, bool)
    assert pm.at_horizons(errors, mask, 30.0) == {"67": 2.0, "167": 5.0, "333": 10.0, "1000": 30.0}
    assert pm.at_horizons(errors, mask, 10.0) == {"1000": 10.0}, "67, 167 and 333 ms fall between poses 100 ms apart"


def test_interval_draws_takes_not_windows():
    takes = np.repeat([0, 1, 2, 3], [50, 5, 5, 5])
    errors = np.repeat([1.0, 2.0, 3.0, 4.0], [50, 5, 5, 5])[:, None, None]
    mask = np.ones_like(errors, bool)
    low, high = pm.interval(errors, mask, takes)
    # By enumeration of all 4^4 draws of takes.
    sums, counts = np.array([50.0, 10, 15, 20]), np.array([50, 5, 5, 5])
    draws = np.stack(np.meshgrid(*[range(4)] * 4), -1).reshape(-1, 4)
    exact = np.quantile(sums[draws].sum(1) / counts[draws].sum(1), [0.025, 0.975])
    assert [low, high] == pytest.approx(exact, abs=0.1)
    assert pm.interval(errors, mask, np.zeros(len(takes))) is None
    assert pm.interval(errors, mask, takes) == [low, high], "same draws every time"


def test_score_tables_and_masks():
    target = RNG.normal(size=(4, 30, 3, 3))
    prediction = target.copy()
    prediction[2:, :, 1, 0] += 0.03  # action b, joint q: 3 cm off
    mask = np.ones(target.shape[:3], bool)
    mask[3] = False
    result = pm.score(
        prediction, target, mask, rate=30.0, takes=np.array([0, 0, 1, 1]), actions=np.array(["a", "a", "b", "b"]), joints="pqr"
    )
    assert result["mpjpe_cm"] == pytest.approx(3 / 9)
    assert result["by_action"]["a"]["mpjpe_cm"] == 0 and result["by_action"]["b"]["mpjpe_cm"] == pytest.approx(1.0)
    assert result["by_joint_cm"] == pytest.approx({"p": 0, "q": 1.0, "r": 0})
    assert result["mpjve_cm_s"] == pytest.approx(3 * 30 / 30 / 9)  # one step of 90 cm/s in thirty, one joint of nine
    assert result["mpjpe_cm_at_ms"]["1000"] == pytest.approx(3 / 9)


def test_paired_difference():
    target = np.zeros((2, 1, 1, 3))
    near, far = target + [0.01, 0, 0], target + [0.03, 0, 0]
    difference = pm.paired_difference(near, far, target, np.ones((2, 1, 1), bool), np.array([0, 1]))
    assert difference["mpjpe_cm"] == pytest.approx(-2.0) and difference["interval"] == pytest.approx([-2.0, -2.0])
