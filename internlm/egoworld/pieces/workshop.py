"""What makes a workshop: its pieces along the walls and free in the room."""

from internlm.egoworld.furniture import Furnishing, Piece, measured, wall_hanging


@measured("toolbox", "drill", "tin", "tin", count=4, w=(1.6, 2.3), d=(0.65, 0.75), h=(0.86, 0.95))
def workbench(piece: Piece, w: float, d: float, h: float) -> None:
    piece.legs((0.02, w - 0.02), (0.02, d - 0.02), h - 0.1, 0.1)
    piece.box((0, w), (0, d), (h - 0.1, h), "planks")
    piece.box((0.12, w * 0.5), (0.08, d - 0.08), (0.15, 0.5), "plain", front="drawers2", scheme=1)
    piece.box((w * 0.55, w - 0.12), (0.08, d - 0.1), (0.1, 0.42), "lumber", scheme=2)
    piece.box((0, w), (0, 0.03), (h + 0.15, 2.05), "plain", front="pegboard", scheme=3)
    x = piece.rng.uniform(0.1, w - 0.4)
    piece.box((x, x + 0.22), (d - 0.25, d + 0.0), (h, h + 0.09), "plain", scheme=1)
    piece.box((x - 0.03, x + 0.25), (d - 0.12, d - 0.04), (h + 0.09, h + 0.2), "plain", scheme=1)
    piece.surface((0, w), (0.15, d), h)


@measured()
def drill_press(piece: Piece) -> None:
    piece.box((0.05, 0.45), (0.05, 0.55), (0, 0.08), "plain")
    piece.box((0.2, 0.3), (0.1, 0.2), (0.08, 1.6), "plain", scheme=1)
    piece.box((0.08, 0.42), (0.12, 0.55), (0.85, 0.9), "grille", scheme=1)
    piece.box((0.12, 0.38), (0.05, 0.58), (1.3, 1.7), "plain", front="disc", sides="grille", scheme=2)
    piece.box((0.22, 0.28), (0.42, 0.48), (1.0, 1.3), "plain", scheme=1)


@measured("drill", "tin", "toolbox", count=2, w=(0.75, 1.1), h=(1.0, 1.35))
def tool_chest(piece: Piece, w: float, h: float) -> None:
    piece.box((0, w), (0, 0.5), (0.1, h * 0.6), "plain", front="drawers4")
    piece.box((0.06, w - 0.06), (0.02, 0.45), (h * 0.6, h), "plain", front="drawers3", scheme=1)
    piece.legs((0.05, w - 0.05), (0.05, 0.45), 0.1, 0.08)
    piece.surface((0.06, w - 0.06), (0.1, 0.45), h)


@measured(w=(1.2, 1.9), h=(1.6, 2.1))
def lumber_rack(piece: Piece, w: float, h: float) -> None:
    for x in (0.1, w - 0.2):
        piece.box((x, x + 0.08), (0, 0.55), (0, h), "plain", scheme=1)
    for z in (0.15, 0.65, 1.15):
        piece.box((0, w), (0.02, 0.5), (z, z + piece.rng.uniform(0.15, 0.3)), "planks", sides="lumber")
    piece.box((0, w), (0, 0.03), (0, h), "lumber", scheme=2)


@measured("drill", "tin", "toolbox", count=2, w=(0.9, 1.3), d=(0.8, 1.0), h=0.88)
def table_saw(piece: Piece, w: float, d: float, h: float) -> None:
    piece.box((0.2, w - 0.2), (0.15, d - 0.15), (0, h - 0.06), "grille", scheme=1)
    piece.box((0, w), (0, d), (h - 0.06, h), "plain")
    piece.box((w * 0.48, w * 0.51), (d * 0.35, d * 0.65), (h, h + 0.14), "disc", scheme=2)
    piece.box((w * 0.7, w * 0.75), (0, d), (h, h + 0.07), "plain", scheme=3)
    piece.surface((0, w * 0.4), (0, d), h)


@measured("drill", "tin", count=2, w=(1.2, 1.8))
def sawhorse(piece: Piece, w: float) -> None:
    for x in (0.15, w - 0.27):
        piece.legs((x, x + 0.12), (0.05, 0.55), 0.62, 0.05)
        piece.box((x, x + 0.12), (0.0, 0.6), (0.62, 0.72), "wood", scheme=1)
    piece.box((0, w), (0.1, 0.3), (0.72, 0.78), "planks", sides="lumber")
    piece.box((0, w * 0.9), (0.34, 0.5), (0.72, 0.8), "planks", sides="lumber", scheme=2)
    piece.surface((0.1, w - 0.1), (0.1, 0.3), 0.78)


FURNISHING = Furnishing(
    (workbench, tool_chest, lumber_rack),
    (workbench, tool_chest, lumber_rack, drill_press),
    (table_saw, sawhorse, workbench),
    (
        wall_hanging("pegboard", (1.2, 1.9), (1.0, 1.2), (0.9, 1.1)),
        wall_hanging("grille", (0.6, 0.9), (1.5, 1.7), (0.4, 0.6)),
    ),
    ("planks", "planks"),
    ("bricks", "noise"),
)
