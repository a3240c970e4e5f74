"""The pattern atlas of EgoWorld: small procedural drawings that give furniture and walls their look."""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from internlm.egoworld.textures import drawn
from internlm.egoworld.textures.canvas import SIZE, Canvas

LEVELS = 6  # mip levels: 64, 32, ... 2 texels wide
LEVEL_OFFSETS = tuple(int(sum((SIZE >> i) ** 2 for i in range(level))) for level in range(LEVELS))
TEXELS = int(sum((SIZE >> i) ** 2 for i in range(LEVELS)))  # of one pattern over all mip levels


@dataclass(frozen=True)
class Pattern:
    """One entry of ``patterns.json``. draw: a display list, each row a method of ``Canvas`` and its numbers, or the name of a
    function of ``drawn``, which gets the options."""

    draw: str | list[list[Any]]
    repeat_m: float = 0.0  # metres of one repeat; 0 stretches the drawing over the whole face
    glow: bool = False  # lit by itself (screens, windows)
    options: dict[str, int] = field(default_factory=dict)

    def paint(self, canvas: Canvas) -> Canvas:
        if isinstance(self.draw, str):
            getattr(drawn, self.draw)(canvas, canvas.rng, **self.options)
        else:
            for shape, *numbers in self.draw:
                getattr(canvas, shape)(*numbers)
        return canvas


# An entry's place is its number; those that repeat come first.
PATTERNS = {name: Pattern(**row) for name, row in json.loads(Path(__file__).with_name("patterns.json").read_bytes()).items()}
TEXTURE_ID: dict[str, int] = {name: i for i, name in enumerate(PATTERNS)}
REPEAT_M = np.array([pattern.repeat_m for pattern in PATTERNS.values()], np.float32)
GLOW = np.array([pattern.glow for pattern in PATTERNS.values()])


@cache
def atlas() -> tuple[np.ndarray, np.ndarray]:
    """All patterns, the same in every run: luminance float32 [K,64,64] in 0..1 and colour slot uint8 [K,64,64]."""
    canvases = [pattern.paint(Canvas(np.random.default_rng([7, i]))) for i, pattern in enumerate(PATTERNS.values())]
    light = np.stack([np.clip(canvas.light / 255, 0.02, 1) for canvas in canvases])
    return light.astype(np.float32), np.stack([canvas.slot for canvas in canvases])


def bake(texture: int, colours: np.ndarray) -> np.ndarray:
    """One pattern painted with four colours [4,3] (0..1): float32 [3, TEXELS], its mip levels one after another.

    Levels are averaged in colour, so that a far pattern keeps its mean and does not flicker.
    """
    light, slot = atlas()
    image = np.asarray(colours, np.float32).T[:, slot[texture]] * light[texture]  # [3, 64, 64]
    levels = [image]
    for _ in range(1, LEVELS):
        image = (image[:, ::2, ::2] + image[:, 1::2, ::2] + image[:, ::2, 1::2] + image[:, 1::2, 1::2]) * np.float32(0.25)
        levels.append(image)
    return np.concatenate([level.reshape(3, -1) for level in levels], 1)
