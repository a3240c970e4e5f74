"""The wearer's behaviour as composed programs: walk, turn, look round, reach, crouch, carry, wave.

Cause and effect. What is in view decides what comes next: the next target is the visible object that ``choose`` ranks
first, and what is done there follows from its shape and kind. Then the wearer looks round for the next one. Chance enters
only at the start, in the wearer's pace and in how far it looks round.
Each program calls the body's ``skills`` and returns the frame at which the next decision is due.
"""

import numpy as np

from internlm.egoworld.body import BodyTrack, Proportions
from internlm.egoworld.carry import Carriage, carried_paths, free_spot
from internlm.egoworld.rooms import Room
from internlm.egoworld.sight import FieldOfView, Paths, Sighting, sightings
from internlm.egoworld.skills import Skills, bearing, draw_pace, wrap
from internlm.egoworld.timeline import FRAME_RATE, Timeline

REMEMBERED = 3  # targets just visited that are not chosen again
SAME_SPOT = 0.9  # metres between standing points
CARRIED = ("bottle", "pot", "plate", "book", "box_file", "toolbox", "dumbbell", "towel_roll")
WAVED_AT = ("clock", "lamp_small", "vase", "toy")
SURVEY_TURNS = (3, 6)  # range of the number of turns by which the wearer looks round before the next choice
SURVEY_ANGLE, SURVEY_RATE = np.radians((20.0, 55.0)), np.radians((25.0, 110.0))  # of each, radians and radians a second


def choose(seen: list[Sighting], centres: np.ndarray, avoid: list[int]) -> Sighting | None:
    """The next target: the object nearest the view centre, where a higher object ranks a little before a lower one."""
    candidates = [sight for sight in seen if sight.row not in avoid]
    return min(candidates, key=lambda sight: (sight.angle - 8.0 * centres[sight.row, 2], sight.row), default=None)


def interaction(kind: str) -> str:
    """What the wearer does at an object of a kind: 'wave', 'carry' it away, or just 'reach' for it."""
    return "wave" if kind in WAVED_AT else "carry" if kind in CARRIED else "reach"


