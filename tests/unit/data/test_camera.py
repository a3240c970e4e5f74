import numpy as np
import pytest

from internlm.data.camera import project, rays, unproject
from internlm.data.store import Camera
from internlm.egoworld.camera import default_camera

# A real Project Aria RGB calibration, scaled to 1408 pixels: f, cx, cy, k0..k5, p0, p1, s0..s3.
ARIA = (
    609.95, 709.67, 710.37, 0.4155771977943428, -0.5654675386349081, 0.4102690750474058, 0.7550466498106921, -1.403495636190313,
    0.5612327759388388, 0.0006139894388846695, -0.0005063437150561582, -0.001531325356573677, 0.0001966747835378387,
    0.001762293972731938, -0.0001481272437606543,
)  # fmt: skip


@pytest.mark.parametrize(
    "camera",
    [default_camera("pinhole", 96), default_camera("fisheye624", 96), Camera("fisheye624", 1408, 1408, ARIA)],
    ids=["pinhole", "fisheye", "aria"],
)
def test_pixels_survive_the_round_trip_through_rays(camera):
    step = camera.width // 48
    grid = np.stack(np.meshgrid(np.arange(0, camera.width, step), np.arange(0, camera.height, step)), -1)
    directions, valid = unproject(camera, grid)
    assert valid.mean() > 0.7
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1, atol=1e-12)
    uv, seen = project(camera, directions * 3.0)
    assert np.abs(uv - grid)[valid].max() < 1e-6
    np.testing.assert_array_equal(seen, valid)


def test_fisheye624_follows_its_formula():
    """One point worked out term by term: radial, then tangential, then thin prism."""
    point = np.array([0.4, -0.3, 1.0])
    f, cx, cy, k, p, s = ARIA[0], ARIA[1], ARIA[2], ARIA[3:9], ARIA[9:11], ARIA[11:15]
    theta = np.arctan(0.5)
    bent = theta * (1 + sum(k[i] * theta ** (2 * i + 2) for i in range(6)))
    x, y = bent * 0.8, bent * -0.6
    r2 = x * x + y * y
    u = x + 2 * (p[0] * x + p[1] * y) * x + p[0] * r2 + s[0] * r2 + s[1] * r2**2
    v = y + 2 * (p[0] * x + p[1] * y) * y + p[1] * r2 + s[2] * r2 + s[3] * r2**2
    uv, seen = project(Camera("fisheye624", 1408, 1408, ARIA), point)
    np.testing.assert_allclose(uv, (f * u + cx, f * v + cy), atol=1e-9)
    assert seen


def test_what_a_camera_cannot_see_is_invalid():
    for kind in ("pinhole", "fisheye624"):
        camera = default_camera(kind, 96)
        points = np.array([[0, 0, 1.0], [0, 0, -1.0], [5.0, 0, 1.0], [0, 0, 0]])
        assert project(camera, points)[1].tolist() == [True, False, False, False]


def test_the_default_pinhole_sees_98_degrees_and_the_fisheye_has_dark_corners():
    directions, valid = rays(default_camera("pinhole", 96))
    edge = np.degrees(np.arctan2(directions[48, -1, 0], directions[48, -1, 2]))
    assert valid.all() and abs(edge - 49) < 0.6
    directions, valid = rays(default_camera("fisheye624", 96))
    assert not valid[0, 0] and not valid[-1, -1] and valid[48, 4] and valid[48, 48]
    assert directions.dtype == np.float32
    # right of the picture is +x, its lower half is +y
    assert directions[48, 80, 0] > 0.3 and directions[80, 48, 1] > 0.3


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="equirect"):
        default_camera("equirect", 96)
