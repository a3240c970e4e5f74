"""Patterns of surfaces, repeated over a face: finishes of walls, floors and furniture."""

import numpy as np

from internlm.egoworld.textures.canvas import Canvas


def plain(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.grain(rng, 0.03)


def noise(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.8).grain(rng, 0.07, (1.2, 1.2))


def wood(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.78).grain(rng, 0.11, (10, 0.8))


def planks(canvas: Canvas, rng: np.random.Generator) -> None:
    for row in range(4):
        canvas.rect(0, row / 4, 1, (row + 1) / 4, 0, rng.uniform(0.55, 0.95))
        shift = rng.uniform()
        canvas.line(shift, row / 4, shift, (row + 1) / 4 - 0.02, 0, 0.3)
        canvas.line(0, row / 4, 1, row / 4, 0, 0.3)
    canvas.grain(rng, 0.06, (6, 0.6))


def bricks(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(slot=1, light=0.8)
    for row in range(4):
        for column in range(-1, 3):
            x = (column + 0.5 * (row % 2)) / 2
            canvas.rect(max(x, 0) + 0.02, row / 4 + 0.02, min(x + 0.48, 1), row / 4 + 0.23, 0, rng.uniform(0.6, 0.9))


def tiles(canvas: Canvas, rng: np.random.Generator, count: int) -> None:
    canvas.fill(slot=1, light=0.6)
    for i in range(count):
        for j in range(count):
            canvas.rect(i / count + 0.02, j / count + 0.02, (i + 1) / count, (j + 1) / count, 0, rng.uniform(0.75, 1))


def checker(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.rect(0, 0, 0.5, 0.5, 1).rect(0.5, 0.5, 1, 1, 1).grain(rng, 0.04)


def stripes(canvas: Canvas, rng: np.random.Generator, across: bool) -> None:
    for i in range(2):
        band = (0, i / 2, 1, i / 2 + 0.25) if across else (i / 2, 0, i / 2 + 0.25, 1)
        canvas.rect(*band, 1, 0.85)
    canvas.grain(rng, 0.03)


def dots(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.disc(0.25, 0.25, 0.11, 1).disc(0.75, 0.75, 0.11, 1)


def diamonds(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.poly([(0.5, 0.05), (0.95, 0.5), (0.5, 0.95), (0.05, 0.5)], 1, 0.85)
    canvas.poly([(0.5, 0.3), (0.7, 0.5), (0.5, 0.7), (0.3, 0.5)], 2, 0.85)


def weave(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.7)
    for i in range(8):
        for j in range(8):
            canvas.rect(i / 8, j / 8, (i + 1) / 8 - 0.02, (j + 1) / 8 - 0.02, (i + j) % 2, rng.uniform(0.6, 0.9))


def panels(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.rect(0.08, 0.05, 0.92, 0.95, 0, 0.6).rect(0.13, 0.08, 0.9, 0.92, 0, 0.85)
