"""Ridge regression in closed form: future offsets from the last pose, linear in the last observed poses."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from internlm.data.motion import SELECTION_STRIDE, MotionData, Windows, windows

PENALTIES = (1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3, 1e4)
PAST = 7  # poses


class Ridge:
    """W = (XᵀX + λI)⁻¹XᵀY with X the last seven poses relative to the last one and, with its joints, relative to their mean.

    X and Y are centred, so that the intercept carries no penalty. λ is chosen on the held-out takes.
    """

    def __init__(self, poses: int):
        self.poses, self.penalty = poses, None

    def fit(self, train: MotionData, held_out: MotionData, past: int) -> dict:
        """Choose λ on ``held_out``, then fit on both; returns what was chosen. Data must be in the frame of the predictions."""
        chosen, errors = windows(held_out, past, self.poses, SELECTION_STRIDE), {}
        solve = self._solver(windows(train, past, self.poses, 1))
        for penalty in PENALTIES:
            self.weight = solve(penalty)
            distance = 100 * np.linalg.norm(self.predict(chosen.past) - chosen.future, axis=-1)
            errors[penalty] = float(distance[chosen.visible].mean())
        self.penalty = min(errors, key=errors.get)
        everything = replace(train, tracks=train.tracks + held_out.tracks)
        self.weight = self._solver(windows(everything, past, self.poses, 1))(self.penalty)
        return {"penalty": self.penalty, "held_out_mpjpe_cm": errors[self.penalty], "past_poses": PAST}

    def _solver(self, fitted: Windows) -> Callable[[float], np.ndarray]:
        """λ -> weights; sets the means."""
        x, y = self._inputs(fitted.past), (fitted.future - fitted.past[:, -1:]).reshape(len(fitted), -1)
        self.mean_x, self.mean_y = x.mean(0), y.mean(0)
        x, y = x - self.mean_x, y - self.mean_y
        values, vectors = np.linalg.eigh(x.T @ x)
        projected = vectors.T @ (x.T @ y)
        return lambda penalty: vectors @ (projected / (values + penalty)[:, None])

    def predict(self, past: np.ndarray) -> np.ndarray:
        """past [N, I, J, 3] -> [N, poses, J, 3]."""
        offset = (self._inputs(past) - self.mean_x) @ self.weight + self.mean_y
        return past[:, -1:] + offset.reshape(len(past), self.poses, *past.shape[2:])

    def _inputs(self, past: np.ndarray) -> np.ndarray:
        recent = past[:, -PAST:]
        body = recent[:, -1:] - recent[:, -1:].mean(2, keepdims=True)
        return np.concatenate([recent[:, :-1] - recent[:, -1:], body], axis=1).reshape(len(past), -1)
