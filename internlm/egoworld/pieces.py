"""Furniture that takes chance or counting to build; the other pieces are lists of boxes in ``furniture.json``."""

import numpy as np

from internlm.egoworld.furniture import Piece, measured


@measured("vase", "clock", "book", "toy", count=2, w=(0.8, 1.1), d=(0.4, 0.5), h=(0.85, 1.1))
def cupboard(piece: Piece, w: float, d: float, h: float) -> None:
    piece.box((0, w), (0, d), (0, h), front=str(piece.rng.choice(["doors2", "drawers3"])))
    piece.surface((0, w), (0, d), h)


@measured("mug", "bottle", "pot", "plate", count=4, w=(1.4, 2.4), d=0.62, h=(0.86, 0.94))
def counter(piece: Piece, w: float, d: float, h: float) -> None:
    piece.box((0, w), (0, d - 0.03), (0, h - 0.05), front=str(piece.rng.choice(["drawers6", "doors3", "doors2"])))
    piece.box((0, w), (0, d), (h - 0.05, h), scheme=1)
    if piece.rng.uniform() < 0.6:
        x = piece.rng.uniform(0.1, w - 0.9)
        piece.box((x, x + 0.8), (0.08, d - 0.06), (h, h + 0.012), "plain", top="basins", scheme=2)
        piece.box((x + 0.37, x + 0.43), (0.06, 0.12), (h, h + 0.3), "plain", scheme=3)
        piece.box((x + 0.37, x + 0.43), (0.06, 0.28), (h + 0.26, h + 0.3), "plain", scheme=3)
    piece.surface((0, w), (0.1, d), h)
    piece.box((0, w), (0, 0.34), (1.45, 2.15), front="doors3", scheme=int(piece.rng.integers(2)))


def seated_table(piece: Piece, w: float, d: float) -> None:
    """A table with chairs on both sides."""
    h, gap = 0.75, 0.42
    piece.legs((0.08, w - 0.08), (gap + 0.08, gap + d - 0.08), h - 0.05, 0.06)
    piece.box((0, w), (gap, gap + d), (h - 0.05, h))
    piece.surface((0, w), (gap, gap + d), h)
    for x in np.arange(0.15, w - 0.5, 0.62):
        for y, back in ((0.05, 0.05), (d + 2 * gap - 0.45, d + 2 * gap - 0.1)):
            piece.box((x, x + 0.42), (y, y + 0.4), (0.4, 0.45), scheme=2, top="weave")
            piece.box((x, x + 0.42), (back, back + 0.05), (0.55, 0.98), front="bars", back="bars", scheme=2)
            piece.box((x + 0.17, x + 0.25), (y + 0.15, y + 0.23), (0, 0.4), "plain", scheme=2)


dining_table = measured("plate", "mug", "bottle", "plate", count=5, w=(1.2, 1.9), d=(0.75, 0.95))(seated_table)
reading_table = measured("book", "book", "lamp_small", count=5, w=(1.5, 2.1), d=(0.8, 1.0))(seated_table)


@measured("toy", "book", count=1, w=(1.4, 1.8), d=(2.0, 2.15), h=(0.5, 0.6))
def bed(piece: Piece, w: float, d: float, h: float) -> None:
    piece.box((0, w), (0, 0.08), (0, piece.rng.uniform(1.0, 1.3)), front="panels")
    piece.box((0, w), (0.08, d), (0, 0.3))
    piece.box((0.04, w - 0.04), (0.08, d - 0.05), (0.3, h), "plain", scheme=1)
    piece.box((0.0, w), (0.75, d - 0.02), (0.25, h + 0.04), "folds", top="quilt", scheme=2)
    half = w / 2
    piece.box((0.1, half - 0.05), (0.12, 0.55), (h, h + 0.15), "pillow", scheme=3)
    piece.box((half + 0.05, w - 0.1), (0.12, 0.55), (h, h + 0.15), "pillow", scheme=3)
    piece.surface((0.3, w - 0.3), (d - 0.4, d), h + 0.04)


