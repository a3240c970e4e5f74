"""The pieces that make a place what it is: for each class, what stands along the walls and what stands free."""

from dataclasses import dataclass

import numpy as np

from internlm.data.egoworld.furniture import Builder, Piece, wall_hanging

Rng = np.random.Generator


@dataclass(frozen=True)
class Furnishing:
    """What a class of rooms holds. Musts are placed first; walls and islands fill what is left."""

    musts: tuple[Builder, ...]  # along walls, one each
    walls: tuple[Builder, ...]  # along walls, drawn again and again
    islands: tuple[Builder, ...]  # free standing
    hangings: tuple[Builder, ...]  # typical things on the wall
    finishes: tuple[str, ...]  # patterns of the furniture's plain parts
    shell: tuple[str, str]  # patterns of walls and floor


# ---- kitchen -------------------------------------------------------------------------------------------------------


def counter(rng: Rng) -> Piece:
    w, d, h = rng.uniform(1.4, 2.4), 0.62, rng.uniform(0.86, 0.94)
    piece = Piece(rng, (w, d, 2.2))
    piece.box((0, w), (0, d - 0.03), (0, h - 0.05), front=str(rng.choice(["drawers6", "doors3", "doors2"])))
    piece.box((0, w), (0, d), (h - 0.05, h), scheme=1)
    if rng.uniform() < 0.6:
        x = rng.uniform(0.1, w - 0.9)
        piece.box((x, x + 0.8), (0.08, d - 0.06), (h, h + 0.012), "plain", top="basins", scheme=2)
        piece.box((x + 0.37, x + 0.43), (0.06, 0.12), (h, h + 0.3), "plain", scheme=3)
        piece.box((x + 0.37, x + 0.43), (0.06, 0.28), (h + 0.26, h + 0.3), "plain", scheme=3)
    piece.surface((0, w), (0.1, d), h)
    piece.box((0, w), (0, 0.34), (1.45, 2.15), front="doors3", scheme=int(rng.integers(2)))
    piece.scatter(("mug", "bottle", "pot", "plate"), 4)
    return piece


def stove(rng: Rng) -> Piece:
    w, d, h = rng.uniform(0.62, 0.85), 0.64, 0.9
    piece = Piece(rng, (w, d, 2.2))
    piece.box((0, w), (0, d), (0, h), "plain", front="oven", top="burners")
    piece.box((w * 0.1, w * 0.42), (0.36, 0.36 + w * 0.32), (h + 0.01, h + 0.18), "plain", top="disc", scheme=1, thing="pot")
    piece.box((0, w), (0, 0.45), (1.55, 1.75), "plain", front="grille", scheme=2)
    piece.box((w * 0.3, w * 0.7), (0, 0.3), (1.75, 2.2), "plain", scheme=2)
    return piece


def fridge(rng: Rng) -> Piece:
    w, d, h = rng.uniform(0.65, 0.9), 0.68, rng.uniform(1.7, 2.0)
    piece = Piece(rng, (w, d, h))
    piece.box((0, w), (0, d), (0, h), "plain", front="fridge")
    return piece


def crockery_shelf(rng: Rng) -> Piece:
    w, h = rng.uniform(0.9, 1.3), rng.uniform(1.8, 2.1)
    piece = Piece(rng, (w, 0.42, h))
    piece.box((0, w), (0, 0.42), (0, 0.85), front="doors2")
    piece.box((0, w), (0, 0.25), (0.85, h), front="crockery")
    piece.surface((0, w), (0.26, 0.42), 0.85)
    piece.scatter(("mug", "bottle"), 2)
    return piece


def kitchen_island(rng: Rng) -> Piece:
    w, d, h = rng.uniform(1.2, 1.8), rng.uniform(0.7, 0.9), 0.92
    piece = Piece(rng, (w, d, h))
    piece.box((0.05, w - 0.05), (0.05, d - 0.05), (0, h - 0.05), front="drawers6", back="doors3", sides="towels")
    piece.box((0, w), (0, d), (h - 0.05, h), scheme=1, top="tiles4")
    piece.box((w * 0.55, w * 0.95), (0.1, d - 0.1), (h, h + 0.012), "plain", top="burners", scheme=2)
    piece.surface((0, w * 0.5), (0, d), h)
    piece.scatter(("mug", "bottle", "pot", "plate"), 4)
    return piece


