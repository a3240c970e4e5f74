"""What the wearer can see and where the wearer can walk: the two questions that programs ask of a room."""

import heapq
from collections import deque
from dataclasses import dataclass

import numpy as np

from internlm.egoworld.rooms import CELL, WALK_RADIUS, Room, first_hit

CLEARANCE = WALK_RADIUS - 0.01  # standing points touch the limit exactly; a rounded position must still count as free


@dataclass(frozen=True)
class FieldOfView:
    """Half extents of the image as tangents of the viewing angle."""

    across: float
    down: float

    @staticmethod
    def of(camera) -> "FieldOfView":
        """The central part of a camera's image (pinhole, or fisheye up to 1 rad from the axis)."""
        width, height, focal = camera.width / 2, camera.height / 2, camera.params[0]
        if camera.model == "pinhole":
            return FieldOfView(0.95 * width / focal, 0.95 * height / focal)
        return FieldOfView(float(np.tan(min(0.85 * width / focal, 0.95))), float(np.tan(min(0.85 * height / focal, 0.95))))

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Whether camera-frame points [N, 3] fall into the image."""
        depth = np.maximum(points[:, 2], 1e-6)
        inside = (np.abs(points[:, 0]) < self.across * depth) & (np.abs(points[:, 1]) < self.down * depth)
        return inside & (points[:, 2] > 0.1)


@dataclass(frozen=True)
class Sighting:
    """One object in view: its row in ``room.objects`` and its angle from the view centre in degrees."""

    row: int
    angle: float


def sightings(
    centres: np.ndarray, owners: np.ndarray, boxes: np.ndarray, view: FieldOfView, world_from_camera: np.ndarray
) -> list[Sighting]:
    """Objects whose centre lies in the image and is not hidden behind another solid.

    Args:
        centres: [N, 3] object centres. owners: [N] the row of each object in ``boxes`` [M, 2, 3].
    """
    rotation, eye = world_from_camera[:3, :3], world_from_camera[:3, 3]
    local = (centres - eye) @ rotation
    seen = []
    for row in np.flatnonzero(view.contains(local)):
        hits = first_hit(boxes, eye, centres[row])
        entry = min(hits[owners[row]], 1.0)
        hits[owners[row]] = np.inf
        if hits.min(initial=np.inf) < entry - 0.01:
            continue
        angle = float(np.degrees(np.arctan2(np.hypot(local[row, 0], local[row, 1]), local[row, 2])))
        seen.append(Sighting(int(row), angle))
    return seen


def inside_solid(room: Room, points: np.ndarray, margin: float) -> np.ndarray:
    """Whether points [N, 3] lie within ``margin`` metres of a box, wall, floor or ceiling of the room."""
    grown = room.boxes + np.array([[-margin], [margin]])
    blocked = ((points[:, None] > grown[:, 0]) & (points[:, None] < grown[:, 1])).all(-1).any(1)
    return blocked | (points < margin).any(1) | (points > room.size - margin).any(1)


class Paths:
    """Shortest walks between free points, over a visibility graph of stand points and random free points."""

    def __init__(self, room: Room, rng: np.random.Generator, extra: int = 24):
        self.room = room
        points = [np.asarray(thing.stand, dtype=np.float64)[:2] for thing in room.objects]
        points += [np.asarray(room.random_free_point(rng), dtype=np.float64)[:2] for _ in range(extra)]
        self.points = np.array([point for point in points if room.is_free(point, CLEARANCE)]).reshape(-1, 2)
        count = len(self.points)
        self.length = np.full((count, count), np.inf)
        for a in range(count):
            for b in range(a):
                if room.segment_is_free(self.points[a], self.points[b], CLEARANCE):
                    self.length[a, b] = self.length[b, a] = np.linalg.norm(self.points[a] - self.points[b])

    def find(self, start: np.ndarray, goal: np.ndarray) -> list[np.ndarray] | None:
        """Corner points after ``start`` up to ``goal`` of the shortest free walk, or None."""
        if self.room.segment_is_free(start, goal, CLEARANCE):
            return [goal]
        count = len(self.points)
        first = [np.linalg.norm(p - start) if self.room.segment_is_free(start, p, CLEARANCE) else np.inf for p in self.points]
        last = [np.linalg.norm(p - goal) if self.room.segment_is_free(p, goal, CLEARANCE) else np.inf for p in self.points]
        cost, before = np.array(first + [np.inf]), np.full(count + 1, -1)
        heap = [(value, node) for node, value in enumerate(first) if np.isfinite(value)]
        heapq.heapify(heap)
        while heap:
            value, node = heapq.heappop(heap)
            if value > cost[node]:
                continue
            if node == count:
                break
            steps = np.append(self.length[node], last[node]) + value + 0.2  # fewer corners are preferred
            for better in np.flatnonzero(steps < cost):
                cost[better], before[better] = steps[better], node
                heapq.heappush(heap, (float(steps[better]), int(better)))
        if not np.isfinite(cost[count]):
            return self.through_cells(start, goal)
        path, node = [goal], before[count]
        while node >= 0:
            path.append(self.points[node])
            node = before[node]
        return path[::-1]

    def through_cells(self, start: np.ndarray, goal: np.ndarray) -> list[np.ndarray] | None:
        """A walk over the room's grid of free cells, pulled straight: for corners that no sampled point sees."""
        free = self.room.free_mask
        first, last = self._cell(start), self._cell(goal)
        if first is None or last is None:
            return None
        before, queue = {first: first}, deque([first])
        while queue and last not in before:
            row, column = queue.popleft()
            for step in ((row, column + 1), (row, column - 1), (row + 1, column), (row - 1, column)):
                if 0 <= step[0] < free.shape[0] and 0 <= step[1] < free.shape[1] and free[step] and step not in before:
                    before[step] = (row, column)
                    queue.append(step)
        if last not in before:
            return None
        cells, cell = [goal], last
        while cell != first:
            cells.append(self._centre(cell))
            cell = before[cell]
        points, path, here = [*cells, self._centre(first)][::-1], [], start
        while points:
            far = next((i for i in range(len(points), 0, -1) if self.room.segment_is_free(here, points[i - 1], CLEARANCE)), 0)
            if far == 0:
                return None
            here = points[far - 1]
            path.append(here)
            points = points[far:]
        return path

    def _centre(self, cell: tuple[int, int]) -> np.ndarray:
        return (np.array(cell[::-1]) + 0.5) * CELL

    def _cell(self, point: np.ndarray) -> tuple[int, int] | None:
        """The nearest free cell that can be walked to straight."""
        cells = np.argwhere(self.room.free_mask)
        distance = np.linalg.norm((cells[:, ::-1] + 0.5) * CELL - point, axis=1)
        for index in np.argsort(distance, kind="stable")[:6]:
            cell = (int(cells[index, 0]), int(cells[index, 1]))
            if self.room.segment_is_free(point, self._centre(cell), CLEARANCE):
                return cell
        return None
