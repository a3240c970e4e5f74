"""The wearer's behaviour as composed programs: walk, turn, look round, reach, crouch, carry, wave.

Cause and effect. What is in view decides what comes next: the next target is the visible object that ``choose`` ranks
first, and what is done there follows from its shape and kind. Then the wearer looks round for the next one. Chance enters
only at the start, in the wearer's pace and in how far it looks round.
Each program adds overlapping moves to a timeline and returns the frame at which the next decision is due.
"""

from dataclasses import dataclass

import numpy as np

from internlm.data.egoworld.body import BodyTrack, Proportions, solve
from internlm.data.egoworld.carry import Carriage, carried_paths, free_spot
from internlm.data.egoworld.rooms import Room
from internlm.data.egoworld.sight import FieldOfView, Paths, Sighting, inside_solid, sightings
from internlm.data.egoworld.timeline import FRAME_RATE, Timeline

NECK_LIMIT = np.radians(70.0)
MARGIN = 0.07  # metres the camera keeps from every solid
REMEMBERED = 3  # targets just visited that are not chosen again
SAME_SPOT = 0.9  # metres between standing points
CARRIED = ("bottle", "pot", "plate", "book", "box_file", "toolbox", "dumbbell", "towel_roll")
WAVED_AT = ("clock", "lamp_small", "vase", "toy")
SURVEY_TURNS = (3, 6)  # range of the number of turns by which the wearer looks round before the next choice
SURVEY_ANGLE, SURVEY_RATE = np.radians((20.0, 55.0)), np.radians((25.0, 110.0))  # of each, radians and radians a second
LOW = 0.84  # metres: for lower things the wearer crouches


@dataclass(frozen=True)
class Pace:
    """How briskly one wearer moves."""

    walk: float  # metres a second
    turn: float  # mean turn rate of the body, radians a second
    saccade: float  # mean turn rate of the head, radians a second
    hand: float  # metres a second, mean


def draw_pace(rng: np.random.Generator) -> Pace:
    return Pace(
        walk=float(rng.uniform(0.8, 1.2)), turn=float(np.radians(rng.uniform(60, 100))),
        saccade=float(np.radians(rng.uniform(80, 120))), hand=float(rng.uniform(0.7, 1.1)),
    )  # fmt: skip


