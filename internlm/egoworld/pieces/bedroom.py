"""What makes a bedroom: its pieces along the walls and free in the room."""

from internlm.egoworld.furniture import Furnishing, Piece, measured, wall_hanging
from internlm.egoworld.pieces.living_room import armchair


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


@measured(w=(1.9, 2.1), d=(0.9, 1.1), h=0.5)
def single_bed(piece: Piece, w: float, d: float, h: float) -> None:
    piece.box((0, 0.06), (0, d), (0, 0.95), sides="bars")
    piece.box((w - 0.06, w), (0, d), (0, 0.7), sides="bars")
    piece.box((0.06, w - 0.06), (0, d), (0.18, h), front="stripes_v", top="stripes_h", scheme=1)
    piece.box((0.7, w - 0.06), (0, d + 0.02), (0.2, h + 0.04), "folds", top="quilt", scheme=2)
    piece.box((0.12, 0.55), (0.12, d - 0.12), (h, h + 0.14), "pillow", scheme=3)


@measured("clock", "book", "mug", count=1, w=(0.42, 0.55), h=(0.5, 0.65))
def nightstand(piece: Piece, w: float, h: float) -> None:
    piece.box((0, w), (0, 0.42), (0, h), front="drawers2")
    piece.box((w / 2 - 0.03, w / 2 + 0.03), (0.1, 0.16), (h, h + 0.25), "plain", scheme=1)
    piece.box((w / 2 - 0.14, w / 2 + 0.14), (0.01, 0.27), (h + 0.22, h + 0.48), "stripes_v", scheme=2)
    piece.surface((0, w), (0.2, 0.42), h)


@measured(w=(1.2, 1.8), h=(1.95, 2.3))
def wardrobe(piece: Piece, w: float, h: float) -> None:
    piece.box((0, w * 0.65), (0, 0.6), (0, h), front="doors2")
    piece.box((w * 0.65, w), (0, 0.57), (0, h), front="clothes")


@measured("clock", "vase", "toy", "soap", count=3, w=(0.9, 1.4), h=(0.75, 0.95))
def dresser(piece: Piece, w: float, h: float) -> None:
    piece.box((0, w), (0, 0.48), (0, h), front="drawers6")
    piece.box((w * 0.15, w * 0.85), (0, 0.05), (h + 0.05, h + 0.85), front="mirror", scheme=1)
    piece.surface((0, w), (0.1, 0.48), h)


@measured(w=(0.9, 1.3))
def bench(piece: Piece, w: float) -> None:
    piece.legs((0, w), (0, 0.45), 0.35)
    piece.box((0, w), (0, 0.45), (0.35, 0.5), "folds", top="diamonds", scheme=1)


FURNISHING = Furnishing(
    (bed, wardrobe, nightstand),
    (dresser, wardrobe, nightstand, single_bed, bench),
    (bench, armchair, single_bed),
    (wall_hanging("curtain", (1.2, 1.8), (0.3, 0.5), (1.7, 1.9)), wall_hanging("mirror", (0.4, 0.6), (0.3, 0.5), (1.4, 1.5))),
    ("weave", "wood"),
    ("stripes_v", "weave"),
)
