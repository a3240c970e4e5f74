"""Random rooms of eight place classes. The class lies in layout, objects and, most of the time, in the patterns of
furniture, walls and floor; colours and light say nothing.

``make_room(rng, place)`` is a pure function of the generator's state. World axes: x and y along the walls, z up, the
room spans (0, 0, 0) to ``size`` in metres.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from internlm.egoworld.catalogue import DISTRACTORS, FURNISHINGS, HANGINGS, Furnishing
from internlm.egoworld.furniture import FINISH, FINISHES, PALETTE, Builder, Part, Piece
from internlm.egoworld.textures import REPEAT_M, TEXTURE_ID

PLACES = tuple(FURNISHINGS)
WALK_RADIUS = 0.25  # metres, of a walking body
CELL = 0.1  # metres, of the free-space grid
MIN_OBJECTS = 4
REACH = 0.72  # metres on the floor from a standing point to a graspable object
TYPICAL_FINISH, TYPICAL_SHELL = 0.8, 0.9  # share of furniture and of walls and floors in their class's own pattern
SHELL_REPEAT = 2.5  # walls and floors are drawn larger than furniture, so that 64 pixels resolve them
MAX_BOXES = 500  # the renderer packs box numbers into 9 bits
_EYE = 1.5

# Where a face of a piece ends up when the piece is turned by k quarter turns: row k, piece face -> world face.
_TURNED_FACE = np.array([[0, 1, 2, 3, 4, 5], [2, 3, 1, 0, 4, 5], [1, 0, 3, 2, 4, 5], [3, 2, 0, 1, 4, 5]])


@dataclass(frozen=True)
class Object:
    """A small thing a hand can take."""

    kind: str
    centre: np.ndarray  # float32 [3] metres, world
    half_size: np.ndarray  # float32 [3]
    box: int  # its row in Room.boxes
    stand: np.ndarray  # float32 [2], free floor point within REACH of the object
    facing: float  # radians from +x at the standing point towards the object


@dataclass(frozen=True)
class Light:
    direction: np.ndarray  # float32 [3], unit, from a surface towards the distant light
    directional: float
    ambient: float
    lamp: np.ndarray  # float32 [3], metres, a point light below the ceiling
    lamp_power: float
    colour: np.ndarray  # float32 [3], mean 1


@dataclass(frozen=True)
class Room:
    place: str
    size: np.ndarray  # float32 [3]
    boxes: np.ndarray  # float32 [M, 2, 3] min and max corners
    box_textures: np.ndarray  # int64 [M, 6], faces -x, +x, -y, +y, -z, +z
    box_colours: np.ndarray  # int64 [M, 4], rows of tints for the texture's four colour slots
    box_repeats: np.ndarray  # float32 [M, 6, 2], texture repeats along a face's two axes
    shell_textures: np.ndarray  # int64 [6], walls, floor and ceiling seen from inside
    shell_colours: np.ndarray  # int64 [6, 4]
    shell_repeats: np.ndarray  # float32 [6, 2]
    tints: np.ndarray  # float32 [P, 3] RGB in 0..1
    light: Light
    objects: tuple[Object, ...]

    @cached_property
    def footprints(self) -> np.ndarray:
        """Floor rectangles that a walking body must not enter: float32 [K, 2, 2] (min, max)."""
        blocking = (self.boxes[:, 0, 2] < 1.9) & (self.boxes[:, 1, 2] > 0.05)
        blocking[[thing.box for thing in self.objects]] = False
        return np.ascontiguousarray(self.boxes[blocking][:, :, :2])

    def is_free(self, xy: np.ndarray, radius: float = WALK_RADIUS) -> np.ndarray:
        """Whether a disc of ``radius`` metres at floor points [..., 2] touches neither furniture nor walls: bool [...]."""
        xy = np.asarray(xy, np.float32)
        inside = ((xy >= radius) & (xy <= self.size[:2] - radius)).all(-1)
        gap = np.maximum(np.maximum(self.footprints[:, 0] - xy[..., None, :], xy[..., None, :] - self.footprints[:, 1]), 0)
        return inside & ((gap**2).sum(-1) >= radius**2).all(-1)

    def segment_is_free(self, a: np.ndarray, b: np.ndarray, radius: float = WALK_RADIUS) -> bool:
        """Whether the disc can slide straight from floor point a to b [2] (checked every 4 cm)."""
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        steps = np.linspace(0, 1, int(np.linalg.norm(b - a) / 0.04) + 2, dtype=np.float32)[:, None]
        return bool(self.is_free(a + steps * (b - a), radius).all())

    @cached_property
    def free_mask(self) -> np.ndarray:
        """bool [ny, nx], cells of CELL metres where a body can stand, all reachable from each other on foot."""
        nx, ny = (int(n) for n in np.ceil(self.size[:2] / CELL))
        x, y = np.meshgrid((np.arange(nx) + 0.5) * CELL, (np.arange(ny) + 0.5) * CELL)
        free = self.is_free(np.stack([x, y], -1)).astype(np.uint8)
        count, parts = cv2.connectedComponents(free, connectivity=4)
        if count < 2:
            return np.zeros((ny, nx), bool)
        return parts == 1 + np.argmax(np.bincount(parts.ravel(), minlength=count)[1:])

    def in_free_space(self, xy: np.ndarray) -> np.ndarray:
        """Whether floor points [..., 2] lie in the one connected free space."""
        cell = (np.asarray(xy) / CELL).astype(int)
        ny, nx = self.free_mask.shape
        inside = (cell >= 0).all(-1) & (cell[..., 0] < nx) & (cell[..., 1] < ny)
        cell = np.clip(cell, 0, (nx - 1, ny - 1))
        return inside & self.free_mask[cell[..., 1], cell[..., 0]]

    def random_free_point(self, rng: np.random.Generator) -> np.ndarray:
        """A random point of the connected free space, float32 [2]."""
        cells = np.argwhere(self.free_mask)
        row, column = cells[rng.integers(len(cells))]
        return np.array([(column + 0.5) * CELL, (row + 0.5) * CELL], np.float32)

    def sight_is_free(self, a: np.ndarray, b: np.ndarray, ignore: int = -1) -> bool:
        """Whether the straight line between world points a and b [3] meets no solid but box ``ignore``."""
        hit = first_hit(self.boxes, np.asarray(a, np.float64), np.asarray(b, np.float64)) < 1
        if ignore >= 0:
            hit[ignore] = False
        return not hit.any()


def first_hit(boxes: np.ndarray, origin: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Share [M] of the way from ``origin`` to ``point`` at which each box [M, 2, 3] is entered; infinity where it is not."""
    direction = point - origin
    direction = np.where(np.abs(direction) < 1e-9, 1e-9, direction)
    slabs = (boxes - origin) / direction
    enter, leave = slabs.min(1).max(-1), slabs.max(1).min(-1)
    return np.where((enter <= leave) & (leave > 0), np.maximum(enter, 0.0), np.inf)


