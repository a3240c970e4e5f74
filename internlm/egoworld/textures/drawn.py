"""Patterns that are drawn by loops and by chance; the others are display lists in ``patterns.json``."""

import numpy as np

from internlm.egoworld.textures.canvas import Canvas


def planks(canvas: Canvas, rng: np.random.Generator) -> None:
    for row in range(4):
        canvas.rect(0, row / 4, 1, (row + 1) / 4, 0, rng.uniform(0.55, 0.95))
        shift = rng.uniform()
        canvas.line(shift, row / 4, shift, (row + 1) / 4 - 0.02, 0, 0.3)
        canvas.line(0, row / 4, 1, row / 4, 0, 0.3)
    canvas.grain(0.06, (6, 0.6))


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


def weave(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.7)
    for i in range(8):
        for j in range(8):
            canvas.rect(i / 8, j / 8, (i + 1) / 8 - 0.02, (j + 1) / 8 - 0.02, (i + j) % 2, rng.uniform(0.6, 0.9))


def books(canvas: Canvas, rng: np.random.Generator, rows: int) -> None:
    canvas.fill(slot=0, light=0.25)
    for row in range(rows):
        top, bottom, x = row / rows, (row + 1) / rows, 0.04
        canvas.rect(0, bottom - 0.035, 1, bottom, 0, 0.85)
        while x < 0.93:
            width, height = rng.uniform(0.035, 0.085), rng.uniform(0.66, 0.9)
            slot, light = int(rng.integers(1, 4)), rng.uniform(0.5, 1)
            if rng.uniform() < 0.92:
                start = bottom - 0.03 - height * (bottom - top - 0.03)
                canvas.rect(x, start, min(x + width - 0.012, 0.96), bottom - 0.035, slot, light)
                canvas.rect(x, start + 0.06, min(x + width - 0.012, 0.96), start + 0.09, 0, 0.95)
            x += width
    canvas.rect(0, 0, 0.035, 1, 0, 0.8).rect(0.965, 0, 1, 1, 0, 0.8).rect(0, 0, 1, 0.03, 0, 0.8)


def drawers(canvas: Canvas, rng: np.random.Generator, rows: int, columns: int = 1) -> None:
    canvas.fill(light=0.4)
    for row in range(rows):
        for column in range(columns):
            x0, x1, y0, y1 = column / columns, (column + 1) / columns, row / rows, (row + 1) / rows
            canvas.rect(x0 + 0.03, y0 + 0.03, x1 - 0.03, y1 - 0.03, 0, 0.88)
            middle, knob = (x0 + x1) / 2, y0 + 0.4 * (y1 - y0)
            canvas.rect(middle - 0.12 / columns, knob, middle + 0.12 / columns, knob + 0.05, 1, 0.95)


def doors(canvas: Canvas, rng: np.random.Generator, columns: int) -> None:
    canvas.fill(light=0.35)
    for column in range(columns):
        x0, x1 = column / columns + 0.02, (column + 1) / columns - 0.02
        canvas.rect(x0, 0.02, x1, 0.98, 0, 0.9).rect(x0 + 0.06, 0.09, x1 - 0.06, 0.91, 0, 0.6)
        canvas.rect(x0 + 0.09, 0.12, x1 - 0.07, 0.9, 0, 0.85)
        handle = x1 - 0.06 if column % 2 == 0 else x0 + 0.02
        canvas.rect(handle, 0.42, handle + 0.04, 0.6, 1, 1)


def fridge(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.95).rect(0, 0.33, 1, 0.36, 0, 0.25).rect(0.82, 0.12, 0.89, 0.3, 1, 0.4).rect(0.82, 0.4, 0.89, 0.7, 1, 0.4)
    for _ in range(5):
        x, y = rng.uniform(0.1, 0.6), rng.uniform(0.4, 0.8)
        canvas.rect(x, y, x + 0.13, y + 0.1, int(rng.integers(1, 4)), 0.95)
    canvas.frame(0, 0.5, 1)


def crockery(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.3)
    for row in range(3):
        canvas.rect(0, (row + 1) / 3 - 0.05, 1, (row + 1) / 3, 0, 0.85)
        for i in range(5):
            x, y = 0.12 + 0.19 * i, (row + 1) / 3 - 0.05
            if row == 1:
                canvas.disc(x, y - 0.1, 0.085, 1 + i % 3, 0.95).disc(x, y - 0.1, 0.05, 1 + i % 3, 0.6, 1)
            else:
                canvas.rect(x - 0.06, y - rng.uniform(0.09, 0.2), x + 0.06, y, 1 + int(rng.integers(3)), 0.9)


def weights(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.5)
    for row in range(3):
        y = row / 3 + 0.15
        canvas.rect(0, row / 3 + 0.28, 1, row / 3 + 0.333, 0, 0.95)
        for i in range(5):
            x = 0.1 + 0.2 * i
            canvas.disc(x, y, 0.085 + 0.01 * row, 1, 0.15).disc(x, y, 0.05, 2, 0.8, 1).disc(x, y, 0.025, 2, 0.95)


