"""Channels of movement over time. A program adds moves; moves overlap and sum, so that the head can lead the body.

A move changes one channel by ``delta`` between two frames along a smooth profile and keeps the change afterwards. The
sum of smooth moves is smooth: no program ends in a jerk, and the next one may start before the last is over.
"""

import numpy as np

from internlm.egoworld.body import BodyState, Proportions

FRAME_RATE = 30.0
CHANNELS = (
    "x", "y", "heading", "drop", "lean", "head_yaw", "head_pitch",
    "left_x", "left_y", "left_z", "right_x", "right_y", "right_z", "left_weight", "right_weight",
)  # fmt: skip
COLUMN = {name: column for column, name in enumerate(CHANNELS)}
ACTIONS = ("walk", "turn", "look", "reach", "crouch", "carry", "wave", "stand")


def minimum_jerk(s: np.ndarray) -> np.ndarray:
    """Rest-to-rest profile from 0 to 1 of least jerk (Flash and Hogan 1985); its peak speed is 1.875 times the mean."""
    s = np.clip(s, 0.0, 1.0)
    return s**3 * (10 - 15 * s + 6 * s * s)


def cruise(s: np.ndarray, ramp: float) -> np.ndarray:
    """Profile from 0 to 1 at constant speed between smooth ramps that take a share ``ramp`` (<= 0.5) of the time each."""
    s = np.clip(s, 0.0, 1.0)
    speed = 1.0 / (1.0 - ramp)

    def rise(u: np.ndarray) -> np.ndarray:  # integral of the smoothstep 3u^2 - 2u^3
        return u**3 - u**4 / 2

    start = rise(np.minimum(s / ramp, 1.0)) * ramp
    middle = np.clip(s - ramp, 0.0, 1.0 - 2 * ramp)
    end = (0.5 - rise(np.clip((1.0 - s) / ramp, 0.0, 1.0))) * ramp
    return speed * np.where(s < 1.0 - ramp, start + middle, ramp / 2 + 1.0 - 2 * ramp + end)


class Timeline:
    """Channel values, action label and gaze point of every frame of a take that is being composed."""

    def __init__(self, frames: int):
        self.frames = frames
        self.values = np.zeros((frames, len(CHANNELS)))
        self.action = np.full(frames, ACTIONS.index("stand"), dtype=np.int64)
        self.gaze = np.zeros((frames, 3))
        self.hand_targets = np.zeros((frames, 2, 3))

    def set(self, **channels: float) -> None:
        """Start values."""
        for name, value in channels.items():
            self.values[:, COLUMN[name]] = value

    def at(self, channel: str, frame: int) -> float:
        return float(self.values[min(frame, self.frames - 1), COLUMN[channel]])

    def settled(self, channel: str) -> float:
        """Value after every move made so far."""
        return float(self.values[-1, COLUMN[channel]])

    def move(self, channel: str, start: int, end: int, delta: float, ramp: float | None = None) -> None:
        """Add a move over frames ``start``..``end``; ``ramp`` (share of the time) selects the cruise profile.

        A move may have begun before frame 0; the take then starts in the middle of it.
        """
        if start >= self.frames or delta == 0.0:
            return
        first = max(start, 0)
        s = (np.arange(first, self.frames) - start) / max(end - start, 1)
        self.values[first:, COLUMN[channel]] += delta * (minimum_jerk(s) if ramp is None else cruise(s, ramp))

    def label(self, action: str, start: int, end: int) -> None:
        self.action[max(start, 0) : end] = ACTIONS.index(action)

    def look_at(self, point: np.ndarray, start: int) -> None:
        """The eyes attend to a world point from ``start`` on, until told otherwise."""
        self.gaze[max(start, 0) :] = point

    def body_state(self, body: Proportions, frames: slice = slice(None)) -> BodyState:
        """State of the chosen frames. The gait follows from the path: feet step as fast as the root moves and turns."""
        column = {name: self.values[frames, index] for name, index in COLUMN.items()}
        full = {name: self.values[:, index] for name, index in COLUMN.items()}
        stop = self.frames if frames.stop is None else min(frames.stop + 2, self.frames)  # a look ahead for the gradients
        velocity = np.gradient(np.column_stack([full["x"], full["y"]])[:stop], axis=0) * FRAME_RATE
        speed = np.linalg.norm(velocity, axis=1)
        turning = np.abs(np.gradient(full["heading"][:stop])) * FRAME_RATE
        rate = np.maximum(speed / body.cycle_length, 0.35 * np.minimum(speed, 1.0)) + 0.45 * turning
        phase = np.cumsum(rate) / FRAME_RATE
        amount = minimum_jerk(np.maximum(speed / 0.5, turning / 1.2))
        stride = velocity * (0.27 / np.maximum(rate, 0.3))[:, None]
        hands = np.stack([np.column_stack([column[f"{s}_{a}"] for a in "xyz"]) for s in ("left", "right")], axis=1)
        weights = np.column_stack([column["left_weight"], column["right_weight"]])
        posture = {name: column[name] for name in ("heading", "drop", "lean", "head_yaw", "head_pitch")}
        reach = {"hands": hands, "hand_targets": self.hand_targets[frames], "hand_weights": weights}
        gait = {"gait_phase": phase[frames], "gait_stride": stride[frames], "gait_amount": amount[frames]}
        return BodyState(root=np.column_stack([column["x"], column["y"]]), **posture, **reach, **gait)