@measured("soap", "towel_roll", count=2, w=(1.5, 1.8), d=(0.75, 0.9), h=(0.55, 0.65))
def tub(piece: Piece, w: float, d: float, h: float) -> None:
    skin = str(piece.rng.choice(["tiles2", "tiles4", "tiles4"]))
    piece.box((0, w), (0, 0.09), (0, h), skin, top="plain")
    piece.box((0, w), (d - 0.09, d), (0, h), skin, top="plain")
    piece.box((0, 0.12), (0.09, d - 0.09), (0, h), skin, top="plain")
    piece.box((w - 0.12, w), (0.09, d - 0.09), (0, h), skin, top="plain")
    piece.box((0.12, w - 0.12), (0.09, d - 0.09), (0, h - 0.18), "noise", scheme=1)
    piece.box((w / 2 - 0.15, w / 2 + 0.15), (0, 0.12), (h + 0.08, h + 0.16), "plain", scheme=2)
    piece.surface((0.1, w - 0.1), (d - 0.2, d), h)
    piece.box((0, w), (0.0, 0.02), (h + 0.3, h + 0.95), "tiles4", scheme=3)


def _monitor(piece: Piece, x: float, y: float, z: float, scheme: int) -> None:
    skin = str(piece.rng.choice(["screen_text", "screen_chart"]))
    piece.box((x + 0.22, x + 0.32), (y, y + 0.06), (z, z + 0.14), "plain", scheme=scheme)
    piece.box((x, x + 0.54), (y + 0.02, y + 0.07), (z + 0.1, z + 0.46), "plain", front=skin, scheme=scheme)
    piece.box((x + 0.05, x + 0.5), (y + 0.28, y + 0.45), (z, z + 0.03), "plain", top="keyboard", scheme=scheme)


@measured("mug", "box_file", "book", count=2, w=(1.3, 1.9), d=(0.68, 0.8), h=(0.72, 0.76))
def desk(piece: Piece, w: float, d: float, h: float) -> None:
    piece.box((0, w), (0, d), (h - 0.04, h))
    piece.box((0, 0.42), (0.05, d - 0.05), (0, h - 0.04), front="drawers3")
    piece.box((w - 0.05, w), (0.05, d - 0.05), (0, h - 0.04), scheme=1)
    for x in np.arange(0.15, w - 0.6, 0.68):
        _monitor(piece, x, 0.1, h, 2)
    x = piece.rng.uniform(0.5, w - 0.55)
    piece.box((x, x + 0.48), (d - 0.1, d + 0.36), (0.42, 0.5), "weave", scheme=3)
    piece.box((x + 0.03, x + 0.45), (d + 0.34, d + 0.42), (0.55, 1.1), "weave", scheme=3)
    piece.box((x + 0.2, x + 0.28), (d + 0.1, d + 0.18), (0.08, 0.42), "plain", scheme=3)
    piece.box((x, x + 0.48), (d + 0.1, d + 0.18), (0, 0.08), "plain", scheme=3)
    piece.surface((0, w), (d - 0.2, d), h)


@measured("mug", "box_file", "book", count=3, w=(1.3, 1.7), d=0.7, h=0.74)
def desk_pair(piece: Piece, w: float, d: float, h: float) -> None:
    piece.box((0, w), (0, 2 * d), (h - 0.04, h))
    piece.legs((0.02, w - 0.02), (0.02, 2 * d - 0.02), h - 0.04, 0.06)
    piece.box((0, w), (d - 0.03, d + 0.03), (h, 1.25), "weave", scheme=1)
    _monitor(piece, piece.rng.uniform(0.1, w - 0.7), d + 0.08, h, 2)
    x = piece.rng.uniform(0.1, w - 0.7)
    piece.box((x, x + 0.54), (d - 0.16, d - 0.1), (h + 0.1, h + 0.46), "plain", back="screen_text", scheme=2)
    piece.box((x, x + 0.45), (0.2, 0.38), (h, h + 0.03), "plain", top="keyboard", scheme=2)
    piece.surface((0, w), (2 * d - 0.25, 2 * d), h)