def lumber(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(slot=1, light=0.15)
    for i in range(5):
        for j in range(5):
            x, y, w = i / 5 + rng.uniform(0, 0.04), j / 5 + rng.uniform(0, 0.05), rng.uniform(0.1, 0.16)
            canvas.rect(x, y, x + w, y + 0.13, 0, rng.uniform(0.6, 1)).disc(x + w / 2, y + 0.065, 0.03, 0, 0.5, 1)


def files(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.3)
    for row in range(4):
        y = row / 4
        canvas.rect(0, y + 0.22, 1, y + 0.25, 0, 0.9)
        for i in range(7):
            canvas.rect(i / 7 + 0.01, y + 0.04, (i + 1) / 7 - 0.015, y + 0.22, 1 + int(rng.integers(2)), 0.9)
            canvas.disc(i / 7 + 0.065, y + 0.17, 0.02, 0, 0.2).rect(i / 7 + 0.03, y + 0.07, i / 7 + 0.1, y + 0.11, 3, 1)


def clothes(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.25).rect(0, 0.06, 1, 0.09, 1, 1)
    for i in range(9):
        x = 0.03 + i * 0.107
        outline = [(x, 0.16), (x + 0.05, 0.1), (x + 0.1, 0.16), (x + 0.1, rng.uniform(0.6, 0.9)), (x, 0.85)]
        canvas.poly(outline, 1 + i % 3, rng.uniform(0.6, 1))


def pegboard(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.9)
    for i in range(16):
        for j in range(16):
            canvas.rect(i / 16 + 0.02, j / 16 + 0.02, i / 16 + 0.035, j / 16 + 0.035, 0, 0.4)
    for i, x in enumerate(np.linspace(0.1, 0.88, 6)):
        slot, kind = 1 + i % 3, int(rng.integers(4))
        if kind == 0:  # hammer
            canvas.rect(x - 0.015, 0.15, x + 0.025, 0.55, slot, 0.5).rect(x - 0.07, 0.1, x + 0.07, 0.19, 1, 0.25)
        elif kind == 1:  # saw
            canvas.poly([(x - 0.06, 0.12), (x + 0.06, 0.12), (x + 0.03, 0.6), (x - 0.01, 0.6)], slot, 0.45)
            canvas.rect(x - 0.06, 0.1, x + 0.06, 0.22, 1, 0.3)
        elif kind == 2:  # wrench
            canvas.disc(x, 0.16, 0.05, slot, 0.3, 2).rect(x - 0.015, 0.2, x + 0.025, 0.52, slot, 0.3)
            canvas.disc(x, 0.55, 0.045, slot, 0.3, 2)
        else:  # screwdriver
            canvas.rect(x - 0.03, 0.1, x + 0.03, 0.3, slot, 0.9).rect(x - 0.01, 0.3, x + 0.015, 0.52, 1, 0.25)
    for i in range(5):
        canvas.disc(0.12 + 0.19 * i, 0.8, 0.07 - 0.008 * i, 1 + i % 3, 0.3, 2)
    canvas.frame(1, 0.5, 2)


def text(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(slot=1, light=0.2).rect(0.05, 0.06, 0.95, 0.94, 2, 0.95).rect(0.05, 0.06, 0.95, 0.15, 3, 0.6)
    for i in range(10):
        canvas.rect(0.1, 0.2 + 0.07 * i, rng.uniform(0.3, 0.6), 0.23 + 0.07 * i, 3, 0.3)
    canvas.rect(0.65, 0.2, 0.9, 0.55, 3, 0.8).rect(0.65, 0.6, 0.9, 0.88, 0, 0.7)


def chart(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(slot=1, light=0.2).rect(0.05, 0.06, 0.95, 0.94, 2, 0.95)
    for i in range(6):
        canvas.rect(0.12 + 0.13 * i, rng.uniform(0.25, 0.75), 0.21 + 0.13 * i, 0.88, 3, 0.6)
    canvas.rect(0.05, 0.06, 0.95, 0.13, 0, 0.6)


def keyboard(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(slot=1, light=0.3)
    for i in range(10):
        for j in range(4):
            canvas.rect(0.03 + i * 0.096, 0.08 + j * 0.22, 0.1 + i * 0.096, 0.24 + j * 0.22, 0, 0.95)


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


def quilt(canvas: Canvas, rng: np.random.Generator) -> None:
    for i in range(4):
        for j in range(4):
            canvas.rect(i / 4, j / 4, (i + 1) / 4 - 0.02, (j + 1) / 4 - 0.02, (i * 3 + j * 2) % 3, rng.uniform(0.7, 1))
            canvas.disc(i / 4 + 0.12, j / 4 + 0.12, 0.04, 3, 0.9)


def picture(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(slot=0, light=0.5).rect(0.08, 0.08, 0.92, 0.92, 2, 0.95)
    for _ in range(7):
        x, y, w = rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.6), rng.uniform(0.12, 0.3)
        canvas.rect(x, y, x + w, y + rng.uniform(0.12, 0.3), int(rng.integers(1, 4)), rng.uniform(0.5, 1))


def towels(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.85).rect(0, 0, 1, 0.08, 1, 0.4)
    for i in range(3):
        x = 0.04 + i / 3
        canvas.rect(x, 0.04, x + 0.25, rng.uniform(0.7, 0.96), 1 + i, 0.9)
        canvas.rect(x, 0.5, x + 0.25, 0.56, 0, 0.9).rect(x, 0.6, x + 0.25, 0.63, 0, 0.9)


def leaves(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(light=0.2)
    for _ in range(40):
        x, y = rng.uniform(size=2)
        canvas.ellipse(x, y, rng.uniform(0.03, 0.08), rng.uniform(0.06, 0.15), int(rng.integers(2)), rng.uniform(0.4, 1))
