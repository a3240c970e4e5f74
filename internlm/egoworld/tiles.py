"""The rays of a camera in square tiles, each bounded by four planes through the eye."""

import numpy as np

from internlm.data.camera import rays
from internlm.data.store import Camera


class Tiles:
    """The rays of a camera in square tiles, with four bounding planes each (camera frame). Dark pixels are left out
    of the planes, and tiles without light are skipped."""

    def __init__(self, camera: Camera, side: int) -> None:
        directions, valid = rays(camera)
        self.height, self.width = valid.shape
        down, across = -(-self.height // side), -(-self.width // side)
        pad = ((0, down * side - self.height), (0, across * side - self.width))
        directions = np.pad(directions, (*pad, (0, 0)), mode="edge")
        valid = np.pad(valid, pad)
        self.count, self.lanes = down * across, side * side
        self.directions = self._cut(directions, side).transpose(2, 0, 1).copy()  # [3, T, lanes]
        self.valid = self._cut(valid[..., None], side)[..., 0]  # [T, lanes]
        place = np.arange(down * side * across * side).reshape(down * side, across * side)
        order = self._cut(place[..., None], side).reshape(-1)
        inverse = np.empty(order.size, np.intp)
        inverse[order] = np.arange(order.size)
        self.to_image = inverse.reshape(down * side, across * side)[: self.height, : self.width].reshape(-1).copy()
        self.lit = self.valid.any(1)  # [T]
        self.planes = self._bounding_planes()
        # metres on a surface under one pixel, per metre of distance
        self.pixel_angle = float(np.sqrt(_solid_angle(directions, valid)))

    @staticmethod
    def _cut(image: np.ndarray, side: int) -> np.ndarray:
        rows, columns, channels = image.shape
        tiles = image.reshape(rows // side, side, columns // side, side, channels).swapaxes(1, 2)
        return tiles.reshape(-1, side * side, channels)

    def _bounding_planes(self) -> np.ndarray:
        """Inward unit normals [4, T, 3]: left, right, top and bottom of each tile's rays."""
        x, y, z = self.directions
        if (z[self.valid] <= 0.01).any():
            raise ValueError("EgoWorld renders cameras with less than 178 degrees of view; a ray of this one looks backwards")
        wide, tall = x / np.maximum(z, 0.01), y / np.maximum(z, 0.01)
        lit = self.valid
        lows = [np.where(lit, plane, np.inf).min(1) - 1e-4 for plane in (wide, tall)]
        highs = [np.where(lit, plane, -np.inf).max(1) + 1e-4 for plane in (wide, tall)]
        zero, one = np.zeros(self.count), np.ones(self.count)
        planes = ((one, zero, -lows[0]), (-one, zero, highs[0]), (zero, one, -lows[1]), (zero, -one, highs[1]))
        normals = np.stack([np.stack(plane, -1) for plane in planes])
        normals[:, ~self.lit] = 0.0
        return (normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)).astype(np.float32)


def _solid_angle(directions: np.ndarray, valid: np.ndarray) -> float:
    """Mean solid angle of a lit pixel, from the angle between neighbours."""
    right = np.linalg.norm(np.diff(directions, axis=1), axis=-1)[:-1]
    down = np.linalg.norm(np.diff(directions, axis=0), axis=-1)[:, :-1]
    lit = valid[1:, 1:] & valid[:-1, :-1] & (right > 0) & (down > 0)
    return float((right * down)[lit].mean())


class View:
    """A camera pose's rays in world axes: eye [3], direction and inverse [3, T, lanes], tile planes [4, T, 3]."""

    def __init__(self, tiles: Tiles, world_from_camera: np.ndarray) -> None:
        rotation, self.eye = world_from_camera[:3, :3], world_from_camera[:3, 3]
        self.direction = (rotation @ tiles.directions.reshape(3, -1)).reshape(3, tiles.count, tiles.lanes)
        self.direction[np.abs(self.direction) < 1e-7] = 1e-7
        self.inverse = 1.0 / self.direction
        self.planes = tiles.planes @ rotation.T
