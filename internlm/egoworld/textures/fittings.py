"""Fronts of machines, screens and what is built into a room: one drawing per face."""

import numpy as np

from internlm.egoworld.textures.canvas import Canvas


def oven(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.8).rect(0, 0, 1, 0.17, 1, 0.35)
    for i in range(5):
        canvas.disc(0.12 + 0.19 * i, 0.085, 0.055, 2, 1)
    canvas.rect(0.08, 0.24, 0.92, 0.29, 1, 1).rect(0.12, 0.36, 0.88, 0.8, 1, 0.15).rect(0.2, 0.42, 0.8, 0.74, 3, 0.4)


def burners(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.75).frame(1, 0.5)
    for x in (0.28, 0.72):
        for y in (0.28, 0.72):
            canvas.disc(x, y, 0.19, 1, 0.12).disc(x, y, 0.14, 2, 0.7, 2).disc(x, y, 0.06, 2, 0.9)


def sink(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.9).ellipse(0.5, 0.5, 0.38, 0.36, 1, 0.95).ellipse(0.5, 0.52, 0.33, 0.31, 1, 0.45)
    canvas.disc(0.5, 0.55, 0.06, 2, 0.15)


def basins(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.9)
    for x in (0.06, 0.52):
        canvas.rect(x, 0.12, x + 0.42, 0.88, 1, 1).rect(x + 0.04, 0.18, x + 0.38, 0.82, 1, 0.4).disc(x + 0.21, 0.5, 0.06, 2, 0.15)


def screen(canvas: Canvas, rng: np.random.Generator, kind: int) -> None:
    canvas.fill(slot=1, light=0.2)
    canvas.rect(0.05, 0.06, 0.95, 0.94, 2, 0.95)
    if kind == 0:  # text windows
        canvas.rect(0.05, 0.06, 0.95, 0.15, 3, 0.6)
        for i in range(10):
            canvas.rect(0.1, 0.2 + 0.07 * i, rng.uniform(0.3, 0.6), 0.23 + 0.07 * i, 3, 0.3)
        canvas.rect(0.65, 0.2, 0.9, 0.55, 3, 0.8).rect(0.65, 0.6, 0.9, 0.88, 0, 0.7)
    elif kind == 1:  # chart
        for i in range(6):
            canvas.rect(0.12 + 0.13 * i, rng.uniform(0.25, 0.75), 0.21 + 0.13 * i, 0.88, 3, 0.6)
        canvas.rect(0.05, 0.06, 0.95, 0.13, 0, 0.6)
    else:  # a film
        canvas.rect(0.05, 0.06, 0.95, 0.55, 3, 0.9).poly([(0.05, 0.6), (0.35, 0.3), (0.6, 0.6)], 2, 0.5)
        canvas.poly([(0.4, 0.6), (0.7, 0.35), (0.95, 0.6)], 2, 0.35).rect(0.05, 0.6, 0.95, 0.94, 0, 0.6).disc(
            0.8, 0.2, 0.07, 2, 1
        )


def keyboard(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(slot=1, light=0.3)
    for i in range(10):
        for j in range(4):
            canvas.rect(0.03 + i * 0.096, 0.08 + j * 0.22, 0.1 + i * 0.096, 0.24 + j * 0.22, 0, 0.95)


def mirror(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(slot=0, light=0.55).rect(0.06, 0.06, 0.94, 0.94, 2, 0.9)
    canvas.poly([(0.1, 0.6), (0.55, 0.08), (0.75, 0.08), (0.1, 0.85)], 2, 1).poly(
        [(0.4, 0.92), (0.92, 0.3), (0.92, 0.42), (0.5, 0.92)], 2, 1
    )


def window(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(slot=0, light=0.95)
    for x in (0.06, 0.53):
        for y in (0.06, 0.53):
            canvas.rect(x, y, x + 0.41, y + 0.41, 2, 1.0 if y < 0.5 else 0.8)
    canvas.poly([(0.06, 0.94), (0.2, 0.7), (0.47, 0.94)], 3, 0.6).disc(0.75, 0.8, 0.12, 3, 0.7).rect(
        0.47, 0.06, 0.53, 0.94, 0, 0.9
    )


def door(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.8).frame(1, 0.5, 4)
    for x in (0.15, 0.54):
        for y0, y1 in ((0.1, 0.42), (0.54, 0.9)):
            canvas.rect(x, y0, x + 0.31, y1, 0, 0.5).rect(x + 0.04, y0 + 0.03, x + 0.29, y1 - 0.02, 0, 0.9)
    canvas.disc(0.88, 0.5, 0.035, 2, 1)


def grille(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.9)
    for i in range(8):
        canvas.rect(0.08, 0.08 + i * 0.11, 0.92, 0.13 + i * 0.11, 1, 0.25)


def washer(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.92).rect(0, 0, 1, 0.16, 0, 0.7).rect(0.06, 0.03, 0.36, 0.13, 1, 0.8).disc(0.8, 0.08, 0.055, 2, 0.9)
    canvas.disc(0.5, 0.57, 0.33, 1, 0.9).disc(0.5, 0.57, 0.26, 1, 0.15).ellipse(0.5, 0.66, 0.2, 0.12, 3, 0.7).frame(0, 0.5, 1)


def belt(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(slot=1, light=0.22)
    for i in range(6):
        canvas.line(0.14, 0.08 + i / 6, 0.86, 0.08 + i / 6, 1, 0.45)
        canvas.line(0.08 + i / 6, 0.14, 0.08 + i / 6, 0.86, 1, 0.3)
    canvas.frame(2, 0.9, 3)


def clock(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(slot=0, light=0.7).disc(0.5, 0.5, 0.46, 1, 0.4).disc(0.5, 0.5, 0.4, 2, 1)
    canvas.line(0.5, 0.5, 0.5, 0.2, 1, 0.2, 2).line(0.5, 0.5, 0.7, 0.6, 1, 0.2, 2)


def whiteboard(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(slot=0, light=0.45).rect(0.04, 0.06, 0.96, 0.92, 2, 1)
    for i in range(6):
        canvas.line(0.1, 0.16 + 0.11 * i, rng.uniform(0.25, 0.5), 0.16 + 0.11 * i, 1, 0.4, 2)
    canvas.rect(0.6, 0.2, 0.75, 0.35, 3, 0.6).rect(0.75, 0.55, 0.9, 0.7, 1, 0.6).line(0.67, 0.35, 0.82, 0.55, 3, 0.3)


def fire(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(slot=0, light=0.1)
    for i in range(6):
        x, h = 0.15 + 0.14 * i, rng.uniform(0.35, 0.75)
        canvas.poly([(x - 0.1, 0.9), (x, 0.9 - h), (x + 0.1, 0.9)], 2 + i % 2, 0.95)
    canvas.rect(0.1, 0.86, 0.9, 0.96, 1, 0.4)


def disc_pattern(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(slot=1, light=0.3).disc(0.5, 0.5, 0.42, 0, 0.8).disc(0.5, 0.5, 0.3, 1, 0.35, 2).disc(0.5, 0.5, 0.1, 2, 0.9)
