"""The eye of EgoWorld: a vectorised ray caster for rooms of boxes and a body of capsules.

One frame, all in float32 arrays: the picture is cut into square tiles, each bounded by four planes through the camera;
planes against solids gives (tile, solid) pairs; pairs times the tile's rays are intersected in one batch (slab method),
and the minimum over a tile's pairs is kept with the solid's number packed into the low bits of the distance. The winners
are then intersected exactly and shaded: painted pattern x (ambient + directional + lamp) light.
"""

import cv2
import numpy as np

from internlm.data.store import Camera
from internlm.egoworld.rooms import Room
from internlm.egoworld.textures import GLOW, LEVEL_OFFSETS, LEVELS, SIZE, TEXELS, bake
from internlm.egoworld.tiles import Tiles, View

ID_BITS = 9  # of the packed distance: 2^-15 relative error in the choice of the nearest solid, none in the depth
_ID_MASK = (1 << ID_BITS) - 1
_FAR = np.float32(1e4)
DEFAULT_BODY_TINTS = np.array([[0.80, 0.60, 0.48], [0.30, 0.38, 0.60], [0.24, 0.24, 0.28], [0.85, 0.85, 0.82]], np.float32)


class Renderer:
    """Renders one room through one camera. ``body_tints`` [K, 3] are the colours the capsules' tint ids choose from."""

    def __init__(self, room: Room, camera: Camera, body_tints: np.ndarray | None = None, tile: int = 0) -> None:
        self.room, self.camera = room, camera
        side = tile or max(8, int(np.ceil(np.sqrt(camera.width * camera.height) / 10 / 4) * 4))
        self.tiles = Tiles(camera, side)
        self.body_tints = np.asarray(DEFAULT_BODY_TINTS if body_tints is None else body_tints, np.float32)
        self._paint()

    # ---- once per room ---------------------------------------------------------------------------------------------

    def _paint(self) -> None:
        """Bake every used (pattern, colours) pair and lay out the faces' tables; the shell is the last box."""
        room = self.room
        self.boxes = np.concatenate([room.boxes, np.stack([np.zeros(3), room.size])[None]]).astype(np.float32)
        textures = np.concatenate([room.box_textures, room.shell_textures[None]]).reshape(-1)
        slots = np.concatenate([np.repeat(room.box_colours, 6, 0), room.shell_colours])
        used, material = np.unique(np.column_stack([textures, slots]), axis=0, return_inverse=True)
        tints = room.tints * room.light.colour
        self.texels = np.concatenate([bake(int(row[0]), tints[row[1:]]) for row in used], 1)
        self.face_texels = (material.reshape(-1) * TEXELS).astype(np.int32)
        repeats = np.concatenate([room.box_repeats, room.shell_repeats[None]]).reshape(-1, 2)
        span = np.repeat(self.boxes[:, 1] - self.boxes[:, 0], 6, 0).reshape(-1, 6, 3)
        across = np.stack([span[:, f, [1, 2] if f < 2 else [0, 2] if f < 4 else [0, 1]] for f in range(6)], 1).reshape(-1, 2)
        scale = repeats * SIZE / np.maximum(across, 1e-3)  # texels per metre
        self.face_scale = np.ascontiguousarray(scale.T, np.float32)
        self.face_fine = np.sqrt(scale[:, 0] * scale[:, 1]).astype(np.float32)
        side = np.tile([-1.0, 1.0], 3)
        normal = np.zeros((6, 3))
        normal[np.arange(6), np.arange(6) // 2] = side
        facing = normal @ room.light.direction
        outside = np.tile(room.light.ambient + room.light.directional * np.maximum(facing, 0), len(room.boxes))
        inside = room.light.ambient + room.light.directional * np.maximum(-facing, 0)
        glow = GLOW[textures]
        self.face_light = np.where(glow, 0.9, np.concatenate([outside, inside])).astype(np.float32)
        self.face_lamp = np.where(glow, 0.0, room.light.lamp_power * 4.0).astype(np.float32)
        self._offsets = np.array(LEVEL_OFFSETS, np.int32)
        self._floor_light = self._floor_shadow()

    def _floor_shadow(self) -> np.ndarray:
        """Light that reaches the floor, float32 [ny, nx] in 0.45..1: blurred furniture, low things darker than high ones."""
        cell = 0.08
        nx, ny = (int(n) for n in np.ceil(self.room.size[:2] / cell))
        cover = np.ones((ny + 16, nx + 16), np.float32)
        cover[8:-8, 8:-8] = 0
        for low, high in self.room.boxes:
            weight = float(np.clip(1.2 - low[2], 0, 1))
            x0, y0, x1, y1 = (int(v / cell) + 8 for v in (low[0], low[1], high[0], high[1]))
            if weight and high[2] > 0.05:
                cover[y0 : y1 + 1, x0 : x1 + 1] = np.maximum(cover[y0 : y1 + 1, x0 : x1 + 1], weight)
        return 1 - 0.55 * cv2.GaussianBlur(cover, (0, 0), 2.5)[8:-8, 8:-8]

    # ---- once per frame --------------------------------------------------------------------------------------------

    def render(
        self, world_from_camera: np.ndarray, capsules: np.ndarray | None = None, moved: dict[int, np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """One frame.

        world_from_camera [4, 4]; capsules float [C, 8]: ends a and b, radius (metres, world) and body tint id; moved:
        object number -> its centre [3] in this frame. Returns rgb uint8 [H, W, 3] and depth float32 [H, W], metres along
        the pixel's ray, 0 (and black) where the lens carries no light.
        """
        view = View(self.tiles, np.asarray(world_from_camera, np.float32))
        boxes = self._boxes_now(moved)
        distance, face = self._cast_boxes(boxes, view)
        colour = self._shade(boxes, view, distance, face)
        if capsules is not None and len(capsules):
            self._draw_capsules(np.asarray(capsules, np.float32), view, distance, colour)
        return self._finish(colour, distance)

    def _boxes_now(self, moved: dict[int, np.ndarray] | None) -> np.ndarray:
        if not moved:
            return self.boxes
        boxes = self.boxes.copy()
        for index, centre in moved.items():
            thing = self.room.objects[index]
            boxes[thing.box] = np.stack([centre - thing.half_size, centre + thing.half_size])
        return boxes

    def _cast_boxes(self, boxes: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Nearest solid of every ray: distance float32 [T*lanes] and face number (6 per box, shell last)."""
        corner, inverse = boxes - view.eye, view.inverse  # [M+1, 2, 3], [3, T, lanes]
        tiles, solids = self._pairs(corner[:-1], view.planes)
        shell = np.maximum(corner[-1, 0, :, None, None] * inverse, corner[-1, 1, :, None, None] * inverse)
        exit_distance = shell.min(0)
        best = exit_distance.view(np.int32) | _ID_MASK  # the id of all ones is the shell
        if len(tiles):
            low, high = corner[solids, 0, :, None], corner[solids, 1, :, None]
            enter = leave = None
            for axis in range(3):
                slope = inverse[axis, tiles]
                first = low[:, axis] * slope
                np.multiply(slope, high[:, axis], out=slope)
                near = np.minimum(first, slope)
                far = np.maximum(first, slope, out=slope)
                enter = near if enter is None else np.maximum(enter, near, out=enter)
                leave = far if leave is None else np.minimum(leave, far, out=leave)
            missed = (enter > leave) | (enter < 0.01)
            key = enter.view(np.int32)
            key &= ~_ID_MASK
            key |= solids.astype(np.int32)[:, None]
            key[missed] = np.iinfo(np.int32).max
            starts = np.flatnonzero(np.diff(tiles, prepend=-1))
            nearest = np.minimum.reduceat(key, starts, axis=0)
            rows = tiles[starts]
            best[rows] = np.minimum(best[rows], nearest)
        box = best.reshape(-1) & _ID_MASK
        return self._exact(corner, box, view)

    def _pairs(self, corner: np.ndarray, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(tile, box) pairs that may meet, sorted by tile: a box is out when it lies behind one of a tile's planes."""
        centre, half = (corner[:, 1] + corner[:, 0]) / 2, (corner[:, 1] - corner[:, 0]) / 2
        normals = planes.reshape(-1, 3)
        ahead = normals @ centre.T
        ahead += np.abs(normals) @ half.T
        ahead = ahead.reshape(4, self.tiles.count, -1)
        return np.nonzero((ahead.min(0) >= 0) & self.tiles.lit[:, None])

    def _exact(self, corner: np.ndarray, box: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Distance and face of each ray's winner, in full precision."""
        shell = box == _ID_MASK
        box = np.where(shell, np.int32(len(corner) - 1), box)
        plane = corner.transpose(0, 2, 1).reshape(-1)  # index box*6 + axis*2 + side, as faces are numbered
        base = box * 6
        enters = []
        for axis in range(3):
            backwards = view.direction[axis].reshape(-1) < 0
            side = (backwards ^ shell).view(np.int8)  # outside: the face turned to us; inside a shell: the one ahead
            enters.append((base + (2 * axis) + side, view.inverse[axis].reshape(-1)))
        times = [plane[face] * slope for face, slope in enters]
        sign = np.where(shell, np.float32(-1), np.float32(1))
        signed = [time * sign for time in times]
        best01 = signed[1] > signed[0]
        high = np.maximum(signed[0], signed[1])
        best2 = signed[2] > high
        distance = np.maximum(high, signed[2]) * sign
        face = np.where(best2, enters[2][0], np.where(best01, enters[1][0], enters[0][0]))
        return distance, face

    def _shade(self, boxes: np.ndarray, view: View, distance: np.ndarray, face: np.ndarray) -> np.ndarray:
        """Colours float32 [3, T*lanes] in 0..1."""
        ray, slope = view.direction.reshape(3, -1), view.inverse.reshape(3, -1)
        x, y, z = (ray[axis] * distance + view.eye[axis] for axis in range(3))
        box, which = np.divmod(face, 6)
        low, high_z = boxes[:, 0], boxes[:, 1, 2]
        flat, sideways = which >= 4, which < 2
        across = np.where(sideways, y - low[box, 1], x - low[box, 0])
        along = np.where(flat, y - low[box, 1], high_z[box] - z)
        column = (across * self.face_scale[0, face] + 0.01).astype(np.int32) & (SIZE - 1)
        row = (along * self.face_scale[1, face] + 0.01).astype(np.int32) & (SIZE - 1)
        slant = np.where(flat, slope[2], np.where(sideways, slope[0], slope[1]))
        # texels under a pixel; the mip level is its base-2 exponent, taken from the float's bits
        tilt = np.sqrt(np.minimum(np.abs(slant), 9.0))
        footprint = distance * self.face_fine[face] * tilt * np.float32(self.tiles.pixel_angle * 1.2)
        level = np.clip((footprint.view(np.int32) >> 23) - 127, 0, LEVELS - 1)
        texel = self.face_texels[face] + self._offsets[level] + ((row >> level) << (6 - level)) + (column >> level)
        lamp = self.room.light.lamp
        to_x, to_y, to_z = lamp[0] - x, lamp[1] - y, lamp[2] - z
        square = to_x**2 + to_y**2 + to_z**2
        toward = np.where(flat, to_z, np.where(sideways, to_x, to_y))
        # a seen face is turned to the eye, so the lamp counts when it is on the eye's side of the face
        lit = np.maximum(np.where(slant < 0, toward, -toward), 0)
        light = self.face_light[face] + self.face_lamp[face] * lit / ((1.5 + square) * np.sqrt(square + 0.05))
        return self.texels[:, texel] * light * self._contact(x, y, z, face)

    def _contact(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, face: np.ndarray) -> np.ndarray:
        """Soft darkening 0..1 where the floor meets furniture and walls, and walls meet floor and ceiling."""
        size = self.room.size
        floor = face == len(self.boxes) * 6 - 2
        rows, columns = self._floor_light.shape
        column = np.clip((x * np.float32(columns / size[0])).astype(np.int32), 0, columns - 1)
        row = np.clip((y * np.float32(rows / size[1])).astype(np.int32), 0, rows - 1)
        wall = np.minimum(np.minimum(z, size[2] - z) * 2.5 + 0.65, 1.0)
        return np.where(floor, self._floor_light[row, column], np.where(face >= len(self.boxes) * 6 - 6, wall, 1.0))

    def _draw_capsules(self, capsules: np.ndarray, view: View, distance: np.ndarray, colour: np.ndarray) -> None:
        """Paint the body over the frame where it is nearer; changes distance and colour."""
        start, end, radius = capsules[:, 0:3] - view.eye, capsules[:, 3:6] - view.eye, capsules[:, 6]
        ahead = np.maximum(view.planes @ start.T, view.planes @ end.T) + radius
        tiles, which = np.nonzero((ahead.min(0) >= 0) & self.tiles.lit[:, None])
        if not len(tiles):
            return
        times, alongs = _capsule_hits(start[which], end[which], radius[which], view.direction[:, tiles])
        for body in np.unique(which):  # one capsule meets a tile once, so plain indexing paints it
            rows = which == body
            nearest = distance.reshape(self.tiles.count, -1)[tiles[rows]]
            pair, lane = np.nonzero(times[rows] < nearest)
            place = tiles[rows][pair] * self.tiles.lanes + lane
            time = times[rows][pair, lane]
            distance[place] = time
            point = view.direction.reshape(3, -1)[:, place] * time
            axis = start[body][:, None] + (end - start)[body][:, None] * alongs[rows][pair, lane]
            tint = self.body_tints[int(capsules[body, 7]) % len(self.body_tints)] * self.room.light.colour
            colour[:, place] = tint[:, None] * self._body_light(point, (point - axis) / radius[body], view.eye)

    def _body_light(self, point: np.ndarray, normal: np.ndarray, eye: np.ndarray) -> np.ndarray:
        """Light [N] on points [3, N] (from the eye) with normals [3, N]; rims turn darker, which shows the roundness."""
        light = self.room.light
        to_lamp = (light.lamp - eye)[:, None] - point
        reach = np.sqrt((to_lamp**2).sum(0))
        turned = -(normal * point).sum(0) / np.sqrt((point**2).sum(0))
        shade = light.ambient * (0.55 + 0.45 * turned) + light.directional * np.maximum(light.direction @ normal, 0)
        return shade + light.lamp_power * 4 * np.maximum((normal * to_lamp).sum(0), 0) / ((1.5 + reach**2) * reach)

    def _finish(self, colour: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tiles = self.tiles
        colour *= 255.0
        np.clip(colour, 0, 255, out=colour)
        dark = ~tiles.valid.reshape(-1)
        if dark.any():
            colour[:, dark] = 0
            distance = np.where(dark, np.float32(0), distance)
        pixels = colour.astype(np.uint8)[:, tiles.to_image]
        rgb = np.ascontiguousarray(pixels.T).reshape(tiles.height, tiles.width, 3)
        return rgb, distance[tiles.to_image].reshape(tiles.height, tiles.width)


def _capsule_hits(start: np.ndarray, end: np.ndarray, radius: np.ndarray, ray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances [P, lanes] of rays [3, P, lanes] from the origin to capsules [P], _FAR where missed, and where along the
    axis (0 at start, 1 at end). A ray hits a capsule where it enters the cylinder between the ends or one end's ball."""
    bone = end - start
    bone_ray = np.einsum("pc,cpl->pl", bone, ray)
    start_ray = np.einsum("pc,cpl->pl", start, ray)
    end_ray = np.einsum("pc,cpl->pl", end, ray)
    bone2 = np.maximum((bone**2).sum(1), 1e-9)[:, None]
    bone_start = (bone * start).sum(1)[:, None]
    start2, end2, radius2 = (start**2).sum(1)[:, None], (end**2).sum(1)[:, None], (radius**2)[:, None]
    a = np.maximum(bone2 - bone_ray**2, 1e-9)
    b = -bone2 * start_ray + bone_start * bone_ray
    c = bone2 * start2 - bone_start**2 - radius2 * bone2
    h = b * b - a * c
    time = np.where(h > 0, (-b - np.sqrt(np.maximum(h, 0))) / a, _FAR)
    along = (time * bone_ray - bone_start) / bone2
    time = np.where((h > 0) & (along > 0) & (along < 1) & (time > 0.01), time, _FAR)
    for towards, square, at in ((start_ray, start2, 0.0), (end_ray, end2, 1.0)):
        gap = towards**2 - square + radius2
        ball = towards - np.sqrt(np.maximum(gap, 0))
        better = (gap > 0) & (ball > 0.01) & (ball < time)
        time = np.where(better, ball, time)
        along = np.where(better, np.float32(at), along)
    return time.astype(np.float32), along.astype(np.float32)
