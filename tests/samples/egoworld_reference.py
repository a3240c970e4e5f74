"""The slow, obvious renderer: one solid after another over all pixels, in float64. The oracle of the ray caster."""

import numpy as np

from internlm.data.camera import unproject


def look(xy, height=1.6, yaw=0.0, pitch=-0.26) -> np.ndarray:
    """world_from_camera [4, 4] of a level head at (x, y, height) looking along yaw and pitch (radians)."""
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.cross(forward, (0, 0, 1.0))
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, np.cross(forward, right), forward, (*xy, height)
    return pose


def world_rays(camera, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    directions, valid = unproject(camera, np.stack([columns, rows], -1))
    return directions @ pose[:3, :3].T, valid


def naive_depth(room, camera, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance along each ray and the number of the box it meets (-1: the room's shell), [H, W] each."""
    rays, valid = world_rays(camera, pose)
    eye = pose[:3, 3]
    with np.errstate(divide="ignore"):
        depth = np.maximum((0 - eye) / rays, (room.size - eye) / rays).min(-1)
        winner = np.full(depth.shape, -1)
        for number, (low, high) in enumerate(room.boxes.astype(np.float64)):
            a, b = (low - eye) / rays, (high - eye) / rays
            enter, leave = np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)
            nearer = (enter <= leave) & (enter > 0.01) & (enter < depth)
            depth, winner = np.where(nearer, enter, depth), np.where(nearer, number, winner)
    return np.where(valid, depth, 0), winner


def capsule_gap(points: np.ndarray, capsule: np.ndarray) -> np.ndarray:
    """Signed distance of points [..., 3] to a capsule's surface (ax ay az bx by bz radius ...)."""
    a, bone = capsule[:3], capsule[3:6] - capsule[:3]
    along = np.clip(((points - a) @ bone) / (bone @ bone), 0, 1)
    return np.linalg.norm(points - a - along[..., None] * bone, axis=-1) - capsule[6]
