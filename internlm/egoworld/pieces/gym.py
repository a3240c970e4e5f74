"""What makes a gym: its pieces along the walls and free in the room."""

import numpy as np

from internlm.egoworld.furniture import Furnishing, Piece, measured, wall_hanging


@measured(w=(0.7, 0.82), d=(1.6, 1.9))
def treadmill(piece: Piece, w: float, d: float) -> None:
    piece.box((0, w), (0.1, d), (0, 0.16), "plain", top="belt")
    for x in (0.02, w - 0.09):
        piece.box((x, x + 0.07), (0.15, 0.25), (0.16, 1.25), "plain", scheme=1)
        piece.box((x, x + 0.07), (0.15, 0.8), (0.92, 0.98), "plain", scheme=1)
    piece.box((0.0, w), (0.1, 0.2), (1.1, 1.42), "plain", front="screen_chart", scheme=2)


@measured("dumbbell", count=4, w=(1.3, 2.0), h=(0.95, 1.15))
def dumbbell_rack(piece: Piece, w: float, h: float) -> None:
    for x in (0.0, w - 0.07):
        piece.box((x, x + 0.07), (0, 0.5), (0, h), "plain", scheme=1)
    piece.box((0.07, w - 0.07), (0.05, 0.3), (0.1, h - 0.05), "plain", front="weights")
    piece.box((0.07, w - 0.07), (0.3, 0.5), (h * 0.62, h * 0.66), "plain", scheme=1)
    piece.box((0.07, w - 0.07), (0.3, 0.55), (0.25, 0.3), "plain", scheme=1)
    piece.surface((0.1, w - 0.1), (0.3, 0.5), h * 0.66)


@measured()
def bench_press(piece: Piece) -> None:
    piece.box((0.8, 1.1), (0.1, 1.35), (0.38, 0.48), "plain", top="stripes_h")
    piece.legs((0.85, 1.05), (0.15, 1.3), 0.38, 0.06)
    for x in (0.55, 1.29):
        piece.box((x, x + 0.06), (0.2, 0.28), (0, 1.2), "plain", scheme=1)
    piece.box((0.0, 1.9), (0.215, 0.255), (1.02, 1.06), "plain", scheme=2)
    for x in (0.1, 0.2, 1.63, 1.73):
        piece.box((x, x + 0.06), (0.03, 0.44), (0.83, 1.25), "plain", sides="disc", scheme=3)


@measured(w=(0.85, 1.1), h=(2.1, 2.4))
def wall_bars(piece: Piece, w: float, h: float) -> None:
    piece.box((0, w), (0, 0.04), (0, h), "plain", front="bars")
    for z in np.arange(0.2, h, 0.33):
        piece.box((0.03, w - 0.03), (0.1, 0.15), (z, z + 0.045), "plain", scheme=1)
    for x in (0.0, w - 0.06):
        piece.box((x, x + 0.06), (0.04, 0.16), (0, h), "plain", scheme=1)


@measured()
def plates_tree(piece: Piece) -> None:
    piece.box((0.3, 0.4), (0.2, 0.3), (0, 1.2), "plain")
    for i, z in enumerate((0.1, 0.45, 0.8)):
        r = 0.2 - 0.03 * i
        for x in (0.08, 0.5):
            piece.box((x, x + 0.12), (0.25 - r, 0.25 + r), (z, z + 2 * r), "plain", sides="disc", front="plain", scheme=1 + i)
        piece.box((0.28 - r, 0.42 + r), (0.32, 0.38), (z, z + 2 * r), "disc", scheme=1 + i)


@measured()
def punching_bag(piece: Piece) -> None:
    piece.box((0.1, 0.5), (0.1, 0.5), (0.6, 1.75), "stripes_h")
    piece.box((0.28, 0.32), (0.28, 0.32), (1.75, 2.3), "plain", scheme=1)


@measured(w=(1.6, 2.0), d=(0.8, 1.2))
def mat(piece: Piece, w: float, d: float) -> None:
    piece.box((0, w), (0, d), (0, 0.03), "tiles2", scheme=1)
    piece.box((0.2, 0.6), (0.2, 0.6), (0.03, 0.4), "dots", scheme=2)
    piece.put("dumbbell", w * 0.6, d * 0.7, 0.03)


@measured("flask", "dumbbell", count=2, w=(0.7, 0.9))
def step_box(piece: Piece, w: float) -> None:
    piece.box((0, w), (0, 0.6), (0, 0.35), "stripes_v", top="belt")
    piece.box((0.08, w - 0.08), (0.05, 0.5), (0.35, 0.65), "stripes_v", top="belt", scheme=1)
    piece.surface((0.08, w - 0.08), (0.1, 0.5), 0.65)


FURNISHING = Furnishing(
    (treadmill, dumbbell_rack, wall_bars),
    (dumbbell_rack, wall_bars, treadmill, plates_tree, step_box),
    (bench_press, mat, punching_bag, bench_press),
    (wall_hanging("mirror", (1.2, 2.0), (0.5, 0.7), (1.3, 1.5)), wall_hanging("disc", (0.4, 0.6), (1.3, 1.5), (0.4, 0.6))),
    ("stripes_h", "stripes_v"),
    ("stripes_h", "dots"),
)
