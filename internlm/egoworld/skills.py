"""What a wearer's body can do: turn, look, walk, reach, crouch, wave. What it does, and when, is decided in ``programs``.

Each skill adds overlapping moves to a timeline and returns the frame at which the next one may begin.
"""

from dataclasses import dataclass

import numpy as np

from internlm.egoworld.body import BodyTrack, Proportions, solve
from internlm.egoworld.rooms import Room
from internlm.egoworld.sight import inside_solid
from internlm.egoworld.timeline import FRAME_RATE, Timeline

NECK_LIMIT = np.radians(70.0)
MARGIN = 0.07  # metres the camera keeps from every solid
LOW = 0.84  # metres: for lower things the wearer crouches


@dataclass(frozen=True)
class Pace:
    """How briskly one wearer moves."""

    walk: float  # metres a second
    turn: float  # mean turn rate of the body, radians a second
    saccade: float  # mean turn rate of the head, radians a second
    hand: float  # metres a second, mean


def draw_pace(rng: np.random.Generator) -> Pace:
    walk, turn, saccade, hand = (float(rng.uniform(*limits)) for limits in ((0.8, 1.2), (60, 100), (80, 120), (0.7, 1.1)))
    return Pace(walk, float(np.radians(turn)), float(np.radians(saccade)), hand)


def wrap(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


def bearing(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.arctan2(b[1] - a[1], b[0] - a[0]))


class Skills:
    """The movements of one body in one room, written on ``line``."""

    def __init__(self, room: Room, body: Proportions, frames: int, pace: Pace):
        self.room, self.body, self.frames, self.pace = room, body, frames, pace
        self.line = Timeline(frames + int(12 * FRAME_RATE))
        self.hand_busy = [0, 0]  # frame at which each hand is back from its last target

    def track(self, start: int, stop: int) -> BodyTrack:
        return solve(self.line.body_state(self.body, slice(start, stop)), self.body)

    def position(self) -> np.ndarray:
        return np.array([self.line.settled("x"), self.line.settled("y")])

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

    def nearer_hand(self, point: np.ndarray) -> int:
        """0 (left) or 1 (right): the hand on the side of the body where the point lies."""
        return 0 if wrap(bearing(self.position(), point) - self.line.settled("heading")) > 0 else 1

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