def _seated_table(rng: Rng, things: tuple[str, ...], w: float, d: float, count: int = 4) -> Piece:
    h, gap = 0.75, 0.42
    piece = Piece(rng, (w, d + 2 * gap, 1.0))
    piece.legs((0.08, w - 0.08), (gap + 0.08, gap + d - 0.08), h - 0.05, 0.06)
    piece.box((0, w), (gap, gap + d), (h - 0.05, h))
    piece.surface((0, w), (gap, gap + d), h)
    for x in np.arange(0.15, w - 0.5, 0.62):
        for y, back in ((0.05, 0.05), (d + 2 * gap - 0.45, d + 2 * gap - 0.1)):
            piece.box((x, x + 0.42), (y, y + 0.4), (0.4, 0.45), scheme=2, top="weave")
            piece.box((x, x + 0.42), (back, back + 0.05), (0.55, 0.98), front="bars", back="bars", scheme=2)
            piece.box((x + 0.17, x + 0.25), (y + 0.15, y + 0.23), (0, 0.4), "plain", scheme=2)
    piece.scatter(things, count)
    return piece


def dining_table(rng: Rng) -> Piece:
    return _seated_table(rng, ("plate", "mug", "bottle", "plate"), rng.uniform(1.2, 1.9), rng.uniform(0.75, 0.95), 5)


# ---- bedroom -------------------------------------------------------------------------------------------------------


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


# ---- bathroom ------------------------------------------------------------------------------------------------------


def tub(rng: Rng) -> Piece:
    w, d, h = rng.uniform(1.5, 1.8), rng.uniform(0.75, 0.9), rng.uniform(0.55, 0.65)
    piece = Piece(rng, (w, d, 1.5))
    skin = str(rng.choice(["tiles2", "tiles4", "tiles4"]))
    piece.box((0, w), (0, 0.09), (0, h), skin, top="plain")
    piece.box((0, w), (d - 0.09, d), (0, h), skin, top="plain")
    piece.box((0, 0.12), (0.09, d - 0.09), (0, h), skin, top="plain")
    piece.box((w - 0.12, w), (0.09, d - 0.09), (0, h), skin, top="plain")
    piece.box((0.12, w - 0.12), (0.09, d - 0.09), (0, h - 0.18), "noise", scheme=1)
    piece.box((w / 2 - 0.15, w / 2 + 0.15), (0, 0.12), (h + 0.08, h + 0.16), "plain", scheme=2)
    piece.surface((0.1, w - 0.1), (d - 0.2, d), h)
    piece.box((0, w), (0.0, 0.02), (h + 0.3, h + 0.95), "tiles4", scheme=3)
    piece.scatter(("soap", "towel_roll"), 2)
    return piece


def toilet(rng: Rng) -> Piece:
    w = rng.uniform(0.38, 0.44)
    piece = Piece(rng, (w, 0.7, 0.85))
    piece.box((0, w), (0, 0.2), (0.36, 0.82), "plain", top="plain")
    piece.box((w / 2 - 0.06, w / 2 + 0.06), (0.06, 0.14), (0.82, 0.85), "plain", scheme=1)
    piece.box((0.08, w - 0.08), (0.1, 0.55), (0, 0.34), "plain")
    piece.box((0, w), (0.2, 0.7), (0.34, 0.42), "plain", top="sink")
    return piece


def vanity(rng: Rng) -> Piece:
    w, h = rng.uniform(0.8, 1.3), rng.uniform(0.82, 0.9)
    piece = Piece(rng, (w, 0.52, 2.0))
    piece.box((0, w), (0, 0.5), (0, h - 0.1), "tiles4", front="doors2")
    piece.box((0, w), (0, 0.52), (h - 0.1, h), "plain", top="sink", scheme=1)
    piece.box((w / 2 - 0.03, w / 2 + 0.03), (0.03, 0.2), (h + 0.1, h + 0.15), "plain", scheme=2)
    piece.box((w * 0.1, w * 0.9), (0, 0.05), (1.15, 1.95), front="mirror", scheme=3)
    piece.surface((0, w * 0.3), (0.2, 0.5), h)
    piece.surface((w * 0.7, w), (0.2, 0.5), h)
    piece.scatter(("soap", "soap", "mug"), 2)
    return piece


def shower(rng: Rng) -> Piece:
    w, h = rng.uniform(0.85, 1.05), rng.uniform(2.0, 2.2)
    piece = Piece(rng, (w, w, h))
    piece.box((0, w), (0, w), (0, 0.12), "tiles4")
    piece.box((0, w), (0, 0.03), (0.12, h), "tiles4", scheme=1)
    piece.box((0, 0.03), (0, w), (0.12, h), "tiles4", scheme=1)
    piece.box((w * 0.45, w * 0.55), (0.03, 0.08), (0.9, 1.9), "plain", scheme=2)
    piece.box((w * 0.35, w * 0.65), (0.1, 0.4), (1.88, 1.94), "grille", scheme=2)
    for x in (0.0, w - 0.04):
        piece.box((x, x + 0.04), (w - 0.04, w), (0.12, h), "plain", scheme=3)
    piece.box((0, w), (w - 0.04, w), (h - 0.06, h), "plain", scheme=3)
    piece.box((w - 0.5, w - 0.04), (w - 0.03, w - 0.01), (0.15, h - 0.1), "curtain", scheme=3)
    return piece


