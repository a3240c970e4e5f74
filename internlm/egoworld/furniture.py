"""Furniture as stacks of axis-aligned boxes: the building language, and the pieces every kind of room may hold.

A piece is built in its own frame: x along the wall, y out of the wall into the room (its front faces +y), z up. Rooms
turn and move it. Faces are ordered -x, +x, -y, +y, -z, +z everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from internlm.egoworld.textures import PATTERNS, TEXTURE_ID

PALETTE = 10  # colours of one room
FINISHES = tuple(name for name, pattern in PATTERNS.items() if pattern.repeat_m)
FINISH = -1  # instead of a texture: whatever finish the room gives the piece


@dataclass
class Part:
    low: np.ndarray  # [3] metres, piece frame
    high: np.ndarray
    textures: list[int]  # [6]
    colours: tuple[int, int, int, int]  # palette indices of the four colour slots
    thing: str | None = None  # kind of a small graspable object, else None


@dataclass
class Piece:
    """One piece of furniture under construction."""

    rng: np.random.Generator
    parts: list[Part] = field(default_factory=list)
    surfaces: list[tuple[float, float, float, float, float]] = field(default_factory=list)  # x0, x1, y0, y1, z

    def __post_init__(self) -> None:
        self.recolour()

    def recolour(self) -> None:
        """Draw the colour schemes of what is added from now on."""
        self.schemes = [tuple(int(i) for i in self.rng.permutation(PALETTE)[:4]) for _ in range(4)]

    def box(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        skin: str | None = None,
        *,
        front: str | None = None,
        back: str | None = None,
        top: str | None = None,
        sides: str | None = None,
        scheme: int = 0,
        thing: str | None = None,
    ) -> None:
        """Add a solid. ``skin`` covers all faces (default: the finish the room gives the piece); named faces override it."""
        skin = skin or "finish"
        names = [sides or skin, sides or skin, back or skin, front or skin, skin, top or skin]
        low, high = np.array([x[0], y[0], z[0]], np.float32), np.array([x[1], y[1], z[1]], np.float32)
        self.parts.append(
            Part(low, high, [FINISH if name == "finish" else TEXTURE_ID[name] for name in names], self.schemes[scheme], thing)
        )

    def legs(self, x: tuple[float, float], y: tuple[float, float], top: float, thick: float = 0.05, scheme: int = 1) -> None:
        for x0 in (x[0], x[1] - thick):
            for y0 in (y[0], y[1] - thick):
                self.box((x0, x0 + thick), (y0, y0 + thick), (0, top), "plain", scheme=scheme)

    def surface(self, x: tuple[float, float], y: tuple[float, float], z: float) -> None:
        """A place where small objects may stand."""
        self.surfaces.append((*x, *y, z))

    def put(self, kind: str, x: float, y: float, z: float) -> None:
        """A small object standing at (x, y, z)."""
        w, h, skin, top = THINGS[kind]
        grow = self.rng.uniform(0.9, 1.15)
        scheme = int(self.rng.integers(4))
        half, height = w * grow / 2, h * grow
        deep = half * (0.6 if kind in ("book", "box_file") else 1)
        self.box((x - half, x + half), (y - deep, y + deep), (z, z + height), skin, top=top, scheme=scheme, thing=kind)

    def scatter(self, kinds: tuple[str, ...], count: int) -> None:
        """Small objects on the piece's surfaces, kept apart from each other."""
        taken: list[tuple[float, float, float]] = []
        for _ in range(count * 4):
            if len(taken) >= count or not self.surfaces:
                return
            x0, x1, y0, y1, z = self.surfaces[int(self.rng.integers(len(self.surfaces)))]
            if x1 - x0 < 0.2 or y1 - y0 < 0.16:
                continue
            # near the front edge, where a hand reaches it
            x, y = self.rng.uniform(x0 + 0.1, x1 - 0.1), self.rng.uniform(max(y0 + 0.08, y1 - 0.4), y1 - 0.08)
            if all(abs(x - a) + abs(y - b) > 0.22 or abs(z - c) > 0.2 for a, b, c in taken):
                taken.append((x, y, z))
                self.put(str(self.rng.choice(kinds)), x, y, z)


# kind: width, height in metres, skin, top. Deep enough to be seen from two metres at 96 pixels.
THINGS: dict[str, tuple[float, float, str, str]] = {
    "mug": (0.10, 0.12, "stripes_h", "disc"),
    "bottle": (0.09, 0.26, "label", "disc"),
    "pot": (0.22, 0.15, "plain", "disc"),
    "plate": (0.22, 0.04, "plain", "disc"),
    "book": (0.20, 0.27, "label", "plain"),
    "box_file": (0.14, 0.30, "label", "plain"),
    "lamp_small": (0.15, 0.28, "plain", "disc"),
    "clock": (0.14, 0.16, "clock", "plain"),
    "soap": (0.09, 0.17, "dots", "disc"),
    "towel_roll": (0.16, 0.12, "stripes_v", "disc"),
    "toolbox": (0.28, 0.18, "grille", "drawers1"),
    "tin": (0.12, 0.15, "label", "disc"),
    "drill": (0.16, 0.2, "diamonds", "plain"),
    "dumbbell": (0.2, 0.14, "disc", "plain"),
    "flask": (0.1, 0.24, "stripes_h", "disc"),
    "vase": (0.13, 0.26, "diamonds", "disc"),
    "remote": (0.16, 0.06, "keyboard", "keyboard"),
    "toy": (0.16, 0.16, "dots", "dots"),
}