class Wearer(Skills):
    """Composes one take: the little memory that decisions use, and what is done on each."""

    def __init__(self, room: Room, body: Proportions, view: FieldOfView, frames: int, rng: np.random.Generator):
        super().__init__(room, body, frames, draw_pace(rng))
        self.view, self.rng = view, rng
        self.paths = Paths(room, rng)
        self.visited: list[int] = []
        self.spots: list[np.ndarray] = []  # where the wearer stood for them
        self.centres = np.array([thing.centre for thing in room.objects], dtype=np.float64)
        self.stands = np.array([thing.stand for thing in room.objects], dtype=np.float64)
        self.owners = np.array([thing.box for thing in room.objects])
        self.boxes = room.boxes.astype(np.float64)
        self.carriages: list[Carriage] = []
        self.carried: Carriage | None = None
        self.blind = 0
        self.decisions: list[tuple[int, int]] = []  # (frame, chosen object)
        start = np.asarray(room.random_free_point(rng), dtype=np.float64)[:2]
        for _ in range(20):  # a start from which something can be reached
            if any(self.paths.find(start, stand) is not None for stand in self.stands):
                break
            start = np.asarray(room.random_free_point(rng), dtype=np.float64)[:2]
        rest = 0.93 * body.arm
        hands = {"left_x": 0.1, "left_y": 0.05, "left_z": -rest, "right_x": 0.1, "right_y": -0.05, "right_z": -rest}
        heading, lean = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(2, 5))
        self.line.set(x=start[0], y=start[1], heading=heading, lean=lean, head_pitch=np.radians(10), **hands)

    def compose(self) -> Timeline:
        """Run decisions until the take is full."""
        frame = 0
        while frame < self.frames:
            advanced = self.decide(frame)
            if advanced <= frame:
                raise RuntimeError(f"behaviour made no progress at frame {frame} in a {self.room.place}")
            frame = advanced
        return self.line

    def seen(self, frame: int) -> list[Sighting]:
        frame = min(frame, self.line.frames - 2)
        camera = self.track(frame, frame + 1).world_from_camera[0]
        seen = sightings(self.centres, self.owners, self.boxes, self.view, camera)
        return [sight for sight in seen if self.carried is None or sight.row != self.carried.row]

    def decide(self, frame: int) -> int:
        """One decision: pick a target in view and act on it, or search."""
        avoid = [*self.visited, *self.around_recent_spots()]
        seen = self.seen(frame)
        while True:
            target = choose(seen, self.centres, avoid)
            if target is None:
                return self.search(frame)
            path = self.paths.find(self.position(), self.stands[target.row])
            if path is not None:
                break
            avoid.append(target.row)
        self.blind = 0
        self.decisions.append((frame, target.row))
        self.visited = [*self.visited, target.row][-REMEMBERED:]
        self.spots = [*self.spots, self.stands[target.row].copy()][-REMEMBERED + 1 :]
        frame = self.approach(frame, self.centres[target.row], path)
        return self.survey(self.act(frame, target.row))

    def around_recent_spots(self) -> list[int]:
        """Objects to be had from about where the wearer has just been; without this rule one shelf would hold a whole take."""
        if not self.spots:
            return []
        apart = np.linalg.norm(self.stands[:, None] - np.array(self.spots), axis=-1).min(1)
        return np.flatnonzero(apart < SAME_SPOT).tolist()

    def survey(self, frame: int) -> int:
        """Turn on the spot to see the wider side of the room, now slowly and now fast, as people look for what to do next."""
        line, position, end = self.line, self.position(), frame
        gaze = line.settled("heading") + line.settled("head_yaw")
        side = self.wider_side(position, gaze)
        for _ in range(int(self.rng.integers(*SURVEY_TURNS))):
            angle, rate = self.rng.uniform(*SURVEY_ANGLE), self.rng.uniform(*SURVEY_RATE)
            begin, end = end, end + round(angle / rate * FRAME_RATE)
            line.move("heading", begin, end, side * angle, ramp=0.2)
        line.move("head_yaw", frame, frame + (end - frame) // 2, -line.settled("head_yaw"))
        line.move("head_pitch", frame, frame + (end - frame) // 2, np.radians(10) - line.settled("head_pitch"))
        for moment in range(frame, min(end + 1, self.line.frames)):  # the eyes rest on what passes the view's centre
            passing = self.line.at("heading", moment) + self.line.at("head_yaw", moment)
            self.line.look_at(self.ahead(position, passing, 2.0), moment)
        self.line.label("turn", frame, end)
        return end

    def approach(self, frame: int, centre: np.ndarray, path: list[np.ndarray]) -> int:
        """Walk along ``path``, the eyes on the object, and face it."""
        here, decided = self.position(), frame
        for index, corner in enumerate(path):
            length = float(np.linalg.norm(corner - here))
            if length > 0.05:
                heading = bearing(here, corner) if length > 0.5 else bearing(corner, centre)  # a short way is a side step
                turn = abs(wrap(heading - self.line.settled("heading")))
                early = frame if index == 0 else max(frame - 8, decided)
                turned = self.orient(early, heading, centre)
                frame = max(frame, turned - round((turned - early) * (0.5 if turn < 1.7 else 0.3)))
                frame = self.walk(frame, here, corner)
            here = corner
        facing = bearing(here, centre)
        turn = wrap(facing - self.line.settled("heading"))
        facing -= np.sign(turn) * min(abs(turn), np.radians(14))  # people stop short of facing a target squarely
        return max(self.orient(max(frame - 8, decided), facing, centre) - 4, frame)

    def ahead(self, position: np.ndarray, direction: float, distance: float) -> np.ndarray:
        return np.array([position[0] + distance * np.cos(direction), position[1] + distance * np.sin(direction), 1.25])

    def wider_side(self, position: np.ndarray, gaze: float) -> float:
        """+1 when the room's middle is to the left of the gaze, else -1."""
        middle = np.asarray(self.room.size, dtype=np.float64)[:2] / 2
        return 1.0 if wrap(bearing(position, middle) - gaze) > 0 else -1.0

    def search(self, frame: int) -> int:
        """Nothing in view: look to one side, and turn there; after a full circle forget what was visited."""
        position = self.position()
        gaze = self.line.settled("heading") + self.line.settled("head_yaw")
        if self.blind == 0:
            self.search_side = self.wider_side(position, gaze)
        self.blind += 1
        if self.blind > 4:
            self.visited, self.spots = [], []
        if self.blind > 5:
            return self.wander(frame)
        goal = gaze + self.search_side * np.radians(75)
        return self.orient(frame, goal, self.ahead(position, goal, 2.0))

    def wander(self, frame: int) -> int:
        """Leave a spot from which nothing can be chosen, towards the farthest point that can be walked to directly."""
        position = self.position()
        distances = [np.linalg.norm(p - position) if self.paths.find(position, p) else 0.0 for p in self.paths.points]
        self.blind = 0
        if not distances or max(distances) < 0.3:
            self.line.label("stand", frame, frame + 10)
            return frame + 10
        there = self.paths.points[int(np.argmax(distances))]
        for corner in self.paths.find(position, there) or []:
            heading = bearing(self.position(), corner)
            turned = self.orient(frame, heading, self.ahead(corner, heading, 2.0))
            frame = self.walk(turned, self.position(), corner)
        return frame + 12

    def act(self, frame: int, row: int) -> int:
        """What follows from the kind of the object that was reached."""
        if self.carried:
            moving = self.room.objects[self.carried.row]
            base = self.centres[row, 2] - float(self.room.objects[row].half_size[2])
            others = np.delete(self.boxes, moving.box, axis=0)
            spot = free_spot(self.centres[row, :2], base, moving.half_size, others, self.position())
            if spot is not None:
                return self.put_down(frame, row, spot)
            self.line.label("look", frame, frame + 6)  # no room to set it down here: keep carrying
            return frame + 6
        action = interaction(self.room.objects[row].kind)
        if action == "wave":
            return self.wave(frame, self.centres[row])
        frame, touch = self.reach(frame, self.contact(row))
        return self.lift(touch, row) if action == "carry" else frame

    def contact(self, row: int) -> np.ndarray:
        """The point of an object's surface nearest to the chest, a little inside."""
        chest = np.array([*self.position(), self.body.shoulder_height - 0.25])
        centre, half = self.centres[row], self.room.objects[row].half_size
        return np.clip(chest, centre - half, centre + half) * 0.8 + centre * 0.2

    def lift(self, touch: int, row: int) -> int:
        """Take the touched object in both hands."""
        self.hands_to_chest(touch, 1.0)
        self.line.label("carry", touch, touch + 18)
        self.carried = Carriage(row, self.centres[row].copy(), touch, touch + 18)
        self.carriages.append(self.carried)
        return touch + 12

    def put_down(self, frame: int, row: int, spot: np.ndarray) -> int:
        """Set the carried object down at a free spot beside the object ``row``; it is visited from the same place."""
        carriage = self.carried
        after, touch = self.reach(frame, spot)
        self.line.label("carry", frame, touch)
        self.hands_to_chest(touch - 6, -1.0)
        carriage.release, carriage.down, carriage.goal = max(touch - 14, carriage.held), touch, spot
        moved = carriage.row
        self.centres[moved], self.stands[moved] = spot, self.stands[row]
        half = self.room.objects[moved].half_size
        self.boxes[self.owners[moved]] = np.stack([spot - half, spot + half])
        self.visited = [*self.visited, moved][-REMEMBERED:]
        self.carried = None
        return after

    def moved_objects(self, track: BodyTrack) -> list[dict[int, np.ndarray]]:
        """Where displaced objects are at each frame of a track that starts at frame 0: object row to centre [3]."""
        return carried_paths(self.carriages, track)