def washer(rng: Rng) -> Piece:
    w = rng.uniform(0.58, 0.66)
    piece = Piece(rng, (w, 0.6, 0.9))
    piece.box((0, w), (0, 0.6), (0, 0.87), "plain", front="washer")
    piece.surface((0, w), (0.1, 0.6), 0.87)
    piece.scatter(("soap", "towel_roll"), 2)
    return piece


def laundry(rng: Rng) -> Piece:
    w = rng.uniform(0.45, 0.6)
    piece = Piece(rng, (w, w * 0.8, 0.75))
    piece.box((0, w), (0, w * 0.8), (0, 0.6), "weave", top="folds")
    piece.surface((0, w), (0, w * 0.8), 0.6)
    piece.scatter(("towel_roll",), 2)
    return piece


# ---- office --------------------------------------------------------------------------------------------------------


def _monitor(piece: Piece, x: float, y: float, z: float, scheme: int) -> None:
    skin = str(piece.rng.choice(["screen_text", "screen_chart"]))
    piece.box((x + 0.22, x + 0.32), (y, y + 0.06), (z, z + 0.14), "plain", scheme=scheme)
    piece.box((x, x + 0.54), (y + 0.02, y + 0.07), (z + 0.1, z + 0.46), "plain", front=skin, scheme=scheme)
    piece.box((x + 0.05, x + 0.5), (y + 0.28, y + 0.45), (z, z + 0.03), "plain", top="keyboard", scheme=scheme)


def desk(rng: Rng) -> Piece:
    w, d, h = rng.uniform(1.3, 1.9), rng.uniform(0.68, 0.8), rng.uniform(0.72, 0.76)
    piece = Piece(rng, (w, d + 0.5, 1.3))
    piece.box((0, w), (0, d), (h - 0.04, h))
    piece.box((0, 0.42), (0.05, d - 0.05), (0, h - 0.04), front="drawers3")
    piece.box((w - 0.05, w), (0.05, d - 0.05), (0, h - 0.04), scheme=1)
    for x in np.arange(0.15, w - 0.6, 0.68):
        _monitor(piece, x, 0.1, h, 2)
    x = rng.uniform(0.5, w - 0.55)
    piece.box((x, x + 0.48), (d - 0.1, d + 0.36), (0.42, 0.5), "weave", scheme=3)
    piece.box((x + 0.03, x + 0.45), (d + 0.34, d + 0.42), (0.55, 1.1), "weave", scheme=3)
    piece.box((x + 0.2, x + 0.28), (d + 0.1, d + 0.18), (0.08, 0.42), "plain", scheme=3)
    piece.box((x, x + 0.48), (d + 0.1, d + 0.18), (0, 0.08), "plain", scheme=3)
    piece.surface((0, w), (d - 0.2, d), h)
    piece.scatter(("mug", "box_file", "book"), 2)
    return piece


def desk_pair(rng: Rng) -> Piece:
    w, d, h = rng.uniform(1.3, 1.7), 0.7, 0.74
    piece = Piece(rng, (w, 2 * d, 1.3))
    piece.box((0, w), (0, 2 * d), (h - 0.04, h))
    piece.legs((0.02, w - 0.02), (0.02, 2 * d - 0.02), h - 0.04, 0.06)
    piece.box((0, w), (d - 0.03, d + 0.03), (h, 1.25), "weave", scheme=1)
    _monitor(piece, rng.uniform(0.1, w - 0.7), d + 0.08, h, 2)
    x = rng.uniform(0.1, w - 0.7)
    piece.box((x, x + 0.54), (d - 0.16, d - 0.1), (h + 0.1, h + 0.46), "plain", back="screen_text", scheme=2)
    piece.box((x, x + 0.45), (0.2, 0.38), (h, h + 0.03), "plain", top="keyboard", scheme=2)
    piece.surface((0, w), (2 * d - 0.25, 2 * d), h)
    piece.scatter(("mug", "box_file", "book"), 3)
    return piece


def filing(rng: Rng) -> Piece:
    w, h = rng.uniform(0.9, 1.5), rng.uniform(1.2, 1.4)
    piece = Piece(rng, (w, 0.5, h + 0.35))
    for i in range(int(w / 0.45)):
        piece.box((i * 0.45, i * 0.45 + 0.44), (0, 0.5), (0, h), "plain", front="drawers4")
    piece.surface((0, 0.45 * int(w / 0.45)), (0.1, 0.5), h)
    piece.scatter(("box_file", "box_file", "book"), 2)
    return piece


