"""What makes a library: its pieces along the walls and free in the room."""

import numpy as np

from internlm.egoworld.furniture import Furnishing, Piece, measured, wall_hanging
from internlm.egoworld.pieces.kitchen import seated_table


@measured(w=(0.9, 1.9), h=(1.9, 2.4))
def bookshelf(piece: Piece, w: float, h: float) -> None:
    bays = max(1, round(w / 0.8))
    for i in range(bays):
        books = str(piece.rng.choice(["books4", "books5"]))
        piece.box((i * w / bays, (i + 1) * w / bays), (0, 0.32), (0.1, h), front=books, scheme=i % 3)
    piece.box((0, w), (0, 0.36), (0, 0.1), scheme=3)
    piece.box((0, w), (0, 0.36), (h - 0.05, h), scheme=3)


@measured("book", "book", "vase", "clock", count=3, w=(1.0, 1.7), h=(0.8, 1.05))
def low_bookshelf(piece: Piece, w: float, h: float) -> None:
    piece.box((0, w / 2), (0, 0.34), (0, h - 0.04), front="books3")
    piece.box((w / 2, w), (0, 0.34), (0, h - 0.04), front="books3", scheme=1)
    piece.box((0, w), (0, 0.36), (h - 0.04, h), scheme=2)
    piece.surface((0, w), (0.05, 0.36), h)


@measured(w=(1.4, 2.2), h=(1.3, 2.0))
def stack_aisle(piece: Piece, w: float, h: float) -> None:
    for i in range(2):
        piece.box((i * w / 2, (i + 1) * w / 2), (0.02, 0.54), (0.08, h - 0.04), front="books4", back="books4", scheme=i)
    piece.box((0, w), (0, 0.56), (0, 0.08), scheme=2)
    piece.box((0, w), (0, 0.56), (h - 0.04, h), scheme=2)


reading_table = measured("book", "book", "lamp_small", count=5, w=(1.5, 2.1), d=(0.8, 1.0))(seated_table)


@measured()
def ladder(piece: Piece) -> None:
    for x in (0.0, 0.44):
        piece.box((x, x + 0.06), (0.12, 0.2), (0, 2.0), "plain")
    for z in np.arange(0.25, 1.95, 0.3):
        piece.box((0, 0.5), (0.1, 0.22), (z, z + 0.05), "plain")


@measured()
def book_cart(piece: Piece) -> None:
    for z in (0.2, 0.65):
        piece.box((0, 0.8), (0, 0.42), (z, z + 0.03), scheme=1)
        piece.box((0.03, 0.77), (0.05, 0.37), (z + 0.03, z + 0.3), front="books1", back="books1", scheme=0)
    for x in (0.0, 0.76):
        piece.box((x, x + 0.04), (0, 0.42), (0, 1.0), "plain", scheme=1)


FURNISHING = Furnishing(
    (bookshelf, bookshelf, bookshelf),
    (bookshelf, bookshelf, low_bookshelf, ladder, book_cart),
    (stack_aisle, reading_table, stack_aisle),
    (wall_hanging("picture1", (0.5, 0.7), (1.2, 1.4), (0.6, 0.9)),),
    ("wood", "wood"),
    ("wood", "planks"),
)