def wrap(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


def bearing(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.arctan2(b[1] - a[1], b[0] - a[0]))


def choose(seen: list[Sighting], centres: np.ndarray, avoid: list[int]) -> Sighting | None:
    """The next target: the object nearest the view centre, where a higher object ranks a little before a lower one."""
    candidates = [sight for sight in seen if sight.row not in avoid]
    return min(candidates, key=lambda sight: (sight.angle - 8.0 * centres[sight.row, 2], sight.row), default=None)


def interaction(kind: str) -> str:
    """What the wearer does at an object of a kind: 'wave', 'carry' it away, or just 'reach' for it."""
    return "wave" if kind in WAVED_AT else "carry" if kind in CARRIED else "reach"


class Wearer:
    """Composes one take: holds the timeline, the room and the little memory that decisions use."""

    def __init__(self, room: Room, body: Proportions, view: FieldOfView, frames: int, rng: np.random.Generator):
        self.room, self.body, self.view, self.frames = room, body, view, frames
        self.pace, self.rng = draw_pace(rng), rng
        self.paths = Paths(room, rng)
        self.line = Timeline(frames + int(12 * FRAME_RATE))
        self.visited: list[int] = []
        self.spots: list[np.ndarray] = []  # where the wearer stood for them
        self.centres = np.array([thing.centre for thing in room.objects], dtype=np.float64)
        self.stands = np.array([thing.stand for thing in room.objects], dtype=np.float64)
        self.owners = np.array([thing.box for thing in room.objects])
        self.boxes = room.boxes.astype(np.float64)
        self.carriages: list[Carriage] = []
        self.carried: Carriage | None = None
        self.hand_busy = [0, 0]  # frame at which each hand is back from its last target
        self.blind = 0
        self.decisions: list[tuple[int, int]] = []  # (frame, chosen object)
        start = np.asarray(room.random_free_point(rng), dtype=np.float64)[:2]
        for _ in range(20):  # a start from which something can be reached
            if any(self.paths.find(start, stand) is not None for stand in self.stands):
                break
            start = np.asarray(room.random_free_point(rng), dtype=np.float64)[:2]
        rest = 0.93 * body.arm
        self.line.set(
            x=start[0], y=start[1], heading=rng.uniform(-np.pi, np.pi), lean=np.radians(rng.uniform(2, 5)),
            head_pitch=np.radians(10),
            left_x=0.1, left_y=0.05, left_z=-rest, right_x=0.1, right_y=-0.05, right_z=-rest,
        )  # fmt: skip

    def compose(self) -> Timeline:
        """Run decisions until the take is full."""
        frame = 0
        while frame < self.frames:
            advanced = self.decide(frame)
            if advanced <= frame:
                raise RuntimeError(f"behaviour made no progress at frame {frame} in a {self.room.place}")
            frame = advanced
        return self.line

    # What is known at a frame

    def track(self, start: int, stop: int) -> BodyTrack:
        return solve(self.line.body_state(self.body, slice(start, stop)), self.body)

    def seen(self, frame: int) -> list[Sighting]:
        frame = min(frame, self.line.frames - 2)
        camera = self.track(frame, frame + 1).world_from_camera[0]
        seen = sightings(self.centres, self.owners, self.boxes, self.view, camera)
        return [sight for sight in seen if self.carried is None or sight.row != self.carried.row]

    def position(self) -> np.ndarray:
        return np.array([self.line.settled("x"), self.line.settled("y")])

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

    # Gaze and turning

    def gaze_angles(self, point: np.ndarray, heading: float, frame: int) -> tuple[float, float]:
        """Head yaw (from ``heading``) and pitch that put a world point at the view centre of the camera at ``frame``."""
        position = np.array([self.line.at("x", frame), self.line.at("y", frame)])
        lean, spine = self.line.at("lean", frame), self.body.torso + self.body.neck
        eye = self.body.eye_height - self.line.at("drop", frame) - spine * (1 - np.cos(lean))
        ahead = self.body.eye_forward + spine * np.sin(lean)
        distance = max(float(np.linalg.norm(point[:2] - position)) - ahead, 0.2)
        pitch = np.arctan2(eye - point[2], distance) - self.body.camera_pitch
        yaw = wrap(bearing(position, point) - heading)
        return float(np.clip(yaw, -NECK_LIMIT, NECK_LIMIT)), float(np.clip(pitch, np.radians(-35), np.radians(55)))

    def orient(self, frame: int, heading: float, point: np.ndarray) -> int:
        """Turn the body to ``heading`` and the gaze to a world point; the head leads. Returns the last frame of the turn."""
        line = self.line
        turn = wrap(heading - line.settled("heading"))
        now = line.settled("head_yaw")
        final, pitch = self.gaze_angles(point, line.settled("heading") + turn, frame + 15)
        total = turn + final - now  # change of the gaze in the world
        lead = float(np.clip(now + total, -NECK_LIMIT, NECK_LIMIT)) - now
        nod = pitch - line.settled("head_pitch")
        quick = max(7, round(max(abs(lead), abs(nod)) / self.pace.saccade * FRAME_RATE))
        line.move("head_yaw", frame, frame + quick, lead)
        line.move("head_pitch", frame, frame + quick, nod)
        line.label("look", frame, frame + quick)
        line.look_at(point, frame)
        if abs(turn) < np.radians(2):
            line.move("head_yaw", frame, frame + quick, final - now - lead)
            return frame + quick
        begin = frame + 4
        end = begin + max(9, round(abs(turn) / self.pace.turn * FRAME_RATE))
        line.move("heading", begin, end, turn)
        line.move("head_yaw", begin, end, final - now - lead)
        line.label("turn", begin, end)
        return end

    def glance(self, frame: int, point: np.ndarray) -> int:
        """Move only the head to a world point; returns the frame when it arrives."""
        yaw, pitch = self.gaze_angles(point, self.line.settled("heading"), frame + 8)
        yaw, pitch = yaw - self.line.settled("head_yaw"), pitch - self.line.settled("head_pitch")
        end = frame + max(6, round(max(abs(yaw), abs(pitch)) / self.pace.saccade * FRAME_RATE))
        self.line.move("head_yaw", frame, end, yaw)
        self.line.move("head_pitch", frame, end, pitch)
        self.line.look_at(point, frame)
        return end

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

    # Walking

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

    def walk(self, frame: int, here: np.ndarray, there: np.ndarray) -> int:
        """Walk one straight leg; returns the frame at which the next leg or turn may blend in."""
        length = float(np.linalg.norm(there - here))
        ramp = 0.4 * FRAME_RATE
        duration = max(round(length / self.pace.walk * FRAME_RATE + ramp), round(2 * ramp))
        share = min(ramp / duration, 0.5)
        self.line.move("x", frame, frame + duration, there[0] - here[0], ramp=share)
        self.line.move("y", frame, frame + duration, there[1] - here[1], ramp=share)
        self.line.label("carry" if self.carried else "walk", frame, frame + duration)
        return frame + duration - round(ramp)

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

    # At the object

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

    def nearer_hand(self, point: np.ndarray) -> int:
        """0 (left) or 1 (right): the hand on the side of the body where the point lies."""
        return 0 if wrap(bearing(self.position(), point) - self.line.settled("heading")) > 0 else 1

    def contact(self, row: int) -> np.ndarray:
        """The point of an object's surface nearest to the chest, a little inside."""
        chest = np.array([*self.position(), self.body.shoulder_height - 0.25])
        centre, half = self.centres[row], self.room.objects[row].half_size
        return np.clip(chest, centre - half, centre + half) * 0.8 + centre * 0.2

    def reach(self, frame: int, point: np.ndarray) -> tuple[int, int]:
        """Touch a point with the nearer hand; lean, and crouch when it is low.

        Returns the frame of the next decision, with the hand on its way back, and the frame of the touch.
        """
        line = self.line
        hand = self.nearer_hand(point)
        side = ("left", "right")[hand]
        shoulder = self.body.shoulder_height
        distance = float(np.linalg.norm(point[:2] - self.position()))
        lean = float(np.clip((distance - 0.75 * self.body.arm) * 1.2 + (shoulder - point[2] - 0.5) * 0.3, 0.0, np.radians(32)))
        drop = float(np.clip((shoulder - point[2] - 0.35) * 0.8, 0.0, 0.5 * self.body.leg)) if point[2] < LOW else 0.0
        lean, drop = self.keep_clear(lean, drop)
        span = max(13, round(np.clip(distance, 0.4, 0.8) / self.pace.hand * FRAME_RATE))
        down = max(span, round(drop / 0.55 * FRAME_RATE))
        begin = frame + down - round(0.6 * span) if drop > 0.05 else frame
        begin = max(begin, self.hand_busy[hand])
        touch = begin + span
        back = touch + 4
        line.label("reach", begin, touch + span)
        if drop > 0.05:
            line.move("drop", frame, frame + down, drop)
            line.move("drop", back, back + down, -drop)
            line.label("crouch", frame, frame + down)
            line.label("crouch", back + span // 2, back + down)
        line.move("lean", begin, touch, lean)
        line.move("lean", back, back + span, -lean)
        line.hand_targets[begin:, hand] = point
        line.move(f"{side}_weight", begin, touch, 1.0)
        line.move(f"{side}_weight", back, back + span, -1.0)
        self.hand_busy[hand] = back + span
        self.glance(begin, point)
        return back + round(0.6 * down if drop > 0.05 else 0.45 * span), touch

    def keep_clear(self, lean: float, drop: float) -> tuple[float, float]:
        """Shrink a lean and crouch until the camera stays out of every solid on the way."""
        for share in (1.0, 0.75, 0.5, 0.25):
            if self.camera_is_free(lean * share, drop) and self.camera_is_free(0.0, drop):
                return lean * share, drop
        for share in (1.0, 0.6, 0.3):
            if self.camera_is_free(0.0, drop * share):
                return 0.0, drop * share
        return 0.0, 0.0

    def camera_is_free(self, lean: float, drop: float) -> bool:
        state = self.line.body_state(self.body, slice(self.line.frames - 1, self.line.frames))
        shares = np.linspace(0, 1, 5)
        for column in state.__dataclass_fields__:
            setattr(state, column, np.repeat(getattr(state, column), len(shares), axis=0))
        state.lean, state.drop = state.lean + lean * shares, state.drop + drop * shares
        cameras = solve(state, self.body).world_from_camera[:, :3, 3]
        return not inside_solid(self.room, cameras, MARGIN + 0.03).any()

    def hands_to_chest(self, frame: int, sign: float) -> None:
        """Bring both hands in front of the chest (+1), or lower them again (-1)."""
        rest = 0.93 * self.body.arm
        for side, across in (("left", -0.1), ("right", 0.1)):
            self.line.move(f"{side}_x", frame, frame + 16, sign * 0.24)
            self.line.move(f"{side}_y", frame, frame + 16, sign * across)
            self.line.move(f"{side}_z", frame, frame + 16, sign * (rest - 0.2))

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

    def wave(self, frame: int, point: np.ndarray) -> int:
        """Raise the nearer hand into view and wave it twice."""
        hand = self.nearer_hand(point)
        side, outward = (("left", 1.0), ("right", -1.0))[hand]
        line, rise = self.line, 0.93 * self.body.arm + 0.1
        line.move(f"{side}_x", frame, frame + 15, 0.32)
        line.move(f"{side}_z", frame, frame + 15, rise)
        swing = 0.14 * outward
        moment = frame + 8
        for delta in (-0.6 * swing, 1.6 * swing, -2 * swing, 2 * swing, -swing):
            line.move(f"{side}_y", moment, moment + 8, delta)
            moment += 7
        line.move(f"{side}_x", moment, moment + 14, -0.32)
        line.move(f"{side}_z", moment, moment + 14, -rise)
        line.label("wave", frame, moment + 10)
        return moment + 4