def file_shelf(rng: Rng) -> Piece:
    w, h = rng.uniform(0.9, 1.4), rng.uniform(1.7, 2.0)
    piece = Piece(rng, (w, 0.36, h))
    piece.box((0, w), (0, 0.36), (0, h), front="files")
    return piece


def printer(rng: Rng) -> Piece:
    w = rng.uniform(0.6, 0.75)
    piece = Piece(rng, (w, 0.55, 1.15))
    piece.box((0, w), (0, 0.55), (0, 0.6), front="drawers2")
    piece.box((0.04, w - 0.04), (0.03, 0.52), (0.6, 0.95), "plain", front="grille", top="panels", scheme=1)
    piece.box((0.04, w * 0.5), (0.42, 0.54), (0.95, 1.0), "keyboard", scheme=2)
    return piece


# ---- library -------------------------------------------------------------------------------------------------------


def bookshelf(rng: Rng) -> Piece:
    w, h = rng.uniform(0.9, 1.9), rng.uniform(1.9, 2.4)
    piece = Piece(rng, (w, 0.4, h))
    bays = max(1, round(w / 0.8))
    for i in range(bays):
        piece.box(
            (i * w / bays, (i + 1) * w / bays), (0, 0.32), (0.1, h), front=str(rng.choice(["books4", "books5"])), scheme=i % 3
        )
    piece.box((0, w), (0, 0.36), (0, 0.1), scheme=3)
    piece.box((0, w), (0, 0.36), (h - 0.05, h), scheme=3)
    return piece


def low_bookshelf(rng: Rng) -> Piece:
    w, h = rng.uniform(1.0, 1.7), rng.uniform(0.8, 1.05)
    piece = Piece(rng, (w, 0.36, h + 0.3))
    piece.box((0, w / 2), (0, 0.34), (0, h - 0.04), front="books3")
    piece.box((w / 2, w), (0, 0.34), (0, h - 0.04), front="books3", scheme=1)
    piece.box((0, w), (0, 0.36), (h - 0.04, h), scheme=2)
    piece.surface((0, w), (0.05, 0.36), h)
    piece.scatter(("book", "book", "vase", "clock"), 3)
    return piece


def stack_aisle(rng: Rng) -> Piece:
    w, h = rng.uniform(1.4, 2.2), rng.uniform(1.3, 2.0)
    piece = Piece(rng, (w, 0.56, h))
    for i in range(2):
        piece.box((i * w / 2, (i + 1) * w / 2), (0.02, 0.54), (0.08, h - 0.04), front="books4", back="books4", scheme=i)
    piece.box((0, w), (0, 0.56), (0, 0.08), scheme=2)
    piece.box((0, w), (0, 0.56), (h - 0.04, h), scheme=2)
    return piece


def reading_table(rng: Rng) -> Piece:
    piece = _seated_table(rng, ("book", "book", "lamp_small"), rng.uniform(1.5, 2.1), rng.uniform(0.8, 1.0), 5)
    return piece


def ladder(rng: Rng) -> Piece:
    piece = Piece(rng, (0.5, 0.3, 2.0))
    for x in (0.0, 0.44):
        piece.box((x, x + 0.06), (0.12, 0.2), (0, 2.0), "plain")
    for z in np.arange(0.25, 1.95, 0.3):
        piece.box((0, 0.5), (0.1, 0.22), (z, z + 0.05), "plain")
    return piece


def book_cart(rng: Rng) -> Piece:
    piece = Piece(rng, (0.8, 0.42, 1.1))
    for z in (0.2, 0.65):
        piece.box((0, 0.8), (0, 0.42), (z, z + 0.03), scheme=1)
        piece.box((0.03, 0.77), (0.05, 0.37), (z + 0.03, z + 0.3), front="books1", back="books1", scheme=0)
    for x in (0.0, 0.76):
        piece.box((x, x + 0.04), (0, 0.42), (0, 1.0), "plain", scheme=1)
    return piece


# ---- living room ---------------------------------------------------------------------------------------------------


def sofa(rng: Rng) -> Piece:
    w, d, h = rng.uniform(1.8, 2.4), rng.uniform(0.85, 0.95), rng.uniform(0.8, 0.9)
    piece = Piece(rng, (w, d, h))
    piece.box((0, w), (0, 0.25), (0.05, h), "plain", front="cushions", back="weave")
    piece.box((0, 0.2), (0.25, d), (0.05, 0.62), "weave", scheme=1)
    piece.box((w - 0.2, w), (0.25, d), (0.05, 0.62), "weave", scheme=1)
    piece.box((0.2, w - 0.2), (0.25, d), (0.05, 0.45), "folds", top="cushions")
    for x in (0.25, w - 0.65):
        piece.box((x, x + 0.4), (0.27, 0.42), (0.46, 0.82), "diamonds", scheme=2)
    piece.surface((0.3, w - 0.3), (0.5, d), 0.45)
    piece.scatter(("toy", "remote", "book"), 1)
    return piece


