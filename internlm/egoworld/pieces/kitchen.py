"""What makes a kitchen: its pieces along the walls and free in the room."""

import numpy as np

from internlm.egoworld.furniture import Furnishing, Piece, measured, wall_hanging


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


@measured(w=(0.62, 0.85), d=0.64, h=0.9)
def stove(piece: Piece, w: float, d: float, h: float) -> None:
    piece.box((0, w), (0, d), (0, h), "plain", front="oven", top="burners")
    piece.box((w * 0.1, w * 0.42), (0.36, 0.36 + w * 0.32), (h + 0.01, h + 0.18), "plain", top="disc", scheme=1, thing="pot")
    piece.box((0, w), (0, 0.45), (1.55, 1.75), "plain", front="grille", scheme=2)
    piece.box((w * 0.3, w * 0.7), (0, 0.3), (1.75, 2.2), "plain", scheme=2)


@measured(w=(0.65, 0.9), d=0.68, h=(1.7, 2.0))
def fridge(piece: Piece, w: float, d: float, h: float) -> None:
    piece.box((0, w), (0, d), (0, h), "plain", front="fridge")


@measured("mug", "bottle", count=2, w=(0.9, 1.3), h=(1.8, 2.1))
def crockery_shelf(piece: Piece, w: float, h: float) -> None:
    piece.box((0, w), (0, 0.42), (0, 0.85), front="doors2")
    piece.box((0, w), (0, 0.25), (0.85, h), front="crockery")
    piece.surface((0, w), (0.26, 0.42), 0.85)


@measured("mug", "bottle", "pot", "plate", count=4, w=(1.2, 1.8), d=(0.7, 0.9), h=0.92)
def kitchen_island(piece: Piece, w: float, d: float, h: float) -> None:
    piece.box((0.05, w - 0.05), (0.05, d - 0.05), (0, h - 0.05), front="drawers6", back="doors3", sides="towels")
    piece.box((0, w), (0, d), (h - 0.05, h), scheme=1, top="tiles4")
    piece.box((w * 0.55, w * 0.95), (0.1, d - 0.1), (h, h + 0.012), "plain", top="burners", scheme=2)
    piece.surface((0, w * 0.5), (0, d), h)


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


FURNISHING = Furnishing(
    (stove, counter, fridge),
    (counter, counter, crockery_shelf, stove),
    (kitchen_island, dining_table),
    (wall_hanging("crockery", (0.8, 1.3), (1.3, 1.4), (0.7, 0.9)), wall_hanging("clock", (0.4, 0.5), (1.6, 1.8), (0.4, 0.5))),
    ("panels", "tiles2"),
    ("tiles2", "checker"),
)
