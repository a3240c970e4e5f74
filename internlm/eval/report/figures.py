"""Pictures of a report as self-contained HTML and SVG: curves, image strips, skeletons over frames. No plotting package."""

import base64
import html
import math
from collections.abc import Sequence

import numpy as np

from internlm.data.skeleton import BONES

COLOURS = ("#2f5fd0", "#c2571a", "#2b8a57", "#8a4fb0", "#b08900", "#5c6670")
TRUE, PREDICTED, FLOOR = "#1f9d55", "#d6336c", "#8b95a1"
PICTURE_SIDE = 160  # pixels of a picture on a page; photographs would make it hundreds of megabytes


def data_uri(image: np.ndarray) -> str:
    """uint8 RGB [H, W, 3] -> a PNG as a data URI."""
    import cv2

    done, data = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"an image of shape {image.shape} could not be encoded as PNG")
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()


def line_chart(
    series: dict[str, tuple[Sequence[float], Sequence[float]]], *, title: str, x_label: str, y_label: str, smooth: bool = True
) -> str:
    """Curves as inline SVG. ``series`` maps a name to (x, y); non-finite points are left out.

    With ``smooth`` the measured curve is faint under its running mean over a twentieth of its points.
    """
    points = {name: _finite(x, y) for name, (x, y) in series.items()}
    points = {name: xy for name, xy in points.items() if len(xy[0])}
    if not points:
        return f'<figure class="chart"><figcaption>{html.escape(title)}: nothing was logged</figcaption></figure>'
    width, height, left, right, top, bottom = 520, 250, 52, 12, 14, 38
    x_ticks = _ticks(min(x.min() for x, _ in points.values()), max(x.max() for x, _ in points.values()))
    y_ticks = _ticks(min(y.min() for _, y in points.values()), max(y.max() for _, y in points.values()))

    def place(x: np.ndarray, y: np.ndarray) -> str:
        px = left + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (width - left - right)
        py = height - bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (height - top - bottom)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(px, py, strict=True))

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}">']
    for tick in y_ticks:
        ends = place(np.array([x_ticks[0], x_ticks[-1]]), np.array([tick, tick]))
        y = ends.split(",")[1].split(" ")[0]
        parts.append(f'<polyline class="grid" points="{ends}"/><text x="{left - 7}" y="{float(y) + 4:.1f}" text-anchor="end">')
        parts.append(f"{_number(tick)}</text>")
    for tick in x_ticks:
        x = place(np.array([tick]), np.array([y_ticks[0]])).split(",")[0]
        parts.append(f'<text x="{x}" y="{height - bottom + 16}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(f'<text x="{(left + width - right) / 2}" y="{height - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    for (_, (x, y)), colour in zip(points.items(), _cycle(len(points)), strict=True):
        window = max(1, len(y) // 20)
        if smooth and window > 1:
            parts.append(f'<polyline class="raw" stroke="{colour}" points="{place(x, y)}"/>')
            y = _running_mean(y, window)
        parts.append(f'<polyline class="curve" stroke="{colour}" points="{place(x, y)}"/>')
        if len(x) == 1:
            cx, cy = place(x, y).split(",")
            parts.append(f'<circle cx="{cx}" cy="{cy}" r="3" fill="{colour}"/>')
    parts.append("</svg>")
    legend = "".join(
        f'<span class="key"><i style="background:{colour}"></i>{html.escape(name)} <b>{_number(float(y[-1]))}</b></span>'
        for (name, (_, y)), colour in zip(points.items(), _cycle(len(points)), strict=True)
    )
    caption = f"<figcaption><strong>{html.escape(title)}</strong> ({html.escape(y_label)}; last value) {legend}</figcaption>"
    return f'<figure class="chart">{caption}{"".join(parts)}</figure>'


def strip(images: Sequence[np.ndarray], captions: Sequence[str], marks: Sequence[str] | None = None) -> str:
    """A row of images with a caption below each. ``marks``: "", "query", "right" or "wrong" for each, as a coloured frame."""
    marks = marks or [""] * len(images)
    cells = "".join(
        f'<figure class="cell {html.escape(mark)}"><img src="{data_uri(image)}" alt="{html.escape(caption)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for image, caption, mark in zip(images, captions, marks, strict=True)
    )
    return f'<div class="strip">{cells}</div>'


def skeletons(
    image: np.ndarray, bodies: Sequence[tuple[np.ndarray, np.ndarray, str]], *, caption: str = "", margin: float = 0.6
) -> str:
    """Bodies drawn over a frame: each is (pixels [J, 2], drawable bool [J], colour).

    The picture reaches ``margin`` of a side beyond the frame, because the wearer's own body is mostly outside of it.
    """
    height, width = image.shape[:2]
    side = max(width, height)
    extra = margin * side
    low, high = np.array([-extra, -extra]), np.array([width + extra, height + extra])
    box = f"{low[0]:.1f} {low[1]:.1f} {high[0] - low[0]:.1f} {high[1] - low[1]:.1f}"
    parts = [f'<svg viewBox="{box}" role="img" aria-label="{html.escape(caption or "skeletons")}">']
    parts.append(f'<rect x="{low[0]:.1f}" y="{low[1]:.1f}" width="100%" height="100%" fill="#eef1f5"/>')
    parts.append(f'<image href="{data_uri(image)}" width="{width}" height="{height}"/>')
    for pixels, drawable, colour in bodies:
        # Far outside the picture the projection says nothing to the eye and only blows up the file.
        near = ((pixels > low - 2 * side) & (pixels < high + 2 * side)).all(-1)
        parts.append(_body(pixels, drawable & near, colour, side / 60))
    parts.append("</svg>")
    return f'<figure class="cell body">{"".join(parts)}<figcaption>{html.escape(caption)}</figcaption></figure>'


def side_view(bodies: Sequence[tuple[np.ndarray, np.ndarray, str]], *, caption: str = "") -> str:
    """Bodies in camera coordinates [J, 3] (metres, y down, z forward) seen from the right: forward to the right, down is down."""
    points = np.concatenate([joints[seen][:, (2, 1)] for joints, seen, _ in bodies])
    if not len(points):
        return ""
    middle = (points.min(0) + points.max(0)) / 2
    span = max(float((points.max(0) - points.min(0)).max()) * 1.15, 0.5)
    low = middle - span / 2
    parts = [f'<svg viewBox="0 0 100 100" role="img" aria-label="{html.escape(caption or "side view")}">']
    parts.append('<rect width="100" height="100" fill="#f7f9fb"/>')
    for joints, seen, colour in bodies:
        parts.append(_body(100 * (joints[:, (2, 1)] - low) / span, seen, colour, 1.4))
    parts.append("</svg>")
    return f'<figure class="cell body">{"".join(parts)}<figcaption>{html.escape(caption)}</figcaption></figure>'


def _body(points: np.ndarray, drawable: np.ndarray, colour: str, thickness: float) -> str:
    """Bones and joints of one body, points [J, 2] in the picture's units."""
    fine = drawable & np.isfinite(points).all(-1)
    parts = [
        f'<line x1="{points[a, 0]:.1f}" y1="{points[a, 1]:.1f}" x2="{points[b, 0]:.1f}" y2="{points[b, 1]:.1f}" '
        f'stroke="{colour}" stroke-width="{thickness:.2f}" stroke-linecap="round" opacity="0.85"/>'
        for a, b in BONES
        if fine[a] and fine[b]
    ]
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{1.1 * thickness:.2f}" fill="{colour}"/>' for x, y in points[fine]]
    return "".join(parts)


def bars(values: dict[str, float], *, unit: str) -> str:
    """Horizontal bars; the first is the measured model, the others are floors."""
    finite = [abs(v) for v in values.values() if math.isfinite(v)]
    top = max(finite, default=0) or 1.0
    rows = []
    for position, (name, value) in enumerate(values.items()):
        share = 100 * abs(value) / top if math.isfinite(value) else 0
        kind = "model" if not position else "floor"
        rows.append(
            f'<div class="bar {kind}"><span>{html.escape(name)}</span><div><i style="width:{share:.1f}%"></i></div>'
            f"<b>{_number(value)} {html.escape(unit)}</b></div>"
        )
    return f'<div class="bars">{"".join(rows)}</div>'


def _finite(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, float), np.asarray(y, float)
    keep = np.isfinite(x) & np.isfinite(y)
    return x[keep], y[keep]


def _ticks(low: float, high: float) -> np.ndarray:
    """Four to seven round numbers that enclose [low, high]."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / 5
    scale = 10 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw)
    return np.arange(math.floor(low / step), math.ceil(high / step) + 1) * step


def _running_mean(y: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over ``window`` points, over fewer at the ends."""
    total = np.convolve(y, np.ones(window), "same")
    return total / np.convolve(np.ones_like(y), np.ones(window), "same")


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "n/a"
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.2g}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def small(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] with its longer side at most PICTURE_SIDE."""
    import cv2

    scale = PICTURE_SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
