"""Furniture as stacks of axis-aligned boxes: the building language, and the pieces every kind of room may hold.

A piece is built in its own frame: x along the wall, y out of the wall into the room (its front faces +y), z up. Rooms
turn and move it. Faces are ordered -x, +x, -y, +y, -z, +z everywhere.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

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
        textures = [FINISH if name == "finish" else TEXTURE_ID[name] for name in names]
        self.parts.append(Part(low, high, textures, self.schemes[scheme], thing))

    def legs(self, x: tuple[float, float], y: tuple[float, float], z: float, thick: float = 0.05, scheme: int = 1) -> None:
        for x0 in (x[0], x[1] - thick):
            for y0 in (y[0], y[1] - thick):
                self.box((x0, x0 + thick), (y0, y0 + thick), (0, z), "plain", scheme=scheme)

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
THINGS: dict[str, tuple[float, float, str, str]] = json.loads(Path(__file__).with_name("things.json").read_bytes())

Builder = Callable[[np.random.Generator], Piece]


def measured(*things: str, count: int = 0, **measures: float | tuple[float, float]) -> Callable[[Callable[..., None]], Builder]:
    """Make a builder of a function that shapes a piece: ``shape(piece, **measures)``, metres, a range is drawn from in order.

    At the end ``count`` small objects of the kinds ``things`` stand on its surfaces.
    """

    def builder(shape: Callable[..., None]) -> Builder:
        def build(rng: np.random.Generator) -> Piece:
            drawn = {name: rng.uniform(*value) if isinstance(value, tuple | list) else value for name, value in measures.items()}
            piece = Piece(rng)
            shape(piece, **drawn)
            piece.scatter(things, count)
            return piece

        return build

    return builder


def wall_hanging(skin: str, width: tuple[float, float], low: tuple[float, float], height: tuple[float, float]) -> Builder:
    """A flat thing on the wall: picture, window, mirror, board."""

    @measured(w=width, z=low, h=height)
    def hanging(piece: Piece, w: float, z: float, h: float) -> None:
        piece.box((0, w), (0.005, 0.05), (z, z + h), "plain", front=skin)

    return hanging
