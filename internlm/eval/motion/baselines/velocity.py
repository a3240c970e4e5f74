"""The floors that need no training."""

import numpy as np

from ...errors import EvalError


def zero_velocity(past: np.ndarray, poses: int) -> np.ndarray:
    """Repeat the last observed pose: past [N, Q, J, 3] -> [N, poses, J, 3]."""
    return np.repeat(past[:, -1:], poses, axis=1)


def constant_velocity(past: np.ndarray, poses: int) -> np.ndarray:
    """Continue the last observed step of every joint: past [N, Q, J, 3] -> [N, poses, J, 3]. Needs Q of at least 2."""
    if past.shape[1] < 2:
        raise EvalError(f"constant velocity needs two observed poses, got {past.shape[1]}; use chunks of at least 2")
    step = past[:, -1:] - past[:, -2:-1]
    return past[:, -1:] + step * np.arange(1, poses + 1).reshape(1, -1, 1, 1)
