"""One column of every kind, that the tests of columns share."""

import numpy as np

from internlm.data.store import Column, EventColumn, PackedColumn

TOKENS = "tokens/0123456789ab/rgb"


def gaze(numbers) -> Column:
    frames = np.asarray(list(numbers), np.int64)
    direction = np.tile(np.array([0, 0.6, 0.8], np.float32), (len(frames), 1))
    uv = np.stack([frames % 8, frames % 7], -1).astype(np.float32)
    return Column(frames, {"uv": uv, "valid": frames % 3 > 0, "direction": direction})


def depth(numbers, size=8, kind="z") -> PackedColumn:
    return PackedColumn([(n, np.full((size, size), 1000 + n, np.uint16)) for n in numbers], {"kind": kind})


def columns(numbers) -> dict:
    """Name -> column with rows at these frame numbers, all kinds."""
    frames = np.asarray(list(numbers), np.int64)
    count = len(frames)
    ones = np.ones((count, 2), np.int32)
    return {
        "depth": depth(numbers),
        "ids": PackedColumn([(n, np.full((8, 8), n % 251, np.uint8)) for n in numbers]),
        "gaze": gaze(numbers),
        "actions": Column(
            frames,
            {
                "action": np.zeros((count, 2), np.float32),
                "action_valid": np.ones(count, bool),
                "reward": np.arange(count, dtype=np.float32),
                "reward_valid": np.ones(count, bool),
            },
            {"kind": "continuous", "names": ["turn", "walk"], "low": [-1, -1], "high": [1, 1.5]},
        ),
        "objects": Column(
            frames,
            {
                "kinds": np.array(["mug", "Tür"]),
                "colours": np.array(["red", "blue"]),
                "half_size": np.full((2, 3), 0.1, np.float32),
                "centre": np.zeros((count, 2, 3), np.float32),
                "box": np.tile(np.array([1, 2, 3, 4], np.float32), (count, 2, 1)),
                "pixels": 5 * ones,
                "full": 9 * ones,
                "held": np.zeros((count, 2), np.int8),
            },
        ),
        "events": EventColumn(
            [
                {"id": k, "before": n, "after": n + 1, "verb": "take", "texts": {"action": "C nimmt ä"}}
                for k, n in enumerate(numbers)
            ]
        ),
        TOKENS: Column(
            frames, {"codes": np.full((count, 3, 4), 63999, np.uint16), "valid": np.ones(count, bool)}, {"vocabulary": 64000}
        ),
        "features/dinov2": PackedColumn(
            [(n, np.full((6, 5), n, np.float16)) for n in numbers],
            {"grid": [2, 3], "weights": "sha256:1f", "preprocessing": "224 pixels, centre"},
        ),
    }