def armchair(rng: Rng) -> Piece:
    w, d = rng.uniform(0.8, 0.95), 0.85
    piece = Piece(rng, (w, d, 0.95))
    piece.box((0, w), (0, 0.22), (0.05, 0.95), "weave")
    piece.box((0, 0.17), (0.22, d), (0.05, 0.6), "weave")
    piece.box((w - 0.17, w), (0.22, d), (0.05, 0.6), "weave")
    piece.box((0.17, w - 0.17), (0.22, d), (0.05, 0.45), "pillow", scheme=1)
    piece.box((0.22, w - 0.22), (0.22, 0.34), (0.45, 0.8), "dots", scheme=2)
    return piece


def television(rng: Rng) -> Piece:
    w, h = rng.uniform(1.4, 1.9), rng.uniform(0.42, 0.55)
    piece = Piece(rng, (w, 0.45, 1.6))
    piece.box((0, w), (0, 0.45), (0, h), front="drawers6")
    span = rng.uniform(0.6, 0.8) * w
    x = (w - span) / 2
    piece.box((x, x + span), (0.15, 0.21), (h + 0.08, h + 0.08 + span * 0.58), "plain", front="screen_film", scheme=1)
    piece.box((w / 2 - 0.15, w / 2 + 0.15), (0.1, 0.28), (h, h + 0.08), "plain", scheme=1)
    for side in (0.02, w - 0.14):
        piece.box((side, side + 0.12), (0.1, 0.25), (h, h + 0.4), "plain", front="weights", scheme=2)
    piece.surface((0, w), (0.25, 0.45), h)
    piece.scatter(("remote", "vase", "toy"), 2)
    return piece


def fireplace(rng: Rng) -> Piece:
    w = rng.uniform(1.2, 1.6)
    piece = Piece(rng, (w, 0.4, 2.4))
    piece.box((0, w), (0, 0.35), (0, 1.05), "bricks")
    piece.box((w * 0.22, w * 0.78), (0.35, 0.37), (0.05, 0.75), "plain", front="fire", scheme=1)
    piece.box((-0.0, w), (0, 0.4), (1.05, 1.13), scheme=2)
    piece.box((w * 0.2, w * 0.8), (0, 0.25), (1.13, 2.4), "bricks")
    piece.surface((0, w * 0.25), (0.1, 0.4), 1.13)
    piece.surface((w * 0.75, w), (0.1, 0.4), 1.13)
    piece.scatter(("vase", "clock"), 2)
    return piece


def coffee_table(rng: Rng) -> Piece:
    w, d, h = rng.uniform(0.9, 1.3), rng.uniform(0.55, 0.7), rng.uniform(0.4, 0.48)
    piece = Piece(rng, (w + 0.6, d + 0.6, h))
    piece.box((0, w + 0.6), (0, d + 0.6), (0, 0.012), "diamonds", scheme=1)
    piece.legs((0.3, w + 0.3), (0.3, d + 0.3), h - 0.06, 0.07)
    piece.box((0.3, w + 0.3), (0.3, d + 0.3), (h - 0.06, h))
    piece.surface((0.3, w + 0.3), (0.3, d + 0.3), h)
    piece.scatter(("remote", "book", "mug", "vase"), 3)
    return piece


def floor_lamp(rng: Rng) -> Piece:
    piece = Piece(rng, (0.45, 0.45, 1.75))
    piece.box((0.1, 0.35), (0.1, 0.35), (0, 0.04), "plain")
    piece.box((0.205, 0.245), (0.205, 0.245), (0, 1.4), "plain")
    piece.box((0.03, 0.42), (0.03, 0.42), (1.35, 1.72), "stripes_v", scheme=1)
    return piece


def sofa_island(rng: Rng) -> Piece:
    """A sofa facing its rug and coffee table, away from the walls."""
    base = sofa(rng)
    w, d, _ = base.size
    piece = Piece(rng, (w, d + 1.25, base.size[2]))
    piece.parts, piece.surfaces = base.parts, base.surfaces
    piece.box((0.05, w - 0.05), (d - 0.2, d + 1.25), (0, 0.012), "diamonds", scheme=1)
    low, high = w * 0.25, w * 0.75
    piece.legs((low, high), (d + 0.35, d + 0.95), 0.38, 0.06)
    piece.box((low, high), (d + 0.35, d + 0.95), (0.38, 0.44))
    piece.surface((low, high), (d + 0.35, d + 0.95), 0.44)
    piece.scatter(("remote", "book", "mug"), 2)
    return piece


