"""What makes a living room: its pieces along the walls and free in the room."""

from internlm.egoworld.furniture import Furnishing, Piece, measured, wall_hanging


def _sofa(piece: Piece, w: float, d: float, h: float) -> None:
    piece.box((0, w), (0, 0.25), (0.05, h), "plain", front="cushions", back="weave")
    piece.box((0, 0.2), (0.25, d), (0.05, 0.62), "weave", scheme=1)
    piece.box((w - 0.2, w), (0.25, d), (0.05, 0.62), "weave", scheme=1)
    piece.box((0.2, w - 0.2), (0.25, d), (0.05, 0.45), "folds", top="cushions")
    for x in (0.25, w - 0.65):
        piece.box((x, x + 0.4), (0.27, 0.42), (0.46, 0.82), "diamonds", scheme=2)
    piece.surface((0.3, w - 0.3), (0.5, d), 0.45)
    piece.scatter(("toy", "remote", "book"), 1)


sofa = measured(w=(1.8, 2.4), d=(0.85, 0.95), h=(0.8, 0.9))(_sofa)


@measured(w=(0.8, 0.95), d=0.85)
def armchair(piece: Piece, w: float, d: float) -> None:
    piece.box((0, w), (0, 0.22), (0.05, 0.95), "weave")
    piece.box((0, 0.17), (0.22, d), (0.05, 0.6), "weave")
    piece.box((w - 0.17, w), (0.22, d), (0.05, 0.6), "weave")
    piece.box((0.17, w - 0.17), (0.22, d), (0.05, 0.45), "pillow", scheme=1)
    piece.box((0.22, w - 0.22), (0.22, 0.34), (0.45, 0.8), "dots", scheme=2)


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


@measured("vase", "clock", count=2, w=(1.2, 1.6))
def fireplace(piece: Piece, w: float) -> None:
    piece.box((0, w), (0, 0.35), (0, 1.05), "bricks")
    piece.box((w * 0.22, w * 0.78), (0.35, 0.37), (0.05, 0.75), "plain", front="fire", scheme=1)
    piece.box((-0.0, w), (0, 0.4), (1.05, 1.13), scheme=2)
    piece.box((w * 0.2, w * 0.8), (0, 0.25), (1.13, 2.4), "bricks")
    piece.surface((0, w * 0.25), (0.1, 0.4), 1.13)
    piece.surface((w * 0.75, w), (0.1, 0.4), 1.13)


@measured("remote", "book", "mug", "vase", count=3, w=(0.9, 1.3), d=(0.55, 0.7), h=(0.4, 0.48))
def coffee_table(piece: Piece, w: float, d: float, h: float) -> None:
    piece.box((0, w + 0.6), (0, d + 0.6), (0, 0.012), "diamonds", scheme=1)
    piece.legs((0.3, w + 0.3), (0.3, d + 0.3), h - 0.06, 0.07)
    piece.box((0.3, w + 0.3), (0.3, d + 0.3), (h - 0.06, h))
    piece.surface((0.3, w + 0.3), (0.3, d + 0.3), h)


@measured()
def floor_lamp(piece: Piece) -> None:
    piece.box((0.1, 0.35), (0.1, 0.35), (0, 0.04), "plain")
    piece.box((0.205, 0.245), (0.205, 0.245), (0, 1.4), "plain")
    piece.box((0.03, 0.42), (0.03, 0.42), (1.35, 1.72), "stripes_v", scheme=1)


@measured("remote", "book", "mug", count=2, w=(1.8, 2.4), d=(0.85, 0.95), h=(0.8, 0.9))
def sofa_island(piece: Piece, w: float, d: float, h: float) -> None:
    """A sofa facing its rug and coffee table, away from the walls."""
    _sofa(piece, w, d, h)
    piece.recolour()
    piece.box((0.05, w - 0.05), (d - 0.2, d + 1.25), (0, 0.012), "diamonds", scheme=1)
    low, high = w * 0.25, w * 0.75
    piece.legs((low, high), (d + 0.35, d + 0.95), 0.38, 0.06)
    piece.box((low, high), (d + 0.35, d + 0.95), (0.38, 0.44))
    piece.surface((low, high), (d + 0.35, d + 0.95), 0.44)


FURNISHING = Furnishing(
    (sofa, television, fireplace),
    (sofa, armchair, floor_lamp, television, armchair),
    (sofa_island, coffee_table, armchair),
    (
        wall_hanging("picture0", (0.9, 1.5), (1.3, 1.5), (0.6, 0.9)),
        wall_hanging("curtain", (1.2, 1.8), (0.3, 0.5), (1.7, 1.9)),
    ),
    ("diamonds", "weave"),
    ("diamonds", "wood"),
)
