"""Rigid transforms of points, vectorised. A transform is named ``a_from_b``: it maps coordinates of b to coordinates of a."""

import numpy as np


def transform_points(a_from_b: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [..., J, 3] in b by rigid transforms [..., 4, 4] to a; leading axes broadcast."""
    return points @ np.swapaxes(a_from_b[..., :3, :3], -1, -2) + a_from_b[..., None, :3, 3]


def invert_rigid(a_from_b: np.ndarray) -> np.ndarray:
    """b_from_a of rigid transforms [..., 4, 4], without a matrix inversion."""
    transposed = np.swapaxes(a_from_b[..., :3, :3], -1, -2)
    inverse = np.zeros_like(a_from_b)
    inverse[..., :3, :3] = transposed
    inverse[..., :3, 3] = -np.einsum("...ij,...j->...i", transposed, a_from_b[..., :3, 3])
    inverse[..., 3, 3] = 1
    return inverse


def camera_coordinates(points: np.ndarray, world_from_camera: np.ndarray) -> np.ndarray:
    """World points [..., J, 3], each set in the camera of its own frame [..., 4, 4]: the published action coordinates."""
    return transform_points(invert_rigid(world_from_camera), points)


def chunk_coordinates(points: np.ndarray, anchor_world_from_camera: np.ndarray) -> np.ndarray:
    """World points [T, P, J, 3], each chunk of P poses in its anchor camera [T, 4, 4], the camera of image I_t.

    A chunk then carries the wearer's own motion: a body that moves with the camera moves in these coordinates.
    """
    return transform_points(invert_rigid(anchor_world_from_camera)[:, None], points)