# ---- workshop ------------------------------------------------------------------------------------------------------


def workbench(rng: Rng) -> Piece:
    w, d, h = rng.uniform(1.6, 2.3), rng.uniform(0.65, 0.75), rng.uniform(0.86, 0.95)
    piece = Piece(rng, (w, d, 2.05))
    piece.legs((0.02, w - 0.02), (0.02, d - 0.02), h - 0.1, 0.1)
    piece.box((0, w), (0, d), (h - 0.1, h), "planks")
    piece.box((0.12, w * 0.5), (0.08, d - 0.08), (0.15, 0.5), "plain", front="drawers2", scheme=1)
    piece.box((w * 0.55, w - 0.12), (0.08, d - 0.1), (0.1, 0.42), "lumber", scheme=2)
    piece.box((0, w), (0, 0.03), (h + 0.15, 2.05), "plain", front="pegboard", scheme=3)
    x = rng.uniform(0.1, w - 0.4)
    piece.box((x, x + 0.22), (d - 0.25, d + 0.0), (h, h + 0.09), "plain", scheme=1)
    piece.box((x - 0.03, x + 0.25), (d - 0.12, d - 0.04), (h + 0.09, h + 0.2), "plain", scheme=1)
    piece.surface((0, w), (0.15, d), h)
    piece.scatter(("toolbox", "drill", "tin", "tin"), 4)
    return piece


def drill_press(rng: Rng) -> Piece:
    piece = Piece(rng, (0.5, 0.6, 1.75))
    piece.box((0.05, 0.45), (0.05, 0.55), (0, 0.08), "plain")
    piece.box((0.2, 0.3), (0.1, 0.2), (0.08, 1.6), "plain", scheme=1)
    piece.box((0.08, 0.42), (0.12, 0.55), (0.85, 0.9), "grille", scheme=1)
    piece.box((0.12, 0.38), (0.05, 0.58), (1.3, 1.7), "plain", front="disc", sides="grille", scheme=2)
    piece.box((0.22, 0.28), (0.42, 0.48), (1.0, 1.3), "plain", scheme=1)
    return piece


def tool_chest(rng: Rng) -> Piece:
    w, h = rng.uniform(0.75, 1.1), rng.uniform(1.0, 1.35)
    piece = Piece(rng, (w, 0.5, h + 0.3))
    piece.box((0, w), (0, 0.5), (0.1, h * 0.6), "plain", front="drawers4")
    piece.box((0.06, w - 0.06), (0.02, 0.45), (h * 0.6, h), "plain", front="drawers3", scheme=1)
    piece.legs((0.05, w - 0.05), (0.05, 0.45), 0.1, 0.08)
    piece.surface((0.06, w - 0.06), (0.1, 0.45), h)
    piece.scatter(("drill", "tin", "toolbox"), 2)
    return piece


def lumber_rack(rng: Rng) -> Piece:
    w, h = rng.uniform(1.2, 1.9), rng.uniform(1.6, 2.1)
    piece = Piece(rng, (w, 0.55, h))
    for x in (0.1, w - 0.2):
        piece.box((x, x + 0.08), (0, 0.55), (0, h), "plain", scheme=1)
    for z in (0.15, 0.65, 1.15):
        piece.box((0, w), (0.02, 0.5), (z, z + rng.uniform(0.15, 0.3)), "planks", sides="lumber")
    piece.box((0, w), (0, 0.03), (0, h), "lumber", scheme=2)
    return piece


def table_saw(rng: Rng) -> Piece:
    w, d, h = rng.uniform(0.9, 1.3), rng.uniform(0.8, 1.0), 0.88
    piece = Piece(rng, (w, d, h + 0.15))
    piece.box((0.2, w - 0.2), (0.15, d - 0.15), (0, h - 0.06), "grille", scheme=1)
    piece.box((0, w), (0, d), (h - 0.06, h), "plain")
    piece.box((w * 0.48, w * 0.51), (d * 0.35, d * 0.65), (h, h + 0.14), "disc", scheme=2)
    piece.box((w * 0.7, w * 0.75), (0, d), (h, h + 0.07), "plain", scheme=3)
    piece.surface((0, w * 0.4), (0, d), h)
    piece.scatter(("drill", "tin", "toolbox"), 2)
    return piece