@measured("box_file", "box_file", "book", count=2, w=(0.9, 1.5), h=(1.2, 1.4))
def filing(piece: Piece, w: float, h: float) -> None:
    for i in range(int(w / 0.45)):
        piece.box((i * 0.45, i * 0.45 + 0.44), (0, 0.5), (0, h), "plain", front="drawers4")
    piece.surface((0, 0.45 * int(w / 0.45)), (0.1, 0.5), h)


@measured(w=(0.9, 1.9), h=(1.9, 2.4))
def bookshelf(piece: Piece, w: float, h: float) -> None:
    bays = max(1, round(w / 0.8))
    for i in range(bays):
        books = str(piece.rng.choice(["books4", "books5"]))
        piece.box((i * w / bays, (i + 1) * w / bays), (0, 0.32), (0.1, h), front=books, scheme=i % 3)
    piece.box((0, w), (0, 0.36), (0, 0.1), scheme=3)
    piece.box((0, w), (0, 0.36), (h - 0.05, h), scheme=3)


@measured("remote", "vase", "toy", count=2, w=(1.4, 1.9), h=(0.42, 0.55))
def television(piece: Piece, w: float, h: float) -> None:
    piece.box((0, w), (0, 0.45), (0, h), front="drawers6")
    span = piece.rng.uniform(0.6, 0.8) * w
    x = (w - span) / 2
    piece.box((x, x + span), (0.15, 0.21), (h + 0.08, h + 0.08 + span * 0.58), "plain", front="screen_film", scheme=1)
    piece.box((w / 2 - 0.15, w / 2 + 0.15), (0.1, 0.28), (h, h + 0.08), "plain", scheme=1)
    for side in (0.02, w - 0.14):
        piece.box((side, side + 0.12), (0.1, 0.25), (h, h + 0.4), "plain", front="weights", scheme=2)
    piece.surface((0, w), (0.25, 0.45), h)


@measured("toolbox", "drill", "tin", "tin", count=4, w=(1.6, 2.3), d=(0.65, 0.75), h=(0.86, 0.95))
def workbench(piece: Piece, w: float, d: float, h: float) -> None:
    piece.legs((0.02, w - 0.02), (0.02, d - 0.02), h - 0.1, 0.1)
    piece.box((0, w), (0, d), (h - 0.1, h), "planks")
    piece.box((0.12, w * 0.5), (0.08, d - 0.08), (0.15, 0.5), "plain", front="drawers2", scheme=1)
    piece.box((w * 0.55, w - 0.12), (0.08, d - 0.1), (0.1, 0.42), "lumber", scheme=2)
    piece.box((0, w), (0, 0.03), (h + 0.15, 2.05), "plain", front="pegboard", scheme=3)
    x = piece.rng.uniform(0.1, w - 0.4)
    piece.box((x, x + 0.22), (d - 0.25, d + 0.0), (h, h + 0.09), "plain", scheme=1)
    piece.box((x - 0.03, x + 0.25), (d - 0.12, d - 0.04), (h + 0.09, h + 0.2), "plain", scheme=1)
    piece.surface((0, w), (0.15, d), h)


@measured(w=(1.2, 1.9), h=(1.6, 2.1))
def lumber_rack(piece: Piece, w: float, h: float) -> None:
    for x in (0.1, w - 0.2):
        piece.box((x, x + 0.08), (0, 0.55), (0, h), "plain", scheme=1)
    for z in (0.15, 0.65, 1.15):
        piece.box((0, w), (0.02, 0.5), (z, z + piece.rng.uniform(0.15, 0.3)), "planks", sides="lumber")
    piece.box((0, w), (0, 0.03), (0, h), "lumber", scheme=2)


@measured(w=(0.85, 1.1), h=(2.1, 2.4))
def wall_bars(piece: Piece, w: float, h: float) -> None:
    piece.box((0, w), (0, 0.04), (0, h), "plain", front="bars")
    for z in np.arange(0.2, h, 0.33):
        piece.box((0.03, w - 0.03), (0.1, 0.15), (z, z + 0.045), "plain", scheme=1)
    for x in (0.0, w - 0.06):
        piece.box((x, x + 0.06), (0.04, 0.16), (0, h), "plain", scheme=1)
