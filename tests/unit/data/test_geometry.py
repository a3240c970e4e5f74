"""Rigid transforms against numbers worked out by hand."""

import numpy as np

from internlm.data.geometry import camera_coordinates, chunk_coordinates, invert_rigid, transform_points

# A camera at (1, 2, 1.5) that looks along world +x, image upright: forward = +x, right = -y, down = -z.
LOOKS_ALONG_X = np.array([[0, 0, 1, 1], [-1, 0, 0, 2], [0, -1, 0, 1.5], [0, 0, 0, 1.0]])


def test_camera_coordinates_by_hand():
    points = np.array([[4, 2, 1.5], [1, 1, 1.5], [1, 2, 0.5]])  # 3 m ahead, 1 m to the right, 1 m below
    np.testing.assert_allclose(camera_coordinates(points, LOOKS_ALONG_X), [[0, 0, 3], [1, 0, 0], [0, 1, 0]], atol=1e-12)


def test_inverse_undoes_and_broadcasts():
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 3, 3)))
    transform = np.tile(np.eye(4), (5, 1, 1))
    transform[:, :3, :3] = rotation * np.linalg.det(rotation)[:, None, None]
    transform[:, :3, 3] = rng.normal(size=(5, 3))
    np.testing.assert_allclose(invert_rigid(transform), np.linalg.inv(transform), atol=1e-12)
    points = rng.normal(size=(5, 17, 3))
    there_and_back = transform_points(invert_rigid(transform), transform_points(transform, points))
    np.testing.assert_allclose(there_and_back, points, atol=1e-12)


def test_chunk_coordinates_keep_the_wearers_motion():
    # The wearer walks 0.1 m a frame along +x; a point fixed to the camera, 1 m ahead of it.
    cameras = np.tile(LOOKS_ALONG_X, (2, 3, 1, 1))
    cameras[..., 0, 3] += 0.1 * np.arange(6).reshape(2, 3)
    points = cameras[..., None, :3, 3] + np.array([1.0, 0, 0])
    own = camera_coordinates(points, cameras)
    np.testing.assert_allclose(own, np.broadcast_to([0, 0, 1], own.shape), atol=1e-12)
    chunk = chunk_coordinates(points, cameras[:, 0])
    np.testing.assert_allclose(chunk[:, :, 0, 2], [[1, 1.1, 1.2]] * 2, atol=1e-12)