def make_room(rng: np.random.Generator, place: str) -> Room:
    """A furnished room of class ``place``: its class pieces, connected free floor, MIN_OBJECTS or more in reach."""
    if place not in FURNISHINGS:
        raise ValueError(f"unknown place {place!r}: choose one of {', '.join(PLACES)}")
    for _ in range(200):
        room = _attempt(rng, FURNISHINGS[place], place)
        if room is not None:
            return room
    raise RuntimeError(f"no {place} with free floor and reachable objects in 200 attempts")


def _attempt(rng: np.random.Generator, furnishing: Furnishing, place: str) -> Room | None:
    size = np.array([rng.uniform(3.6, 5.4), rng.uniform(3.6, 5.4), rng.uniform(2.4, 2.7)], np.float32)
    layout = _Layout(rng, size, furnishing.finishes)
    if not all(layout.along_wall(builder, 30) for builder in furnishing.musts):
        return None
    layout.island(_pick(rng, furnishing.islands), 30)
    layout.along_wall(_pick(rng, furnishing.hangings), 8)
    for i in range(12):
        layout.along_wall(_pick(rng, furnishing.walls), 8)
        if i == 4:
            layout.along_wall(_pick(rng, DISTRACTORS), 6)
    layout.island(_pick(rng, furnishing.islands), 12)
    for builder in (_pick(rng, HANGINGS), *(_pick(rng, furnishing.hangings) for _ in range(4)), _pick(rng, HANGINGS)):
        layout.along_wall(builder, 6)
    layout.along_wall(_pick(rng, DISTRACTORS), 6)
    room = _assemble(rng, place, size, layout.parts, furnishing.shell)
    if room is None or room.free_mask.sum() * CELL**2 < 3.0 or len(room.objects) < MIN_OBJECTS:
        return None
    return room


def _pick(rng: np.random.Generator, builders: tuple[Builder, ...]) -> Builder:
    return builders[int(rng.integers(len(builders)))]


