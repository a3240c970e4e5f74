"""What makes an office: its pieces along the walls and free in the room."""

import numpy as np

from internlm.egoworld.furniture import Furnishing, Piece, measured, wall_hanging


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


@measured(w=(0.9, 1.4), h=(1.7, 2.0))
def file_shelf(piece: Piece, w: float, h: float) -> None:
    piece.box((0, w), (0, 0.36), (0, h), front="files")


@measured(w=(0.6, 0.75))
def printer(piece: Piece, w: float) -> None:
    piece.box((0, w), (0, 0.55), (0, 0.6), front="drawers2")
    piece.box((0.04, w - 0.04), (0.03, 0.52), (0.6, 0.95), "plain", front="grille", top="panels", scheme=1)
    piece.box((0.04, w * 0.5), (0.42, 0.54), (0.95, 1.0), "keyboard", scheme=2)


FURNISHING = Furnishing(
    (desk, filing, desk),
    (desk, filing, file_shelf, printer),
    (desk_pair, desk_pair),
    (
        wall_hanging("whiteboard", (1.2, 1.9), (0.9, 1.1), (0.9, 1.1)),
        wall_hanging("clock", (0.35, 0.45), (1.7, 1.9), (0.35, 0.45)),
    ),
    ("noise", "plain"),
    ("plain", "noise"),
)
