"""What makes a bedroom: its pieces along the walls and free in the room."""

from internlm.egoworld.furniture import Furnishing, Piece, Rng, wall_hanging
from internlm.egoworld.pieces.living_room import armchair


def bed(rng: Rng) -> Piece:
    w, d, h = rng.uniform(1.4, 1.8), rng.uniform(2.0, 2.15), rng.uniform(0.5, 0.6)
    piece = Piece(rng, (w, d, 1.2))
    piece.box((0, w), (0, 0.08), (0, rng.uniform(1.0, 1.3)), front="panels")
    piece.box((0, w), (0.08, d), (0, 0.3))
    piece.box((0.04, w - 0.04), (0.08, d - 0.05), (0.3, h), "plain", scheme=1)
    piece.box((0.0, w), (0.75, d - 0.02), (0.25, h + 0.04), "folds", top="quilt", scheme=2)
    half = w / 2
    piece.box((0.1, half - 0.05), (0.12, 0.55), (h, h + 0.15), "pillow", scheme=3)
    piece.box((half + 0.05, w - 0.1), (0.12, 0.55), (h, h + 0.15), "pillow", scheme=3)
    piece.surface((0.3, w - 0.3), (d - 0.4, d), h + 0.04)
    piece.scatter(("toy", "book"), 1)
    return piece


def single_bed(rng: Rng) -> Piece:
    w, d, h = rng.uniform(1.9, 2.1), rng.uniform(0.9, 1.1), 0.5
    piece = Piece(rng, (w, d, 0.95))
    piece.box((0, 0.06), (0, d), (0, 0.95), sides="bars")
    piece.box((w - 0.06, w), (0, d), (0, 0.7), sides="bars")
    piece.box((0.06, w - 0.06), (0, d), (0.18, h), front="stripes_v", top="stripes_h", scheme=1)
    piece.box((0.7, w - 0.06), (0, d + 0.02), (0.2, h + 0.04), "folds", top="quilt", scheme=2)
    piece.box((0.12, 0.55), (0.12, d - 0.12), (h, h + 0.14), "pillow", scheme=3)
    return piece


def nightstand(rng: Rng) -> Piece:
    w, h = rng.uniform(0.42, 0.55), rng.uniform(0.5, 0.65)
    piece = Piece(rng, (w, 0.42, h + 0.5))
    piece.box((0, w), (0, 0.42), (0, h), front="drawers2")
    piece.box((w / 2 - 0.03, w / 2 + 0.03), (0.1, 0.16), (h, h + 0.25), "plain", scheme=1)
    piece.box((w / 2 - 0.14, w / 2 + 0.14), (0.01, 0.27), (h + 0.22, h + 0.48), "stripes_v", scheme=2)
    piece.surface((0, w), (0.2, 0.42), h)
    piece.scatter(("clock", "book", "mug"), 1)
    return piece


def wardrobe(rng: Rng) -> Piece:
    w, h = rng.uniform(1.2, 1.8), rng.uniform(1.95, 2.3)
    piece = Piece(rng, (w, 0.6, h))
    piece.box((0, w * 0.65), (0, 0.6), (0, h), front="doors2")
    piece.box((w * 0.65, w), (0, 0.57), (0, h), front="clothes")
    return piece


def dresser(rng: Rng) -> Piece:
    w, h = rng.uniform(0.9, 1.4), rng.uniform(0.75, 0.95)
    piece = Piece(rng, (w, 0.48, 1.8))
    piece.box((0, w), (0, 0.48), (0, h), front="drawers6")
    piece.box((w * 0.15, w * 0.85), (0, 0.05), (h + 0.05, h + 0.85), front="mirror", scheme=1)
    piece.surface((0, w), (0.1, 0.48), h)
    piece.scatter(("clock", "vase", "toy", "soap"), 3)
    return piece


def bench(rng: Rng) -> Piece:
    w = rng.uniform(0.9, 1.3)
    piece = Piece(rng, (w, 0.45, 0.5))
    piece.legs((0, w), (0, 0.45), 0.35)
    piece.box((0, w), (0, 0.45), (0.35, 0.5), "folds", top="diamonds", scheme=1)
    return piece


FURNISHING = Furnishing(
    (bed, wardrobe, nightstand),
    (dresser, wardrobe, nightstand, single_bed, bench),
    (bench, armchair, single_bed),
    (wall_hanging("curtain", (1.2, 1.8), (0.3, 0.5), (1.7, 1.9)), wall_hanging("mirror", (0.4, 0.6), (0.3, 0.5), (1.4, 1.5))),
    ("weave", "wood"),
    ("stripes_v", "weave"),
)
