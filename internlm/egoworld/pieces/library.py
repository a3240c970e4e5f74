"""What makes a library: its pieces along the walls and free in the room."""

import numpy as np

from internlm.egoworld.furniture import Furnishing, Piece, Rng, wall_hanging
from internlm.egoworld.pieces.kitchen import _seated_table


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


FURNISHING = Furnishing(
    (bookshelf, bookshelf, bookshelf),
    (bookshelf, bookshelf, low_bookshelf, ladder, book_cart),
    (stack_aisle, reading_table, stack_aisle),
    (wall_hanging("picture1", (0.5, 0.7), (1.2, 1.4), (0.6, 0.9)),),
    ("wood", "wood"),
    ("wood", "planks"),
)
