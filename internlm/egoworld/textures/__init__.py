"""The pattern atlas of EgoWorld: small procedural drawings that give furniture and walls their look."""

from functools import cache, partial

import numpy as np

from internlm.egoworld.textures import decor, fittings, storage, surfaces
from internlm.egoworld.textures.canvas import SIZE, Canvas, Pattern

LEVELS = 6  # mip levels: 64, 32, ... 2 texels wide
LEVEL_OFFSETS = tuple(int(sum((SIZE >> i) ** 2 for i in range(level))) for level in range(LEVELS))
TEXELS = int(sum((SIZE >> i) ** 2 for i in range(LEVELS)))  # of one pattern over all mip levels

SURFACES: dict[str, Pattern] = {
    "plain": Pattern(surfaces.plain, 1.0),
    "noise": Pattern(surfaces.noise, 0.8),
    "wood": Pattern(surfaces.wood, 0.8),
    "planks": Pattern(surfaces.planks, 0.9),
    "bricks": Pattern(surfaces.bricks, 0.6),
    "tiles2": Pattern(partial(surfaces.tiles, count=2), 0.7),
    "tiles4": Pattern(partial(surfaces.tiles, count=4), 0.8),
    "checker": Pattern(surfaces.checker, 0.8),
    "stripes_v": Pattern(partial(surfaces.stripes, across=False), 0.6),
    "stripes_h": Pattern(partial(surfaces.stripes, across=True), 0.6),
    "dots": Pattern(surfaces.dots, 0.5),
    "diamonds": Pattern(surfaces.diamonds, 0.6),
    "weave": Pattern(surfaces.weave, 0.5),
    "panels": Pattern(surfaces.panels, 0.6),
}
FRONTS: dict[str, Pattern] = {
    "books3": Pattern(partial(storage.books, rows=3)), "books4": Pattern(partial(storage.books, rows=4)),
    "books5": Pattern(partial(storage.books, rows=5)), "books1": Pattern(partial(storage.books, rows=1)),
    "drawers1": Pattern(partial(storage.drawers, rows=1)), "drawers2": Pattern(partial(storage.drawers, rows=2)),
    "drawers3": Pattern(partial(storage.drawers, rows=3)), "drawers4": Pattern(partial(storage.drawers, rows=4)),
    "drawers6": Pattern(partial(storage.drawers, rows=5, columns=2)), "doors1": Pattern(partial(storage.doors, columns=1)),
    "doors2": Pattern(partial(storage.doors, columns=2)), "doors3": Pattern(partial(storage.doors, columns=3)),
    "fridge": Pattern(storage.fridge), "oven": Pattern(fittings.oven), "burners": Pattern(fittings.burners),
    "sink": Pattern(fittings.sink), "basins": Pattern(fittings.basins),
    "screen_text": Pattern(partial(fittings.screen, kind=0), glow=True),
    "screen_chart": Pattern(partial(fittings.screen, kind=1), glow=True),
    "screen_film": Pattern(partial(fittings.screen, kind=2), glow=True), "keyboard": Pattern(fittings.keyboard),
    "pillow": Pattern(decor.pillow), "quilt": Pattern(decor.quilt), "folds": Pattern(decor.folds),
    "cushions": Pattern(decor.cushions), "mirror": Pattern(fittings.mirror), "window": Pattern(fittings.window, glow=True),
    "door": Pattern(fittings.door), "picture0": Pattern(partial(decor.picture, kind=0)),
    "picture1": Pattern(partial(decor.picture, kind=1)), "picture2": Pattern(partial(decor.picture, kind=2)),
    "pegboard": Pattern(storage.pegboard), "grille": Pattern(fittings.grille), "towels": Pattern(decor.towels),
    "washer": Pattern(fittings.washer), "belt": Pattern(fittings.belt), "crockery": Pattern(storage.crockery),
    "weights": Pattern(storage.weights), "disc": Pattern(fittings.disc_pattern), "clock": Pattern(fittings.clock),
    "whiteboard": Pattern(fittings.whiteboard), "leaves": Pattern(decor.leaves), "fire": Pattern(fittings.fire, glow=True),
    "label": Pattern(storage.label), "lumber": Pattern(storage.lumber), "files": Pattern(storage.files),
    "bars": Pattern(storage.bars), "clothes": Pattern(storage.clothes), "curtain": Pattern(decor.curtain),
}  # fmt: skip
PATTERNS: dict[str, Pattern] = {**SURFACES, **FRONTS}
TEXTURE_ID: dict[str, int] = {name: i for i, name in enumerate(PATTERNS)}
REPEAT_M = np.array([pattern.repeat_m for pattern in PATTERNS.values()], np.float32)
GLOW = np.array([pattern.glow for pattern in PATTERNS.values()])


@cache
def atlas() -> tuple[np.ndarray, np.ndarray]:
    """All patterns, the same in every run: luminance float32 [K,64,64] in 0..1 and colour slot uint8 [K,64,64]."""
    canvases = [Canvas() for _ in PATTERNS]
    for i, (canvas, pattern) in enumerate(zip(canvases, PATTERNS.values())):
        pattern.draw(canvas, np.random.default_rng([7, i]))
    light = np.stack([np.clip(canvas.light / 255, 0.02, 1) for canvas in canvases])
    return light.astype(np.float32), np.stack([canvas.slot for canvas in canvases])


def bake(texture: int, colours: np.ndarray) -> np.ndarray:
    """One pattern painted with four colours [4,3] (0..1): float32 [3, TEXELS], its mip levels one after another.

    Levels are averaged in colour, so that a far pattern keeps its mean and does not flicker.
    """
    light, slot = atlas()
    image = np.asarray(colours, np.float32).T[:, slot[texture]] * light[texture]  # [3, 64, 64]
    levels = [image]
    for _ in range(1, LEVELS):
        image = (image[:, ::2, ::2] + image[:, 1::2, ::2] + image[:, ::2, 1::2] + image[:, 1::2, 1::2]) * np.float32(0.25)
        levels.append(image)
    return np.concatenate([level.reshape(3, -1) for level in levels], 1)