Builder = Callable[[np.random.Generator], Piece]


def measured(*things: str, count: int = 0, **measures: float | tuple[float, float]) -> Callable[[Callable[..., None]], Builder]:
    """Make a builder of a function that shapes a piece: ``shape(piece, **measures)``, metres, a range is drawn from in order.

    At the end ``count`` small objects of the kinds ``things`` stand on its surfaces.
    """

    def builder(shape: Callable[..., None]) -> Builder:
        def build(rng: np.random.Generator) -> Piece:
            drawn = {name: rng.uniform(*value) if isinstance(value, tuple) else value for name, value in measures.items()}
            piece = Piece(rng)
            shape(piece, **drawn)
            piece.scatter(things, count)
            return piece

        return build

    return builder


@dataclass(frozen=True)
class Furnishing:
    """What a class of rooms holds. Musts are placed first; walls and islands fill what is left."""

    musts: tuple[Builder, ...]  # along walls, one each
    walls: tuple[Builder, ...]  # along walls, drawn again and again
    islands: tuple[Builder, ...]  # free standing
    hangings: tuple[Builder, ...]  # typical things on the wall
    finishes: tuple[str, ...]  # patterns of the furniture's plain parts
    shell: tuple[str, str]  # patterns of walls and floor


@measured(w=(0.42, 0.5), seat=(0.42, 0.48))
def chair(piece: Piece, w: float, seat: float) -> None:
    piece.legs((0.02, w - 0.02), (0.02, w - 0.02), seat - 0.05, 0.05)
    piece.box((0, w), (0, w), (seat - 0.05, seat), top="weave")
    piece.box((0, w), (0, 0.05), (seat + 0.1, seat + 0.5), front="bars", back="bars", scheme=1)


@measured("vase", "book", "mug", "clock", count=2, w=(0.5, 0.8), h=(0.6, 0.76))
def side_table(piece: Piece, w: float, h: float) -> None:
    piece.legs((0.03, w - 0.03), (0.03, w - 0.03), h - 0.05)
    piece.box((0, w), (0, w), (h - 0.05, h))
    piece.surface((0, w), (0, w), h)


@measured(w=(0.4, 0.6), h=(1.0, 1.7))
def plant(piece: Piece, w: float, h: float) -> None:
    piece.box((w * 0.2, w * 0.8), (w * 0.2, w * 0.8), (0, 0.35), "stripes_h", scheme=1)
    piece.box((w * 0.46, w * 0.54), (w * 0.46, w * 0.54), (0.35, h - 0.5), "plain", scheme=2)
    piece.box((0, w), (0.08, w - 0.08), (h - 0.6, h - 0.15), "leaves", scheme=3)
    piece.box((0.1, w - 0.1), (0, w), (h - 0.45, h), "leaves", scheme=3)


@measured(w=(0.4, 0.6), h=(0.35, 0.55))
def crate(piece: Piece, w: float, h: float) -> None:
    piece.box((0, w), (0, w), (0, h), "panels")
    piece.box((0.05, w - 0.1), (0.03, w - 0.1), (h, h + 0.3), "label", scheme=1)


@measured("vase", "clock", "book", "toy", count=2, w=(0.8, 1.1), d=(0.4, 0.5), h=(0.85, 1.1))
def cupboard(piece: Piece, w: float, d: float, h: float) -> None:
    piece.box((0, w), (0, d), (0, h), front=str(piece.rng.choice(["doors2", "drawers3"])))
    piece.surface((0, w), (0, d), h)


DISTRACTORS: tuple[Builder, ...] = (chair, side_table, plant, crate, cupboard)


def wall_hanging(skin: str, width: tuple[float, float], low: tuple[float, float], height: tuple[float, float]) -> Builder:
    """A flat thing on the wall: picture, window, mirror, board."""

    @measured(w=width, z=low, h=height)
    def hanging(piece: Piece, w: float, z: float, h: float) -> None:
        piece.box((0, w), (0.005, 0.05), (z, z + h), "plain", front=skin)

    return hanging


HANGINGS: tuple[Builder, ...] = (
    wall_hanging("window", (0.9, 1.5), (0.95, 1.1), (0.9, 1.2)),
    wall_hanging("door", (0.85, 0.95), (0.0, 0.01), (2.0, 2.1)),
    wall_hanging("picture0", (0.5, 1.0), (1.3, 1.5), (0.5, 0.8)),
    wall_hanging("picture1", (0.5, 0.8), (1.2, 1.4), (0.6, 0.9)),
    wall_hanging("picture2", (0.6, 1.2), (1.3, 1.5), (0.5, 0.8)),
    wall_hanging("curtain", (1.0, 1.6), (0.4, 0.6), (1.6, 1.8)),
)
