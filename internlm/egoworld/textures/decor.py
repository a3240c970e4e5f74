"""Tops and fronts of soft and hanging things: one drawing per face."""

import numpy as np

from internlm.egoworld.textures.canvas import Canvas


def pillow(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.65).rect(0.05, 0.08, 0.95, 0.92, 0, 0.85).rect(0.14, 0.2, 0.86, 0.8, 0, 1).frame(1, 0.6, 1)


def quilt(canvas: Canvas, rng: np.random.Generator) -> None:
    for i in range(4):
        for j in range(4):
            canvas.rect(i / 4, j / 4, (i + 1) / 4 - 0.02, (j + 1) / 4 - 0.02, (i * 3 + j * 2) % 3, rng.uniform(0.7, 1))
            canvas.disc(i / 4 + 0.12, j / 4 + 0.12, 0.04, 3, 0.9)


def folds(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.9)
    for i in range(7):
        canvas.rect(i / 7, 0, i / 7 + 0.06, 1, 0, 0.5).rect(i / 7 + 0.06, 0, i / 7 + 0.09, 1, 0, 0.7)
    canvas.rect(0, 0.9, 1, 0.95, 1, 0.8)


def cushions(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.35)
    for i in range(3):
        canvas.rect(i / 3 + 0.015, 0.04, (i + 1) / 3 - 0.015, 0.96, 0, 0.8).rect(
            i / 3 + 0.05, 0.14, (i + 1) / 3 - 0.05, 0.82, 0, 0.95
        )
        canvas.disc(i / 3 + 1 / 6, 0.48, 0.025, 1, 0.4)


def picture(canvas: Canvas, rng: np.random.Generator, kind: int) -> None:
    canvas.fill(slot=0, light=0.5).rect(0.08, 0.08, 0.92, 0.92, 2, 0.95)
    if kind == 0:
        canvas.rect(0.08, 0.55, 0.92, 0.92, 3, 0.7).disc(0.65, 0.35, 0.14, 1, 0.95)
    elif kind == 1:
        canvas.ellipse(0.5, 0.45, 0.18, 0.24, 1, 0.9).rect(0.28, 0.68, 0.72, 0.92, 3, 0.7)
    else:
        for _ in range(7):
            x, y, w = rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.6), rng.uniform(0.12, 0.3)
            canvas.rect(x, y, x + w, y + rng.uniform(0.12, 0.3), int(rng.integers(1, 4)), rng.uniform(0.5, 1))


def towels(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.85).rect(0, 0, 1, 0.08, 1, 0.4)
    for i in range(3):
        x = 0.04 + i / 3
        canvas.rect(x, 0.04, x + 0.25, rng.uniform(0.7, 0.96), 1 + i, 0.9).rect(x, 0.5, x + 0.25, 0.56, 0, 0.9).rect(
            x, 0.6, x + 0.25, 0.63, 0, 0.9
        )


def leaves(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.2)
    for _ in range(40):
        x, y = rng.uniform(size=2)
        canvas.ellipse(x, y, rng.uniform(0.03, 0.08), rng.uniform(0.06, 0.15), int(rng.integers(2)), rng.uniform(0.4, 1))


def curtain(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.8).rect(0, 0, 1, 0.04, 1, 0.4)
    for i in range(5):
        canvas.rect(i / 5, 0.04, i / 5 + 0.08, 1, 0, 0.95).rect(i / 5 + 0.08, 0.04, i / 5 + 0.12, 1, 1, 0.7)
