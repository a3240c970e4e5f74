"""The pattern atlas of EgoWorld: small procedural drawings that give furniture and walls their look.

A pattern is 64x64 texels of (luminance 0..255, slot 0..3). The slot says which of a part's four colours paints the
texel, so one drawing serves every palette and no pattern owns a colour. Row 0 is the top of a vertical face.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

SIZE = 64
LEVELS = 6  # mip levels: 64, 32, ... 2 texels wide
LEVEL_OFFSETS = tuple(int(sum((SIZE >> i) ** 2 for i in range(level))) for level in range(LEVELS))
TEXELS = int(sum((SIZE >> i) ** 2 for i in range(LEVELS)))  # of one pattern over all mip levels


class Canvas:
    """A pattern being drawn, in unit coordinates (x right, y down)."""

    def __init__(self, slot: int = 0, light: float = 0.85) -> None:
        self.light = np.full((SIZE, SIZE), light * 255, np.float32)
        self.slot = np.full((SIZE, SIZE), slot, np.uint8)

    def rect(self, x0: float, y0: float, x1: float, y1: float, slot: int, light: float = 0.9) -> "Canvas":
        low = (round(x0 * SIZE), round(y0 * SIZE))
        high = (max(round(x1 * SIZE) - 1, low[0]), max(round(y1 * SIZE) - 1, low[1]))
        cv2.rectangle(self.light, low, high, light * 255, -1)
        cv2.rectangle(self.slot, low, high, slot, -1)
        return self

    def line(self, x0: float, y0: float, x1: float, y1: float, slot: int, light: float = 0.4, width: int = 1) -> "Canvas":
        ends = (int(x0 * SIZE), int(y0 * SIZE)), (int(x1 * SIZE), int(y1 * SIZE))
        cv2.line(self.light, *ends, light * 255, width)
        cv2.line(self.slot, *ends, slot, width)
        return self

    def disc(self, x: float, y: float, radius: float, slot: int, light: float = 0.9, width: int = -1) -> "Canvas":
        centre, pixels = (round(x * SIZE), round(y * SIZE)), max(1, round(radius * SIZE))
        cv2.circle(self.light, centre, pixels, light * 255, width)
        cv2.circle(self.slot, centre, pixels, slot, width)
        return self

    def ellipse(self, x: float, y: float, rx: float, ry: float, slot: int, light: float = 0.9, width: int = -1) -> "Canvas":
        box = (round(x * SIZE), round(y * SIZE)), (max(1, round(rx * SIZE)), max(1, round(ry * SIZE)))
        cv2.ellipse(self.light, *box, 0, 0, 360, light * 255, width)
        cv2.ellipse(self.slot, *box, 0, 0, 360, slot, width)
        return self

    def poly(self, points: list[tuple[float, float]], slot: int, light: float = 0.9) -> "Canvas":
        corners = [(np.array(points) * SIZE).astype(np.int32)]
        cv2.fillPoly(self.light, corners, light * 255)
        cv2.fillPoly(self.slot, corners, slot)
        return self

    def frame(self, slot: int = 0, light: float = 0.45, width: int = 2) -> "Canvas":
        cv2.rectangle(self.light, (0, 0), (SIZE - 1, SIZE - 1), light * 255, width)
        cv2.rectangle(self.slot, (0, 0), (SIZE - 1, SIZE - 1), slot, width)
        return self

    def grain(self, rng: np.random.Generator, amount: float, blur: tuple[float, float] = (0, 0)) -> "Canvas":
        noise = rng.standard_normal((SIZE, SIZE)).astype(np.float32)
        if max(blur) > 0:
            tall = cv2.GaussianBlur(np.tile(noise, (3, 3)), (0, 0), sigmaX=max(blur[0], 0.1), sigmaY=max(blur[1], 0.1))
            noise = tall[SIZE : 2 * SIZE, SIZE : 2 * SIZE]
            noise /= noise.std() + 1e-6
        self.light *= 1 + amount * noise
        return self


@dataclass(frozen=True)
class Pattern:
    draw: Callable[[np.random.Generator], Canvas]
    repeat_m: float  # metres of one repeat; 0 stretches the drawing over the whole face
    glow: bool = False  # lit by itself (screens, windows)


# ---- surfaces, repeated over a face -------------------------------------------------------------------------------


def _plain(rng: np.random.Generator) -> Canvas:
    return Canvas().grain(rng, 0.03)


def _noise(rng: np.random.Generator) -> Canvas:
    return Canvas(light=0.8).grain(rng, 0.07, (1.2, 1.2))


def _wood(rng: np.random.Generator) -> Canvas:
    return Canvas(light=0.78).grain(rng, 0.11, (10, 0.8))


def _planks(rng: np.random.Generator) -> Canvas:
    canvas = Canvas()
    for row in range(4):
        canvas.rect(0, row / 4, 1, (row + 1) / 4, 0, rng.uniform(0.55, 0.95))
        shift = rng.uniform()
        canvas.line(shift, row / 4, shift, (row + 1) / 4 - 0.02, 0, 0.3)
        canvas.line(0, row / 4, 1, row / 4, 0, 0.3)
    return canvas.grain(rng, 0.06, (6, 0.6))


def _bricks(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(slot=1, light=0.8)
    for row in range(4):
        for column in range(-1, 3):
            x = (column + 0.5 * (row % 2)) / 2
            canvas.rect(max(x, 0) + 0.02, row / 4 + 0.02, min(x + 0.48, 1), row / 4 + 0.23, 0, rng.uniform(0.6, 0.9))
    return canvas


def _tiles(count: int) -> Callable[[np.random.Generator], Canvas]:
    def draw(rng: np.random.Generator) -> Canvas:
        canvas = Canvas(slot=1, light=0.6)
        for i in range(count):
            for j in range(count):
                canvas.rect(i / count + 0.02, j / count + 0.02, (i + 1) / count, (j + 1) / count, 0, rng.uniform(0.75, 1))
        return canvas

    return draw


def _checker(rng: np.random.Generator) -> Canvas:
    return Canvas().rect(0, 0, 0.5, 0.5, 1).rect(0.5, 0.5, 1, 1, 1).grain(rng, 0.04)


def _stripes(across: bool) -> Callable[[np.random.Generator], Canvas]:
    def draw(rng: np.random.Generator) -> Canvas:
        canvas = Canvas()
        for i in range(2):
            band = (0, i / 2, 1, i / 2 + 0.25) if across else (i / 2, 0, i / 2 + 0.25, 1)
            canvas.rect(*band, 1, 0.85)
        return canvas.grain(rng, 0.03)

    return draw


def _dots(rng: np.random.Generator) -> Canvas:
    return Canvas().disc(0.25, 0.25, 0.11, 1).disc(0.75, 0.75, 0.11, 1)


def _diamonds(rng: np.random.Generator) -> Canvas:
    canvas = Canvas().poly([(0.5, 0.05), (0.95, 0.5), (0.5, 0.95), (0.05, 0.5)], 1, 0.85)
    return canvas.poly([(0.5, 0.3), (0.7, 0.5), (0.5, 0.7), (0.3, 0.5)], 2, 0.85)


def _weave(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.7)
    for i in range(8):
        for j in range(8):
            canvas.rect(i / 8, j / 8, (i + 1) / 8 - 0.02, (j + 1) / 8 - 0.02, (i + j) % 2, rng.uniform(0.6, 0.9))
    return canvas


def _panels(rng: np.random.Generator) -> Canvas:
    return Canvas().rect(0.08, 0.05, 0.92, 0.95, 0, 0.6).rect(0.13, 0.08, 0.9, 0.92, 0, 0.85)


# ---- fronts and tops of furniture, one drawing per face ------------------------------------------------------------


def _books(rows: int) -> Callable[[np.random.Generator], Canvas]:
    def draw(rng: np.random.Generator) -> Canvas:
        canvas = Canvas(slot=0, light=0.25)
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
        return canvas.rect(0, 0, 0.035, 1, 0, 0.8).rect(0.965, 0, 1, 1, 0, 0.8).rect(0, 0, 1, 0.03, 0, 0.8)

    return draw


def _drawers(rows: int, columns: int = 1) -> Callable[[np.random.Generator], Canvas]:
    def draw(rng: np.random.Generator) -> Canvas:
        canvas = Canvas(light=0.4)
        for row in range(rows):
            for column in range(columns):
                x0, x1, y0, y1 = column / columns, (column + 1) / columns, row / rows, (row + 1) / rows
                canvas.rect(x0 + 0.03, y0 + 0.03, x1 - 0.03, y1 - 0.03, 0, 0.88)
                middle, knob = (x0 + x1) / 2, y0 + 0.4 * (y1 - y0)
                canvas.rect(middle - 0.12 / columns, knob, middle + 0.12 / columns, knob + 0.05, 1, 0.95)
        return canvas

    return draw


def _doors(columns: int) -> Callable[[np.random.Generator], Canvas]:
    def draw(rng: np.random.Generator) -> Canvas:
        canvas = Canvas(light=0.35)
        for column in range(columns):
            x0, x1 = column / columns + 0.02, (column + 1) / columns - 0.02
            canvas.rect(x0, 0.02, x1, 0.98, 0, 0.9).rect(x0 + 0.06, 0.09, x1 - 0.06, 0.91, 0, 0.6)
            canvas.rect(x0 + 0.09, 0.12, x1 - 0.07, 0.9, 0, 0.85)
            handle = x1 - 0.06 if column % 2 == 0 else x0 + 0.02
            canvas.rect(handle, 0.42, handle + 0.04, 0.6, 1, 1)
        return canvas

    return draw


def _fridge(rng: np.random.Generator) -> Canvas:
    canvas = (
        Canvas(light=0.95).rect(0, 0.33, 1, 0.36, 0, 0.25).rect(0.82, 0.12, 0.89, 0.3, 1, 0.4).rect(0.82, 0.4, 0.89, 0.7, 1, 0.4)
    )
    for _ in range(5):
        x, y = rng.uniform(0.1, 0.6), rng.uniform(0.4, 0.8)
        canvas.rect(x, y, x + 0.13, y + 0.1, int(rng.integers(1, 4)), 0.95)
    return canvas.frame(0, 0.5, 1)


def _oven(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.8).rect(0, 0, 1, 0.17, 1, 0.35)
    for i in range(5):
        canvas.disc(0.12 + 0.19 * i, 0.085, 0.055, 2, 1)
    return canvas.rect(0.08, 0.24, 0.92, 0.29, 1, 1).rect(0.12, 0.36, 0.88, 0.8, 1, 0.15).rect(0.2, 0.42, 0.8, 0.74, 3, 0.4)


def _burners(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.75).frame(1, 0.5)
    for x in (0.28, 0.72):
        for y in (0.28, 0.72):
            canvas.disc(x, y, 0.19, 1, 0.12).disc(x, y, 0.14, 2, 0.7, 2).disc(x, y, 0.06, 2, 0.9)
    return canvas


def _sink(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.9).ellipse(0.5, 0.5, 0.38, 0.36, 1, 0.95).ellipse(0.5, 0.52, 0.33, 0.31, 1, 0.45)
    return canvas.disc(0.5, 0.55, 0.06, 2, 0.15)


def _basins(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.9)
    for x in (0.06, 0.52):
        canvas.rect(x, 0.12, x + 0.42, 0.88, 1, 1).rect(x + 0.04, 0.18, x + 0.38, 0.82, 1, 0.4).disc(x + 0.21, 0.5, 0.06, 2, 0.15)
    return canvas


def _screen(kind: int) -> Callable[[np.random.Generator], Canvas]:
    def draw(rng: np.random.Generator) -> Canvas:
        canvas = Canvas(slot=1, light=0.2)
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
        return canvas

    return draw


def _keyboard(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(slot=1, light=0.3)
    for i in range(10):
        for j in range(4):
            canvas.rect(0.03 + i * 0.096, 0.08 + j * 0.22, 0.1 + i * 0.096, 0.24 + j * 0.22, 0, 0.95)
    return canvas


def _pillow(rng: np.random.Generator) -> Canvas:
    return Canvas(light=0.65).rect(0.05, 0.08, 0.95, 0.92, 0, 0.85).rect(0.14, 0.2, 0.86, 0.8, 0, 1).frame(1, 0.6, 1)


def _quilt(rng: np.random.Generator) -> Canvas:
    canvas = Canvas()
    for i in range(4):
        for j in range(4):
            canvas.rect(i / 4, j / 4, (i + 1) / 4 - 0.02, (j + 1) / 4 - 0.02, (i * 3 + j * 2) % 3, rng.uniform(0.7, 1))
            canvas.disc(i / 4 + 0.12, j / 4 + 0.12, 0.04, 3, 0.9)
    return canvas


def _folds(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.9)
    for i in range(7):
        canvas.rect(i / 7, 0, i / 7 + 0.06, 1, 0, 0.5).rect(i / 7 + 0.06, 0, i / 7 + 0.09, 1, 0, 0.7)
    return canvas.rect(0, 0.9, 1, 0.95, 1, 0.8)


def _cushions(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.35)
    for i in range(3):
        canvas.rect(i / 3 + 0.015, 0.04, (i + 1) / 3 - 0.015, 0.96, 0, 0.8).rect(
            i / 3 + 0.05, 0.14, (i + 1) / 3 - 0.05, 0.82, 0, 0.95
        )
        canvas.disc(i / 3 + 1 / 6, 0.48, 0.025, 1, 0.4)
    return canvas


def _mirror(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(slot=0, light=0.55).rect(0.06, 0.06, 0.94, 0.94, 2, 0.9)
    canvas.poly([(0.1, 0.6), (0.55, 0.08), (0.75, 0.08), (0.1, 0.85)], 2, 1).poly(
        [(0.4, 0.92), (0.92, 0.3), (0.92, 0.42), (0.5, 0.92)], 2, 1
    )
    return canvas


def _window(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(slot=0, light=0.95)
    for x in (0.06, 0.53):
        for y in (0.06, 0.53):
            canvas.rect(x, y, x + 0.41, y + 0.41, 2, 1.0 if y < 0.5 else 0.8)
    canvas.poly([(0.06, 0.94), (0.2, 0.7), (0.47, 0.94)], 3, 0.6).disc(0.75, 0.8, 0.12, 3, 0.7).rect(
        0.47, 0.06, 0.53, 0.94, 0, 0.9
    )
    return canvas


def _door(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.8).frame(1, 0.5, 4)
    for x in (0.15, 0.54):
        for y0, y1 in ((0.1, 0.42), (0.54, 0.9)):
            canvas.rect(x, y0, x + 0.31, y1, 0, 0.5).rect(x + 0.04, y0 + 0.03, x + 0.29, y1 - 0.02, 0, 0.9)
    return canvas.disc(0.88, 0.5, 0.035, 2, 1)


def _picture(kind: int) -> Callable[[np.random.Generator], Canvas]:
    def draw(rng: np.random.Generator) -> Canvas:
        canvas = Canvas(slot=0, light=0.5).rect(0.08, 0.08, 0.92, 0.92, 2, 0.95)
        if kind == 0:
            canvas.rect(0.08, 0.55, 0.92, 0.92, 3, 0.7).disc(0.65, 0.35, 0.14, 1, 0.95)
        elif kind == 1:
            canvas.ellipse(0.5, 0.45, 0.18, 0.24, 1, 0.9).rect(0.28, 0.68, 0.72, 0.92, 3, 0.7)
        else:
            for _ in range(7):
                x, y, w = rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.6), rng.uniform(0.12, 0.3)
                canvas.rect(x, y, x + w, y + rng.uniform(0.12, 0.3), int(rng.integers(1, 4)), rng.uniform(0.5, 1))
        return canvas

    return draw


def _pegboard(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.9)
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
            canvas.disc(x, 0.16, 0.05, slot, 0.3, 2).rect(x - 0.015, 0.2, x + 0.025, 0.52, slot, 0.3).disc(
                x, 0.55, 0.045, slot, 0.3, 2
            )
        else:  # screwdriver
            canvas.rect(x - 0.03, 0.1, x + 0.03, 0.3, slot, 0.9).rect(x - 0.01, 0.3, x + 0.015, 0.52, 1, 0.25)
    for i in range(5):
        canvas.disc(0.12 + 0.19 * i, 0.8, 0.07 - 0.008 * i, 1 + i % 3, 0.3, 2)
    return canvas.frame(1, 0.5, 2)


def _grille(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.9)
    for i in range(8):
        canvas.rect(0.08, 0.08 + i * 0.11, 0.92, 0.13 + i * 0.11, 1, 0.25)
    return canvas


def _towels(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.85).rect(0, 0, 1, 0.08, 1, 0.4)
    for i in range(3):
        x = 0.04 + i / 3
        canvas.rect(x, 0.04, x + 0.25, rng.uniform(0.7, 0.96), 1 + i, 0.9).rect(x, 0.5, x + 0.25, 0.56, 0, 0.9).rect(
            x, 0.6, x + 0.25, 0.63, 0, 0.9
        )
    return canvas


def _washer(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.92).rect(0, 0, 1, 0.16, 0, 0.7).rect(0.06, 0.03, 0.36, 0.13, 1, 0.8).disc(0.8, 0.08, 0.055, 2, 0.9)
    return (
        canvas.disc(0.5, 0.57, 0.33, 1, 0.9).disc(0.5, 0.57, 0.26, 1, 0.15).ellipse(0.5, 0.66, 0.2, 0.12, 3, 0.7).frame(0, 0.5, 1)
    )


def _belt(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(slot=1, light=0.22)
    for i in range(6):
        canvas.line(0.14, 0.08 + i / 6, 0.86, 0.08 + i / 6, 1, 0.45)
        canvas.line(0.08 + i / 6, 0.14, 0.08 + i / 6, 0.86, 1, 0.3)
    return canvas.frame(2, 0.9, 3)


def _crockery(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.3)
    for row in range(3):
        canvas.rect(0, (row + 1) / 3 - 0.05, 1, (row + 1) / 3, 0, 0.85)
        for i in range(5):
            x, y = 0.12 + 0.19 * i, (row + 1) / 3 - 0.05
            if row == 1:
                canvas.disc(x, y - 0.1, 0.085, 1 + i % 3, 0.95).disc(x, y - 0.1, 0.05, 1 + i % 3, 0.6, 1)
            else:
                canvas.rect(x - 0.06, y - rng.uniform(0.09, 0.2), x + 0.06, y, 1 + int(rng.integers(3)), 0.9)
    return canvas


def _weights(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.5)
    for row in range(3):
        y = row / 3 + 0.15
        canvas.rect(0, row / 3 + 0.28, 1, row / 3 + 0.333, 0, 0.95)
        for i in range(5):
            x = 0.1 + 0.2 * i
            canvas.disc(x, y, 0.085 + 0.01 * row, 1, 0.15).disc(x, y, 0.05, 2, 0.8, 1).disc(x, y, 0.025, 2, 0.95)
    return canvas


def _disc_pattern(rng: np.random.Generator) -> Canvas:
    return Canvas(slot=1, light=0.3).disc(0.5, 0.5, 0.42, 0, 0.8).disc(0.5, 0.5, 0.3, 1, 0.35, 2).disc(0.5, 0.5, 0.1, 2, 0.9)


def _clock(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(slot=0, light=0.7).disc(0.5, 0.5, 0.46, 1, 0.4).disc(0.5, 0.5, 0.4, 2, 1)
    return canvas.line(0.5, 0.5, 0.5, 0.2, 1, 0.2, 2).line(0.5, 0.5, 0.7, 0.6, 1, 0.2, 2)


def _whiteboard(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(slot=0, light=0.45).rect(0.04, 0.06, 0.96, 0.92, 2, 1)
    for i in range(6):
        canvas.line(0.1, 0.16 + 0.11 * i, rng.uniform(0.25, 0.5), 0.16 + 0.11 * i, 1, 0.4, 2)
    canvas.rect(0.6, 0.2, 0.75, 0.35, 3, 0.6).rect(0.75, 0.55, 0.9, 0.7, 1, 0.6).line(0.67, 0.35, 0.82, 0.55, 3, 0.3)
    return canvas


def _leaves(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.2)
    for _ in range(40):
        x, y = rng.uniform(size=2)
        canvas.ellipse(x, y, rng.uniform(0.03, 0.08), rng.uniform(0.06, 0.15), int(rng.integers(2)), rng.uniform(0.4, 1))
    return canvas


def _fire(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(slot=0, light=0.1)
    for i in range(6):
        x, h = 0.15 + 0.14 * i, rng.uniform(0.35, 0.75)
        canvas.poly([(x - 0.1, 0.9), (x, 0.9 - h), (x + 0.1, 0.9)], 2 + i % 2, 0.95)
    return canvas.rect(0.1, 0.86, 0.9, 0.96, 1, 0.4)


def _label(rng: np.random.Generator) -> Canvas:
    return Canvas(light=0.9).rect(0, 0.3, 1, 0.7, 1, 0.9).disc(0.5, 0.5, 0.13, 2, 0.9).frame(0, 0.5, 1)


def _lumber(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(slot=1, light=0.15)
    for i in range(5):
        for j in range(5):
            x, y, w = i / 5 + rng.uniform(0, 0.04), j / 5 + rng.uniform(0, 0.05), rng.uniform(0.1, 0.16)
            canvas.rect(x, y, x + w, y + 0.13, 0, rng.uniform(0.6, 1)).disc(x + w / 2, y + 0.065, 0.03, 0, 0.5, 1)
    return canvas


def _files(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.3)
    for row in range(4):
        y = row / 4
        canvas.rect(0, y + 0.22, 1, y + 0.25, 0, 0.9)
        for i in range(7):
            canvas.rect(i / 7 + 0.01, y + 0.04, (i + 1) / 7 - 0.015, y + 0.22, 1 + int(rng.integers(2)), 0.9)
            canvas.disc(i / 7 + 0.065, y + 0.17, 0.02, 0, 0.2).rect(i / 7 + 0.03, y + 0.07, i / 7 + 0.1, y + 0.11, 3, 1)
    return canvas


def _bars(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(slot=1, light=0.2)
    for i in range(9):
        canvas.rect(0, 0.04 + i * 0.11, 1, 0.075 + i * 0.11, 0, 0.95)
    return canvas.rect(0, 0, 0.06, 1, 0, 0.8).rect(0.94, 0, 1, 1, 0, 0.8).rect(0.47, 0, 0.53, 1, 0, 0.8)


def _clothes(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.25).rect(0, 0.06, 1, 0.09, 1, 1)
    for i in range(9):
        x = 0.03 + i * 0.107
        canvas.poly(
            [(x, 0.16), (x + 0.05, 0.1), (x + 0.1, 0.16), (x + 0.1, rng.uniform(0.6, 0.9)), (x, 0.85)],
            1 + i % 3,
            rng.uniform(0.6, 1),
        )
    return canvas


def _curtain(rng: np.random.Generator) -> Canvas:
    canvas = Canvas(light=0.8).rect(0, 0, 1, 0.04, 1, 0.4)
    for i in range(5):
        canvas.rect(i / 5, 0.04, i / 5 + 0.08, 1, 0, 0.95).rect(i / 5 + 0.08, 0.04, i / 5 + 0.12, 1, 1, 0.7)
    return canvas


SURFACES: dict[str, Pattern] = {
    "plain": Pattern(_plain, 1.0),
    "noise": Pattern(_noise, 0.8),
    "wood": Pattern(_wood, 0.8),
    "planks": Pattern(_planks, 0.9),
    "bricks": Pattern(_bricks, 0.6),
    "tiles2": Pattern(_tiles(2), 0.7),
    "tiles4": Pattern(_tiles(4), 0.8),
    "checker": Pattern(_checker, 0.8),
    "stripes_v": Pattern(_stripes(False), 0.6),
    "stripes_h": Pattern(_stripes(True), 0.6),
    "dots": Pattern(_dots, 0.5),
    "diamonds": Pattern(_diamonds, 0.6),
    "weave": Pattern(_weave, 0.5),
    "panels": Pattern(_panels, 0.6),
}
FRONTS: dict[str, Pattern] = {
    "books3": Pattern(_books(3), 0),
    "books4": Pattern(_books(4), 0),
    "books5": Pattern(_books(5), 0),
    "books1": Pattern(_books(1), 0),
    "drawers1": Pattern(_drawers(1), 0),
    "drawers2": Pattern(_drawers(2), 0),
    "drawers3": Pattern(_drawers(3), 0),
    "drawers4": Pattern(_drawers(4), 0),
    "drawers6": Pattern(_drawers(5, 2), 0),
    "doors1": Pattern(_doors(1), 0),
    "doors2": Pattern(_doors(2), 0),
    "doors3": Pattern(_doors(3), 0),
    "fridge": Pattern(_fridge, 0),
    "oven": Pattern(_oven, 0),
    "burners": Pattern(_burners, 0),
    "sink": Pattern(_sink, 0),
    "basins": Pattern(_basins, 0),
    "screen_text": Pattern(_screen(0), 0, glow=True),
    "screen_chart": Pattern(_screen(1), 0, glow=True),
    "screen_film": Pattern(_screen(2), 0, glow=True),
    "keyboard": Pattern(_keyboard, 0),
    "pillow": Pattern(_pillow, 0),
    "quilt": Pattern(_quilt, 0),
    "folds": Pattern(_folds, 0),
    "cushions": Pattern(_cushions, 0),
    "mirror": Pattern(_mirror, 0),
    "window": Pattern(_window, 0, glow=True),
    "door": Pattern(_door, 0),
    "picture0": Pattern(_picture(0), 0),
    "picture1": Pattern(_picture(1), 0),
    "picture2": Pattern(_picture(2), 0),
    "pegboard": Pattern(_pegboard, 0),
    "grille": Pattern(_grille, 0),
    "towels": Pattern(_towels, 0),
    "washer": Pattern(_washer, 0),
    "belt": Pattern(_belt, 0),
    "crockery": Pattern(_crockery, 0),
    "weights": Pattern(_weights, 0),
    "disc": Pattern(_disc_pattern, 0),
    "clock": Pattern(_clock, 0),
    "whiteboard": Pattern(_whiteboard, 0),
    "leaves": Pattern(_leaves, 0),
    "fire": Pattern(_fire, 0, glow=True),
    "label": Pattern(_label, 0),
    "lumber": Pattern(_lumber, 0),
    "files": Pattern(_files, 0),
    "bars": Pattern(_bars, 0),
    "clothes": Pattern(_clothes, 0),
    "curtain": Pattern(_curtain, 0),
}
PATTERNS: dict[str, Pattern] = {**SURFACES, **FRONTS}
TEXTURE_ID: dict[str, int] = {name: i for i, name in enumerate(PATTERNS)}
REPEAT_M = np.array([pattern.repeat_m for pattern in PATTERNS.values()], np.float32)
GLOW = np.array([pattern.glow for pattern in PATTERNS.values()])


@functools.cache
def atlas() -> tuple[np.ndarray, np.ndarray]:
    """All patterns, the same in every run: luminance float32 [K,64,64] in 0..1 and colour slot uint8 [K,64,64]."""
    canvases = [pattern.draw(np.random.default_rng([7, i])) for i, pattern in enumerate(PATTERNS.values())]
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