def sawhorse(rng: Rng) -> Piece:
    w = rng.uniform(1.2, 1.8)
    piece = Piece(rng, (w, 0.6, 0.85))
    for x in (0.15, w - 0.27):
        piece.legs((x, x + 0.12), (0.05, 0.55), 0.62, 0.05)
        piece.box((x, x + 0.12), (0.0, 0.6), (0.62, 0.72), "wood", scheme=1)
    piece.box((0, w), (0.1, 0.3), (0.72, 0.78), "planks", sides="lumber")
    piece.box((0, w * 0.9), (0.34, 0.5), (0.72, 0.8), "planks", sides="lumber", scheme=2)
    piece.surface((0.1, w - 0.1), (0.1, 0.3), 0.78)
    piece.scatter(("drill", "tin"), 2)
    return piece


# ---- gym -----------------------------------------------------------------------------------------------------------


def treadmill(rng: Rng) -> Piece:
    w, d = rng.uniform(0.7, 0.82), rng.uniform(1.6, 1.9)
    piece = Piece(rng, (w, d, 1.4))
    piece.box((0, w), (0.1, d), (0, 0.16), "plain", top="belt")
    for x in (0.02, w - 0.09):
        piece.box((x, x + 0.07), (0.15, 0.25), (0.16, 1.25), "plain", scheme=1)
        piece.box((x, x + 0.07), (0.15, 0.8), (0.92, 0.98), "plain", scheme=1)
    piece.box((0.0, w), (0.1, 0.2), (1.1, 1.42), "plain", front="screen_chart", scheme=2)
    return piece


def dumbbell_rack(rng: Rng) -> Piece:
    w, h = rng.uniform(1.3, 2.0), rng.uniform(0.95, 1.15)
    piece = Piece(rng, (w, 0.55, h))
    for x in (0.0, w - 0.07):
        piece.box((x, x + 0.07), (0, 0.5), (0, h), "plain", scheme=1)
    piece.box((0.07, w - 0.07), (0.05, 0.3), (0.1, h - 0.05), "plain", front="weights")
    piece.box((0.07, w - 0.07), (0.3, 0.5), (h * 0.62, h * 0.66), "plain", scheme=1)
    piece.box((0.07, w - 0.07), (0.3, 0.55), (0.25, 0.3), "plain", scheme=1)
    piece.surface((0.1, w - 0.1), (0.3, 0.5), h * 0.66)
    piece.scatter(("dumbbell",), 4)
    return piece


def bench_press(rng: Rng) -> Piece:
    piece = Piece(rng, (1.9, 1.4, 1.25))
    piece.box((0.8, 1.1), (0.1, 1.35), (0.38, 0.48), "plain", top="stripes_h")
    piece.legs((0.85, 1.05), (0.15, 1.3), 0.38, 0.06)
    for x in (0.55, 1.29):
        piece.box((x, x + 0.06), (0.2, 0.28), (0, 1.2), "plain", scheme=1)
    piece.box((0.0, 1.9), (0.215, 0.255), (1.02, 1.06), "plain", scheme=2)
    for x in (0.1, 0.2, 1.63, 1.73):
        piece.box((x, x + 0.06), (0.03, 0.44), (0.83, 1.25), "plain", sides="disc", scheme=3)
    return piece


def wall_bars(rng: Rng) -> Piece:
    w, h = rng.uniform(0.85, 1.1), rng.uniform(2.1, 2.4)
    piece = Piece(rng, (w, 0.2, h))
    piece.box((0, w), (0, 0.04), (0, h), "plain", front="bars")
    for z in np.arange(0.2, h, 0.33):
        piece.box((0.03, w - 0.03), (0.1, 0.15), (z, z + 0.045), "plain", scheme=1)
    for x in (0.0, w - 0.06):
        piece.box((x, x + 0.06), (0.04, 0.16), (0, h), "plain", scheme=1)
    return piece


def plates_tree(rng: Rng) -> Piece:
    piece = Piece(rng, (0.7, 0.5, 1.2))
    piece.box((0.3, 0.4), (0.2, 0.3), (0, 1.2), "plain")
    for i, z in enumerate((0.1, 0.45, 0.8)):
        r = 0.2 - 0.03 * i
        for x in (0.08, 0.5):
            piece.box((x, x + 0.12), (0.25 - r, 0.25 + r), (z, z + 2 * r), "plain", sides="disc", front="plain", scheme=1 + i)
        piece.box((0.28 - r, 0.42 + r), (0.32, 0.38), (z, z + 2 * r), "disc", scheme=1 + i)
    return piece


def punching_bag(rng: Rng) -> Piece:
    piece = Piece(rng, (0.6, 0.6, 2.2))
    piece.box((0.1, 0.5), (0.1, 0.5), (0.6, 1.75), "stripes_h")
    piece.box((0.28, 0.32), (0.28, 0.32), (1.75, 2.3), "plain", scheme=1)
    return piece


