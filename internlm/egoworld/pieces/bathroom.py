"""What makes a bathroom: its pieces along the walls and free in the room."""

from internlm.egoworld.furniture import Furnishing, Piece, measured, wall_hanging
from internlm.egoworld.pieces.bedroom import bench


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


@measured(w=(0.38, 0.44))
def toilet(piece: Piece, w: float) -> None:
    piece.box((0, w), (0, 0.2), (0.36, 0.82), "plain", top="plain")
    piece.box((w / 2 - 0.06, w / 2 + 0.06), (0.06, 0.14), (0.82, 0.85), "plain", scheme=1)
    piece.box((0.08, w - 0.08), (0.1, 0.55), (0, 0.34), "plain")
    piece.box((0, w), (0.2, 0.7), (0.34, 0.42), "plain", top="sink")


@measured("soap", "soap", "mug", count=2, w=(0.8, 1.3), h=(0.82, 0.9))
def vanity(piece: Piece, w: float, h: float) -> None:
    piece.box((0, w), (0, 0.5), (0, h - 0.1), "tiles4", front="doors2")
    piece.box((0, w), (0, 0.52), (h - 0.1, h), "plain", top="sink", scheme=1)
    piece.box((w / 2 - 0.03, w / 2 + 0.03), (0.03, 0.2), (h + 0.1, h + 0.15), "plain", scheme=2)
    piece.box((w * 0.1, w * 0.9), (0, 0.05), (1.15, 1.95), front="mirror", scheme=3)
    piece.surface((0, w * 0.3), (0.2, 0.5), h)
    piece.surface((w * 0.7, w), (0.2, 0.5), h)


@measured(w=(0.85, 1.05), h=(2.0, 2.2))
def shower(piece: Piece, w: float, h: float) -> None:
    piece.box((0, w), (0, w), (0, 0.12), "tiles4")
    piece.box((0, w), (0, 0.03), (0.12, h), "tiles4", scheme=1)
    piece.box((0, 0.03), (0, w), (0.12, h), "tiles4", scheme=1)
    piece.box((w * 0.45, w * 0.55), (0.03, 0.08), (0.9, 1.9), "plain", scheme=2)
    piece.box((w * 0.35, w * 0.65), (0.1, 0.4), (1.88, 1.94), "grille", scheme=2)
    for x in (0.0, w - 0.04):
        piece.box((x, x + 0.04), (w - 0.04, w), (0.12, h), "plain", scheme=3)
    piece.box((0, w), (w - 0.04, w), (h - 0.06, h), "plain", scheme=3)
    piece.box((w - 0.5, w - 0.04), (w - 0.03, w - 0.01), (0.15, h - 0.1), "curtain", scheme=3)


@measured("soap", "towel_roll", count=2, w=(0.58, 0.66))
def washer(piece: Piece, w: float) -> None:
    piece.box((0, w), (0, 0.6), (0, 0.87), "plain", front="washer")
    piece.surface((0, w), (0.1, 0.6), 0.87)


@measured("towel_roll", count=2, w=(0.45, 0.6))
def laundry(piece: Piece, w: float) -> None:
    piece.box((0, w), (0, w * 0.8), (0, 0.6), "weave", top="folds")
    piece.surface((0, w), (0, w * 0.8), 0.6)


FURNISHING = Furnishing(
    (tub, toilet, vanity),
    (vanity, shower, washer, laundry, toilet, tub),
    (tub, laundry, bench),
    (wall_hanging("towels", (0.7, 1.2), (1.0, 1.2), (0.7, 0.8)), wall_hanging("mirror", (0.6, 0.9), (1.1, 1.3), (0.7, 0.9))),
    ("tiles4", "tiles4"),
    ("tiles4", "tiles4"),
)
