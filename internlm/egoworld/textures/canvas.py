"""What the patterns are drawn on.

A pattern is 64x64 texels of (luminance 0..255, slot 0..3). The slot says which of a part's four colours paints the
texel, so one drawing serves every palette and no pattern owns a colour. Row 0 is the top of a vertical face.
"""

import cv2
import numpy as np

SIZE = 64


class Canvas:
    """A pattern being drawn, in unit coordinates (x right, y down)."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.fill()

    def fill(self, slot: int = 0, light: float = 0.85) -> "Canvas":
        self.light = np.full((SIZE, SIZE), light * 255, np.float32)
        self.slot = np.full((SIZE, SIZE), slot, np.uint8)
        return self

    def rect(self, x0: float, y0: float, x1: float, y1: float, slot: int, light: float = 0.9) -> "Canvas":
        low = (round(x0 * SIZE), round(y0 * SIZE))
        high = (max(round(x1 * SIZE) - 1, low[0]), max(round(y1 * SIZE) - 1, low[1]))
        cv2.rectangle(self.light, low, high, light * 255, -1)
        cv2.rectangle(self.slot, low, high, slot, -1)
        return self

    def line(self, x0: float, y0: float, x1: float, y1: float, slot: int, light: float = 0.4, width: int = 1) -> "Canvas":
        ends = (int(x0 * SIZE), int(y0 * SIZE)), (int(x1 * SIZE), int(y1 * SIZE))
        cv2.line(self.light, *ends, light * 255, width)
        cv2.line(self.slot, *ends, slot, width)
        return self

    def disc(self, x: float, y: float, radius: float, slot: int, light: float = 0.9, width: int = -1) -> "Canvas":
        centre, pixels = (round(x * SIZE), round(y * SIZE)), max(1, round(radius * SIZE))
        cv2.circle(self.light, centre, pixels, light * 255, width)
        cv2.circle(self.slot, centre, pixels, slot, width)
        return self

    def ellipse(self, x: float, y: float, rx: float, ry: float, slot: int, light: float = 0.9, width: int = -1) -> "Canvas":
        box = (round(x * SIZE), round(y * SIZE)), (max(1, round(rx * SIZE)), max(1, round(ry * SIZE)))
        cv2.ellipse(self.light, *box, 0, 0, 360, light * 255, width)
        cv2.ellipse(self.slot, *box, 0, 0, 360, slot, width)
        return self

    def poly(self, points: list[tuple[float, float]], slot: int, light: float = 0.9) -> "Canvas":
        corners = [(np.array(points) * SIZE).astype(np.int32)]
        cv2.fillPoly(self.light, corners, light * 255)
        cv2.fillPoly(self.slot, corners, slot)
        return self

    def frame(self, slot: int = 0, light: float = 0.45, width: int = 2) -> "Canvas":
        cv2.rectangle(self.light, (0, 0), (SIZE - 1, SIZE - 1), light * 255, width)
        cv2.rectangle(self.slot, (0, 0), (SIZE - 1, SIZE - 1), slot, width)
        return self

    def grain(self, amount: float, blur: tuple[float, float] = (0, 0)) -> "Canvas":
        noise = self.rng.standard_normal((SIZE, SIZE)).astype(np.float32)
        if max(blur) > 0:
            tall = cv2.GaussianBlur(np.tile(noise, (3, 3)), (0, 0), sigmaX=max(blur[0], 0.1), sigmaY=max(blur[1], 0.1))
            noise = tall[SIZE : 2 * SIZE, SIZE : 2 * SIZE]
            noise /= noise.std() + 1e-6
        self.light *= 1 + amount * noise
        return self