def mat(rng: Rng) -> Piece:
    piece = Piece(rng, (rng.uniform(1.6, 2.0), rng.uniform(0.8, 1.2), 0.4))
    w, d, _ = piece.size
    piece.box((0, w), (0, d), (0, 0.03), "tiles2", scheme=1)
    piece.box((0.2, 0.6), (0.2, 0.6), (0.03, 0.4), "dots", scheme=2)
    piece.put("dumbbell", w * 0.6, d * 0.7, 0.03)
    return piece


def step_box(rng: Rng) -> Piece:
    w = rng.uniform(0.7, 0.9)
    piece = Piece(rng, (w, 0.6, 0.9))
    piece.box((0, w), (0, 0.6), (0, 0.35), "stripes_v", top="belt")
    piece.box((0.08, w - 0.08), (0.05, 0.5), (0.35, 0.65), "stripes_v", top="belt", scheme=1)
    piece.surface((0.08, w - 0.08), (0.1, 0.5), 0.65)
    piece.scatter(("flask", "dumbbell"), 2)
    return piece


FURNISHINGS: dict[str, Furnishing] = {
    "kitchen": Furnishing(
        (stove, counter, fridge),
        (counter, counter, crockery_shelf, stove),
        (kitchen_island, dining_table),
        (wall_hanging("crockery", (0.8, 1.3), (1.3, 1.4), (0.7, 0.9)), wall_hanging("clock", (0.4, 0.5), (1.6, 1.8), (0.4, 0.5))),
        ("panels", "tiles2"),
        ("tiles2", "checker"),
    ),
    "bedroom": Furnishing(
        (bed, wardrobe, nightstand),
        (dresser, wardrobe, nightstand, single_bed, bench),
        (bench, armchair, single_bed),
        (wall_hanging("curtain", (1.2, 1.8), (0.3, 0.5), (1.7, 1.9)), wall_hanging("mirror", (0.4, 0.6), (0.3, 0.5), (1.4, 1.5))),
        ("weave", "wood"),
        ("stripes_v", "weave"),
    ),
    "bathroom": Furnishing(
        (tub, toilet, vanity),
        (vanity, shower, washer, laundry, toilet, tub),
        (tub, laundry, bench),
        (wall_hanging("towels", (0.7, 1.2), (1.0, 1.2), (0.7, 0.8)), wall_hanging("mirror", (0.6, 0.9), (1.1, 1.3), (0.7, 0.9))),
        ("tiles4", "tiles4"),
        ("tiles4", "tiles4"),
    ),
    "office": Furnishing(
        (desk, filing, desk),
        (desk, filing, file_shelf, printer),
        (desk_pair, desk_pair),
        (
            wall_hanging("whiteboard", (1.2, 1.9), (0.9, 1.1), (0.9, 1.1)),
            wall_hanging("clock", (0.35, 0.45), (1.7, 1.9), (0.35, 0.45)),
        ),
        ("noise", "plain"),
        ("plain", "noise"),
    ),
    "library": Furnishing(
        (bookshelf, bookshelf, bookshelf),
        (bookshelf, bookshelf, low_bookshelf, ladder, book_cart),
        (stack_aisle, reading_table, stack_aisle),
        (wall_hanging("picture1", (0.5, 0.7), (1.2, 1.4), (0.6, 0.9)),),
        ("wood", "wood"),
        ("wood", "planks"),
    ),
    "living_room": Furnishing(
        (sofa, television, fireplace),
        (sofa, armchair, floor_lamp, television, armchair),
        (sofa_island, coffee_table, armchair),
        (
            wall_hanging("picture0", (0.9, 1.5), (1.3, 1.5), (0.6, 0.9)),
            wall_hanging("curtain", (1.2, 1.8), (0.3, 0.5), (1.7, 1.9)),
        ),
        ("diamonds", "weave"),
        ("diamonds", "wood"),
    ),
    "workshop": Furnishing(
        (workbench, tool_chest, lumber_rack),
        (workbench, tool_chest, lumber_rack, drill_press),
        (table_saw, sawhorse, workbench),
        (
            wall_hanging("pegboard", (1.2, 1.9), (1.0, 1.2), (0.9, 1.1)),
            wall_hanging("grille", (0.6, 0.9), (1.5, 1.7), (0.4, 0.6)),
        ),
        ("planks", "planks"),
        ("bricks", "noise"),
    ),
    "gym": Furnishing(
        (treadmill, dumbbell_rack, wall_bars),
        (dumbbell_rack, wall_bars, treadmill, plates_tree, step_box),
        (bench_press, mat, punching_bag, bench_press),
        (wall_hanging("mirror", (1.2, 2.0), (0.5, 0.7), (1.3, 1.5)), wall_hanging("disc", (0.4, 0.6), (1.3, 1.5), (0.4, 0.6))),
        ("stripes_h", "stripes_v"),
        ("stripes_h", "dots"),
    ),
}
