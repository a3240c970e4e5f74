"""Pictures of a report as self-contained HTML and SVG: curves, image strips, skeletons over frames."""

import base64
import io
import math
import re
from collections.abc import Sequence
from html import escape

import numpy as np

from internlm.data.skeleton import BONES

COLOURS = ("#2f5fd0", "#c2571a", "#2b8a57", "#8a4fb0", "#b08900", "#5c6670")
TRUE, PREDICTED, FLOOR = "#1f9d55", "#d6336c", "#8b95a1"
PICTURE_SIDE = 160  # pixels of a picture on a page; photographs would make it hundreds of megabytes
SOFT = "#6b7683"
Bodies = Sequence[tuple[np.ndarray, np.ndarray, str]]  # points [J, 2 or 3], which are drawn bool [J], colour


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
        return f'<figure class="chart"><figcaption>{escape(title)}: nothing was logged</figcaption></figure>'
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    chart = Figure(figsize=(5.2, 2.5), layout="constrained")
    axes = chart.subplots()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8, labelcolor=SOFT)
    axes.grid(axis="y", color="#e6eaef")
    axes.set_xlabel(x_label, fontsize=8, color=SOFT)
    for (x, y), colour in zip(points.values(), _cycle(len(points)), strict=True):
        window = max(1, len(y) // 20)
        if smooth and window > 1:
            axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.25)
            y = _running_mean(y, window)
        axes.plot(x, y, color=colour, linewidth=1.4, marker="o" if len(x) == 1 else None, gid="curve")
    drawn = io.StringIO()
    with rc_context({"svg.hashsalt": title, "svg.fonttype": "none"}):  # the same bytes each time, and text as text
        chart.savefig(drawn, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    # Inside a page it needs no name spaces, and its style sheet would hold for all of the page.
    plain = re.sub(r' xmlns(:xlink)?="[^"]*"|<style.*?</style>|xlink:(?=href)', "", drawn.getvalue(), flags=re.DOTALL)
    svg = f'<svg role="img" aria-label="{escape(title)}" {plain.partition("<svg ")[2]}'
    legend = "".join(
        f'<span class="key"><i style="background:{colour}"></i>{escape(name)} <b>{_number(float(y[-1]))}</b></span>'
        for (name, (_, y)), colour in zip(points.items(), _cycle(len(points)), strict=True)
    )
    caption = f"<figcaption><strong>{escape(title)}</strong> ({escape(y_label)}; last value) {legend}</figcaption>"
    return f'<figure class="chart">{caption}{svg}</figure>'


def strip(images: Sequence[np.ndarray], captions: Sequence[str], marks: Sequence[str] | None = None) -> str:
    """A row of images with a caption below each. ``marks``: "", "query", "right" or "wrong" for each, as a coloured frame."""
    marks = marks or [""] * len(images)
    cells = "".join(
        f'<figure class="cell {escape(mark)}"><img src="{data_uri(image)}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for image, caption, mark in zip(images, captions, marks, strict=True)
    )
    return f'<div class="strip">{cells}</div>'


def skeletons(image: np.ndarray, bodies: Bodies, *, caption: str = "", margin: float = 0.6) -> str:
    """Bodies drawn over a frame: each is (pixels [J, 2], drawable bool [J], colour).

    The picture reaches ``margin`` of a side beyond the frame, because the wearer's own body is mostly outside of it.
    """
    height, width = image.shape[:2]
    side = max(width, height)
    extra = margin * side
    low, high = np.array([-extra, -extra]), np.array([width + extra, height + extra])
    box = f"{low[0]:.1f} {low[1]:.1f} {high[0] - low[0]:.1f} {high[1] - low[1]:.1f}"
    parts = [f'<svg viewBox="{box}" role="img" aria-label="{escape(caption or "skeletons")}">']
    parts.append(f'<rect x="{low[0]:.1f}" y="{low[1]:.1f}" width="100%" height="100%" fill="#eef1f5"/>')
    parts.append(f'<image href="{data_uri(image)}" width="{width}" height="{height}"/>')
    for pixels, drawable, colour in bodies:
        # Far outside the picture the projection says nothing to the eye and only blows up the file.
        near = ((pixels > low - 2 * side) & (pixels < high + 2 * side)).all(-1)
        parts.append(_body(pixels, drawable & near, colour, side / 60))
    return _cell(parts, caption)


def side_view(bodies: Bodies, *, caption: str = "") -> str:
    """Bodies in camera coordinates [J, 3] (metres, y down, z forward) seen from the right: forward to the right, down is down."""
    points = np.concatenate([joints[seen][:, (2, 1)] for joints, seen, _ in bodies])
    if not len(points):
        return ""
    middle = (points.min(0) + points.max(0)) / 2
    span = max(float((points.max(0) - points.min(0)).max()) * 1.15, 0.5)
    low = middle - span / 2
    parts = [f'<svg viewBox="0 0 100 100" role="img" aria-label="{escape(caption or "side view")}">']
    parts.append('<rect width="100" height="100" fill="#f7f9fb"/>')
    for joints, seen, colour in bodies:
        parts.append(_body(100 * (joints[:, (2, 1)] - low) / span, seen, colour, 1.4))
    return _cell(parts, caption)


def _cell(parts: list[str], caption: str) -> str:
    return f'<figure class="cell body">{"".join(parts)}</svg><figcaption>{escape(caption)}</figcaption></figure>'


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
            f'<div class="bar {kind}"><span>{escape(name)}</span><div><i style="width:{share:.1f}%"></i></div>'
            f"<b>{_number(value)} {escape(unit)}</b></div>"
        )
    return f'<div class="bars">{"".join(rows)}</div>'


def _finite(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, float), np.asarray(y, float)
    keep = np.isfinite(x) & np.isfinite(y)
    return x[keep], y[keep]


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