class _Layout:
    """Pieces standing in the room so far."""

    def __init__(self, rng: np.random.Generator, size: np.ndarray, finishes: tuple[str, ...]) -> None:
        self.rng, self.size, self.finishes = rng, size, finishes
        self.parts: list[Part] = []
        self.bounds: list[np.ndarray] = []  # [2, 3] of each piece

    def along_wall(self, builder: Builder, tries: int) -> bool:
        """Stand a piece with its back to a random wall, clear of the others; False if there is no place for it."""
        piece = builder(self.rng)
        low, high = _bounds(piece.parts)
        for _ in range(tries):
            wall = int(self.rng.integers(4))
            room = float(self.size[wall % 2] - (high[0] - low[0]))
            if room < 0:
                continue
            slide = self.rng.uniform(0, room)
            if self.rng.uniform() < 0.7:  # flush with a corner or a neighbour, which packs walls tightly
                slide = float(self.rng.choice(self._flush(wall, high[0] - low[0])))
            if 0 <= slide <= room and self._place(piece, wall, slide, None, 0.01):
                return True
        return False

    def _flush(self, wall: int, width: float) -> list[float]:
        """Positions along a wall at which a piece of this width touches a corner or a piece that stands already."""
        ends = [0.0, float(self.size[wall % 2] - width)]
        for low, high in self.bounds:
            ends += [float(high[wall % 2]) + 0.02, float(low[wall % 2] - width) - 0.02]
        return ends

    def island(self, builder: Builder, tries: int) -> bool:
        """Stand a piece free in the room with a way round it."""
        piece = builder(self.rng)
        for _ in range(tries):
            turn = int(self.rng.integers(4))
            low, high = _bounds(piece.parts)
            span = (high - low)[[0, 1] if turn % 2 == 0 else [1, 0]]
            spare = self.size[:2] - span - 1.2
            if (spare < 0).any():
                continue
            corner = 0.6 + self.rng.uniform(size=2) * spare
            if self._place(piece, turn, 0.0, corner, 0.55):
                return True
        return False

    def _place(self, piece: Piece, turn: int, slide: float, corner: np.ndarray | None, margin: float) -> bool:
        parts = [_turned(part, turn) for part in piece.parts]
        low, high = _bounds(parts)
        if corner is not None:
            shift = np.array([corner[0], corner[1], 0]) - [low[0], low[1], 0]
        else:
            back = (-low[1], self.size[0] - high[0], self.size[1] - high[1], -low[0])[turn]
            shift = np.array([slide - low[0], back, 0] if turn % 2 == 0 else [back, slide - low[1], 0])
        low, high = low + shift, high + shift
        high[2] = min(high[2], self.size[2])
        reach = np.array([margin, margin, 0.0 if margin < 0.1 else 1.0])
        for other in self.bounds:
            if (low - reach < other[1]).all() and (high + reach > other[0]).all():
                return False
        if (low[:2] < -1e-4).any() or (high[:2] > self.size[:2] + 1e-4).any():
            return False
        self.bounds.append(np.stack([low, high]))
        # some pieces come from elsewhere: the finish is a hint, not a label
        finish = TEXTURE_ID[str(self.rng.choice(self.finishes if self.rng.uniform() < TYPICAL_FINISH else FINISHES))]
        for part in parts:
            part.textures = [finish if texture == FINISH else texture for texture in part.textures]
            limit = np.append(self.size[:2], self.size[2] - 0.002)
            part.low = np.clip(part.low + shift, 0, limit).astype(np.float32)
            part.high = np.clip(part.high + shift, 0, limit).astype(np.float32)
        self.parts.extend(part for part in parts if (part.high - part.low > 1e-3).all())
        return True


def _bounds(parts: list[Part]) -> tuple[np.ndarray, np.ndarray]:
    return np.min([part.low for part in parts], 0), np.max([part.high for part in parts], 0)


def _turned(part: Part, turn: int) -> Part:
    """The part after ``turn`` quarter turns (x to y) about the origin."""
    low, high = part.low.copy(), part.high.copy()
    for _ in range(turn):
        low, high = np.array([-high[1], low[0], low[2]]), np.array([-low[1], high[0], high[2]])
    textures = [0] * 6
    for face in range(6):
        textures[_TURNED_FACE[turn, face]] = part.textures[face]
    return Part(low, high, textures, part.colours, part.thing)


def _assemble(rng: np.random.Generator, place: str, size: np.ndarray, parts: list[Part], typical: tuple[str, str]) -> Room | None:
    boxes = np.stack([np.stack([part.low, part.high]) for part in parts]).astype(np.float32)
    if len(boxes) > MAX_BOXES:
        return None
    textures = np.array([part.textures for part in parts])
    colours = np.array([part.colours for part in parts])
    shell = np.stack([np.zeros(3, np.float32), size])[None]
    shell_textures, shell_colours, tints = _decoration(rng, typical)
    inside = (boxes, textures, colours, _repeats(boxes, textures))
    around = (shell_textures, shell_colours, _repeats(shell, shell_textures[None], SHELL_REPEAT)[0])
    room = Room(place, size, *inside, *around, tints, _light(rng, size), ())
    kinds = [(i, part.thing) for i, part in enumerate(parts) if part.thing]
    found = (_object_in_reach(room, i, kind) for i, kind in kinds)
    return replace(room, objects=tuple(thing for thing in found if thing is not None))


