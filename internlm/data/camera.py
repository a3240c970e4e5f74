"""Pixels to rays and points to pixels for the two camera models of the take store; the camera of a turned or resized picture.

Camera axes are OpenCV's (x right, y down, z forward); pixel centres lie at whole numbers, (0, 0) is the first pixel.
A fisheye624 camera describes the whole picture of a Project Aria RGB sensor (1408 pixels wide, or resized from that).
"""

import numpy as np

from internlm.data.store import Camera

ARIA_SIZE = 1408
ARIA_VALID_RADIUS = 707.5  # pixels at 1408: outside it the image circle is dark
FISHEYE_MAX_ANGLE = 1.0  # radians from the axis; the polynomial is not calibrated beyond
# Camera axes when the picture is turned by 90 degrees clockwise: x becomes the old -y, y the old x.
UPRIGHT_FROM_LANDSCAPE = np.array([[0.0, -1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])


def project(camera: Camera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image positions of camera-frame points [...,3]: float64 [...,2] pixels, and whether the camera can see each.

    Valid means in front of the camera, inside the picture and (fisheye) inside the calibrated image circle.
    """
    points = np.asarray(points, np.float64)
    front = points[..., 2] > 1e-6
    depth = np.where(front, points[..., 2], 1.0)
    plane = points[..., :2] / depth[..., None]
    if camera.model == "pinhole":
        fx, fy, cx, cy = camera.params
        uv = plane * (fx, fy) + (cx, cy)
        inside = front
    else:
        radius = np.linalg.norm(plane, axis=-1)
        angle = np.arctan(radius)
        scale = np.where(radius > 1e-9, angle * _radial(camera, angle) / np.maximum(radius, 1e-9), 1.0)
        uv = camera.params[0] * _tangential(camera, plane * scale[..., None]) + camera.params[1:3]
        inside = front & (angle <= FISHEYE_MAX_ANGLE) & _in_circle(camera, uv)
    inside = inside & (uv >= -0.5).all(-1) & (uv[..., 0] < camera.width - 0.5) & (uv[..., 1] < camera.height - 0.5)
    return uv, inside


def unproject(camera: Camera, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit viewing directions float64 [...,3] of pixels [...,2], and whether the pixel carries light."""
    uv = np.asarray(uv, np.float64)
    if camera.model == "pinhole":
        fx, fy, cx, cy = camera.params
        plane = (uv - (cx, cy)) / (fx, fy)
        valid = np.ones(uv.shape[:-1], bool)
        rays = np.concatenate([plane, np.ones_like(plane[..., :1])], -1)
        return rays / np.linalg.norm(rays, axis=-1, keepdims=True), valid
    target = (uv - camera.params[1:3]) / camera.params[0]
    bent = target.copy()
    for _ in range(20):  # the tangential part is tiny, so the fixed point contracts by ~1e-2 per step
        bent = bent + target - _tangential(camera, bent)
    radius = np.linalg.norm(bent, axis=-1)
    angle = np.minimum(radius, 1.2)
    for _ in range(12):
        step = (angle * _radial(camera, angle) - radius) / np.maximum(_radial_slope(camera, angle), 0.2)
        angle = np.clip(angle - step, 0.0, 1.4)
    valid = (angle <= FISHEYE_MAX_ANGLE) & _in_circle(camera, uv)
    sine = np.where(radius > 1e-12, np.sin(angle) / np.maximum(radius, 1e-12), 0.0)
    return np.concatenate([bent * sine[..., None], np.cos(angle)[..., None]], -1), valid


def rays(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Unit directions of all pixels in the camera frame float32 [H,W,3], and the mask [H,W] of pixels that carry light."""
    columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    directions, valid = unproject(camera, np.stack([columns, rows], -1))
    return directions.astype(np.float32), valid


def pinhole_camera(size: int, focal: float) -> Camera:
    """A square pinhole whose axis passes through the picture's centre; focal in pixels."""
    centre = (size - 1) / 2
    return Camera("pinhole", size, size, (focal, focal, centre, centre))


def turn_clockwise(camera: Camera) -> Camera:
    """The fisheye of the picture turned by 90 degrees clockwise: exact, the model is closed under quarter turns.

    The picture's new x axis is the old -y, its new y axis the old x; tangential and prism terms turn as vectors.
    """
    f, cx, cy, *radial = camera.params[:9]
    p0, p1, s0, s1, s2, s3 = camera.params[9:]
    params = (f, camera.height - 1 - cy, cx, *radial, -p1, p0, -s2, -s3, s0, s1)
    return Camera("fisheye624", camera.height, camera.width, params)


def scale_camera(camera: Camera, width: int) -> Camera:
    """The fisheye of the picture resized to a width; its borders stay borders, so centres move by half pixels."""
    scale = width / camera.width
    f, cx, cy, *rest = camera.params
    params = (f * scale, (cx + 0.5) * scale - 0.5, (cy + 0.5) * scale - 0.5, *rest)
    return Camera("fisheye624", width, round(camera.height * scale), params)


def rises_to(camera: Camera, angle: float) -> bool:
    """Whether the fisheye's radial polynomial rises all the way to ``angle`` radians: two rays never share a pixel."""
    return bool((_radial_slope(camera, np.linspace(0, angle, 201)) > 0).all())


def _radial(camera: Camera, angle: np.ndarray) -> np.ndarray:
    """1 + sum k_i angle^(2i+2), the factor from the true to the imaged angle."""
    square, value = angle**2, np.zeros_like(angle)
    for k in reversed(camera.params[3:9]):
        value = (value + k) * square
    return 1 + value


def _radial_slope(camera: Camera, angle: np.ndarray) -> np.ndarray:
    square, value = angle**2, np.zeros_like(angle)
    for i in reversed(range(6)):
        value = (value + (2 * i + 3) * camera.params[3 + i]) * square
    return 1 + value


def _tangential(camera: Camera, plane: np.ndarray) -> np.ndarray:
    """FISHEYE624's tangential (p0, p1) and thin-prism (s0..s3) terms on the radially bent plane point."""
    p, s = np.array(camera.params[9:11]), camera.params[11:15]
    square = (plane**2).sum(-1, keepdims=True)
    bent = plane + 2 * (plane @ p)[..., None] * plane + square * p
    prism = np.concatenate([s[0] * square + s[1] * square**2, s[2] * square + s[3] * square**2], -1)
    return bent + prism


def _in_circle(camera: Camera, uv: np.ndarray) -> np.ndarray:
    limit = ARIA_VALID_RADIUS * camera.width / ARIA_SIZE
    return ((uv - camera.params[1:3]) ** 2).sum(-1) <= limit**2