def _repeats(boxes: np.ndarray, textures: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Whole numbers of pattern repeats over each face [M, 6, 2]; 1 where the drawing is stretched over the face."""
    span = boxes[:, 1] - boxes[:, 0]
    across = np.stack([span[:, [1, 2]]] * 2 + [span[:, [0, 2]]] * 2 + [span[:, [0, 1]]] * 2, 1)
    metres = scale * REPEAT_M[textures][..., None]
    repeats = np.where(metres > 0, across / np.maximum(metres, 1e-3), 1.0)
    return np.where((metres > 0) & (repeats > 1), np.round(repeats), repeats).astype(np.float32)


def _decoration(rng: np.random.Generator, typical: tuple[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shell textures [6], shell colour slots [6,4] and the room's palette [P,3]; the colours are free of the class."""
    hue = rng.uniform(0, 180, PALETTE + 8)
    saturation = rng.choice([10, 40, 80, 150], PALETTE + 8) * rng.uniform(0.7, 1.2, PALETTE + 8)
    saturation[PALETTE:] *= 0.5
    # furniture colours spread evenly from dark to light, so that every drawing keeps contrast
    value = np.concatenate([rng.permutation(np.linspace(60, 250, PALETTE)), rng.uniform(110, 250, 8)])
    hsv = np.stack([hue, np.clip(saturation, 0, 255), value], -1).astype(np.uint8)
    tints = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0].astype(np.float32) / 255
    names = np.where(rng.uniform(size=3) < TYPICAL_SHELL, (typical[0], typical[0], typical[1]), rng.choice(FINISHES, 3))
    wall, accent, floor = (TEXTURE_ID[str(name)] for name in names)
    ceiling = TEXTURE_ID[str(rng.choice(["plain", "plain", "panels", "tiles2"]))]
    textures = np.array([wall, wall, wall, wall, floor, ceiling])
    if rng.uniform() < 0.5:
        textures[int(rng.integers(4))] = accent
    base = PALETTE + np.arange(8)
    pairs = [base[[0, 1]]] * 4 + [base[[4, 5]], base[[6, 7]]]
    colours = np.array([[*pair, base[2], base[3]] for pair in pairs])
    # one colour of a wall or floor is light and the other dark, so that its pattern shows in any palette
    for first, second in ((base[0], base[1]), (base[4], base[5])):
        light, dark = (first, second) if rng.uniform() < 0.5 else (second, first)
        tints[light] *= rng.uniform(0.75, 1.0) / tints[light].max()
        tints[dark] *= rng.uniform(0.3, 0.45) / tints[dark].max()
    return textures, colours, tints


def _light(rng: np.random.Generator, size: np.ndarray) -> Light:
    direction = rng.standard_normal(3) * (1, 1, 0.3) + (0, 0, 0.8)
    warmth = rng.uniform(-0.18, 0.18)
    colour = np.array([1 + warmth, 1 + rng.uniform(-0.05, 0.05), 1 - warmth], np.float32)
    lamp = (size * rng.uniform((0.2, 0.2, 0.8), (0.8, 0.8, 0.95))).astype(np.float32)
    towards = (direction / np.linalg.norm(direction)).astype(np.float32)
    return Light(towards, rng.uniform(0.15, 0.4), rng.uniform(0.5, 0.75), lamp, rng.uniform(0.3, 0.7), colour)


def _object_in_reach(room: Room, box: int, kind: str) -> Object | None:
    """The object with its nearest free standing point from where it is seen, or None."""
    low, high = room.boxes[box]
    centre = (low + high) / 2
    angles, radii = np.meshgrid(np.arange(16) * np.pi / 8, (0.4, 0.5, 0.6, REACH - 0.01))
    spots = centre[:2] + np.stack([np.cos(angles), np.sin(angles)], -1) * radii[..., None]
    for spot in spots[room.in_free_space(spots) & room.is_free(spots)]:
        if room.sight_is_free(np.append(spot, _EYE), centre, box):
            way = centre[:2] - spot
            return Object(kind, centre, (high - low) / 2, box, spot.astype(np.float32), float(np.arctan2(way[1], way[0])))
    return None
