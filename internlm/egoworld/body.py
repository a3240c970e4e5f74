"""The wearer's body: 17 COCO joints and the head camera from a compact state per frame, all frames at once.

Axes of every body part: x forward, y left, z up. The torso is the pelvis heading followed by a forward lean; the head
pitch is against the horizon, as a person keeps the gaze steady while the torso leans. Arms and legs are two-bone chains
solved in closed form, so each bone keeps its length to rounding. Proportions are shares of body height after
Winter, Biomechanics and Motor Control of Human Movement (segment lengths of Drillis and Contini).
"""

from dataclasses import dataclass

import numpy as np

NOSE, LEFT_EYE, RIGHT_EYE, LEFT_EAR, RIGHT_EAR = range(5)
LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_ELBOW, RIGHT_ELBOW, LEFT_WRIST, RIGHT_WRIST = range(5, 11)
LEFT_HIP, RIGHT_HIP, LEFT_KNEE, RIGHT_KNEE, LEFT_ANKLE, RIGHT_ANKLE = range(11, 17)
SIDES = (range(5, 17, 2), range(6, 17, 2))  # shoulder, elbow, wrist, hip, knee and ankle of the left, and of the right

# Tints of the wearer's capsules: rows of the colour table that the renderer is given.
SKIN, SHIRT, TROUSERS, SHOE = range(4)

SHARES = {  # of the body's height, and how far around it wearers vary
    "thigh": (0.245, 0.03), "shin": (0.246, 0.03), "ankle_height": (0.039, 0.03), "half_hips": (0.058, 0.08),
    "torso": (0.290, 0.03), "half_shoulders": (0.112, 0.06), "shoulder_drop": (0.012, 0.03), "upper_arm": (0.178, 0.03),
    "forearm": (0.152, 0.03), "neck": (0.052, 0.03), "eye_forward": (0.050, 0.03), "eye_up": (0.068, 0.03),
}  # fmt: skip

CAMERA_FROM_HEAD_AXES = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])  # OpenCV x right, y down, z forward


@dataclass(frozen=True)
class Proportions:
    """Lengths of one wearer in metres, and how the camera sits on the head."""

    height: float
    thigh: float
    shin: float
    ankle_height: float
    half_hips: float
    torso: float  # pelvis to the base of the neck
    half_shoulders: float
    shoulder_drop: float
    upper_arm: float
    forearm: float
    neck: float  # base of the neck to the pivot of the head
    eye_forward: float
    eye_up: float
    camera_pitch: float  # radians, positive looks down

    @property
    def leg(self) -> float:
        return self.thigh + self.shin

    @property
    def pelvis_height(self) -> float:
        """Standing height of the hip joints: the knees stay a little bent."""
        return 0.985 * self.leg + self.ankle_height

    @property
    def shoulder_height(self) -> float:
        return self.pelvis_height + self.torso - self.shoulder_drop

    @property
    def arm(self) -> float:
        return self.upper_arm + self.forearm

    @property
    def eye_height(self) -> float:
        return self.pelvis_height + self.torso + self.neck + self.eye_up

    @property
    def cycle_length(self) -> float:
        """Distance of one gait cycle (two steps) at a normal pace."""
        return 0.76 * self.height


def draw_proportions(rng: np.random.Generator) -> Proportions:
    """A wearer of 1.5 to 1.9 m whose segments vary by a few per cent around the average body."""
    height = float(rng.uniform(1.5, 1.9))

    drawn = {name: float(height * share * rng.uniform(1 - vary, 1 + vary)) for name, (share, vary) in SHARES.items()}
    return Proportions(height=height, camera_pitch=float(np.radians(rng.uniform(4.0, 14.0))), **drawn)


def draw_tints(rng: np.random.Generator) -> np.ndarray:
    """Colours [4, 3] RGB in 0..1 of skin, shirt, trousers and shoes."""
    skin = np.array([0.92, 0.72, 0.60]) * rng.uniform(0.35, 1.0) * rng.uniform(0.95, 1.05, 3)
    return np.clip(np.stack([skin, *(rng.uniform(0.08, 0.95, 3) for _ in range(3))]), 0, 1)


@dataclass
class BodyState:
    """What the motion programs decide, one row a frame (F rows). Angles in radians, lengths in metres."""

    root: np.ndarray  # [F, 2] pelvis above the floor plane
    heading: np.ndarray  # [F] of the pelvis, 0 along world x, positive to the left
    drop: np.ndarray  # [F] how far the pelvis is below standing height
    lean: np.ndarray  # [F] forward lean of the torso about the hips
    head_yaw: np.ndarray  # [F] relative to the heading, positive to the left
    head_pitch: np.ndarray  # [F] relative to the horizon, positive down
    hands: np.ndarray  # [F, 2, 3] left and right hand at rest, in torso axes from the shoulder
    hand_targets: np.ndarray  # [F, 2, 3] world points to touch
    hand_weights: np.ndarray  # [F, 2] 0 = at rest, 1 = at the target
    gait_phase: np.ndarray  # [F] cycles; the right foot is half a cycle behind
    gait_stride: np.ndarray  # [F, 2] half the foot's path over the ground during stance, world xy
    gait_amount: np.ndarray  # [F] 0 = feet planted, 1 = full foot lift and arm swing

    def __len__(self) -> int:
        return len(self.heading)


@dataclass(frozen=True)
class BodyTrack:
    """Joints and camera of every frame, in world metres."""

    joints: np.ndarray  # float64 [F, 17, 3]
    world_from_camera: np.ndarray  # float64 [F, 4, 4], OpenCV axes


def yaw_pitch(yaw: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """Rotations [F, 3, 3] of a part that turns left by ``yaw`` and then bends forward (down) by ``pitch``."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    zero = np.zeros_like(cy)
    rows = [[cy * cp, -sy, cy * sp], [sy * cp, cy, sy * sp], [-sp, zero, cp]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def two_bone(
    start: np.ndarray, target: np.ndarray, first: float, second: float, pole: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Middle and end joints [..., 3] of a chain that points at ``target`` and bends towards ``pole``.

    A target out of reach is pulled onto the reachable shell, so that both bones keep their exact length.
    """
    offset = target - start
    distance = np.linalg.norm(offset, axis=-1, keepdims=True)
    direction = np.where(distance > 1e-9, offset / np.maximum(distance, 1e-9), [0.0, 0.0, -1.0])
    reach = np.clip(distance, abs(first - second) + 0.05, (first + second) * 0.999)
    along = (first**2 - second**2 + reach**2) / (2 * reach)
    aside = np.sqrt(np.maximum(first**2 - along**2, 0.0))
    bend = pole - (pole * direction).sum(-1, keepdims=True) * direction
    bend = bend / np.maximum(np.linalg.norm(bend, axis=-1, keepdims=True), 1e-9)
    return start + direction * along + bend * aside, start + direction * reach


def _apply(rotation: np.ndarray, vector) -> np.ndarray:
    return np.einsum("fij,...j->f...i" if np.ndim(vector) == 1 else "fij,fj->fi", rotation, np.asarray(vector, dtype=np.float64))


def _foot(phase: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of a foot along its stride in [-1, 1] and its lift in [0, 1] at a gait phase [F] in cycles."""
    phase = phase % 1.0
    stance = 0.6
    swing = np.clip((phase - stance) / (1 - stance), 0.0, 1.0)
    smooth = swing**3 * (10 - 15 * swing + 6 * swing**2)
    forward = np.where(phase < stance, 1 - 2 * phase / stance, -1 + 2 * smooth)
    return forward, np.sin(np.pi * swing) ** 2


def solve(state: BodyState, body: Proportions) -> BodyTrack:
    """Joints, head and camera poses of all frames (forward kinematics plus two-bone inverse kinematics)."""
    frames = len(state)
    joints = np.zeros((frames, 17, 3))
    heading = yaw_pitch(state.heading, np.zeros(frames))
    torso = yaw_pitch(state.heading, state.lean)

    ankles, reach = [], np.zeros(frames)
    for side, shift in ((1.0, 0.0), (-1.0, 0.5)):
        forward, lift = _foot(state.gait_phase + shift)
        ankle = _apply(heading, [-0.02, side * body.half_hips * 0.9, 0.0])
        ankle[:, :2] += state.root + state.gait_stride * (forward * state.gait_amount)[:, None]
        heel = np.clip(-forward - 0.4, 0.0, 1.0) * np.linalg.norm(state.gait_stride, axis=1) * 0.25  # the trailing heel rises
        ankle[:, 2] = body.ankle_height + state.gait_amount * (0.08 * lift + heel)
        reach = np.maximum(reach, np.linalg.norm(state.gait_stride, axis=1) * np.abs(forward) * state.gait_amount)
        ankles.append(ankle)
    # The pelvis rides the longer leg like an inverted pendulum; the trailing heel takes part of the dip.
    ride = np.sqrt(np.maximum((0.985 * body.leg) ** 2 - (0.8 * reach) ** 2, 0.01)) + body.ankle_height
    pelvis = np.column_stack([state.root, np.maximum(ride - state.drop, 0.25)])

    neck = pelvis + _apply(torso, [0.0, 0.0, body.torso])
    for index, (shoulder, elbow, wrist, hip, knee, ankle) in enumerate(SIDES):
        side = 1.0 - 2 * index
        joints[:, hip] = pelvis + _apply(heading, [0.0, side * body.half_hips, 0.0])
        knee_pole = _apply(heading, [1.0, 0.08 * side, 0.05])
        joints[:, knee], joints[:, ankle] = two_bone(joints[:, hip], ankles[index], body.thigh, body.shin, knee_pole)
        joints[:, shoulder] = neck + _apply(torso, [0.0, side * body.half_shoulders, -body.shoulder_drop])
        forward, _ = _foot(state.gait_phase + (0.5 if index == 0 else 0.0))  # an arm swings with the opposite leg
        stride = (state.gait_stride * heading[:, :2, 0]).sum(1)
        rest = state.hands[:, index].copy()
        rest[:, 0] += 0.5 * forward * stride * state.gait_amount
        target = joints[:, shoulder] + _apply(torso, rest)
        weight = state.hand_weights[:, index, None]
        target = target * (1 - weight) + state.hand_targets[:, index] * weight
        elbow_pole = _apply(torso, [-0.7, 0.35 * side, -0.6])
        joints[:, elbow], joints[:, wrist] = two_bone(joints[:, shoulder], target, body.upper_arm, body.forearm, elbow_pole)

    head = yaw_pitch(state.heading + state.head_yaw, state.head_pitch)
    pivot = neck + _apply(torso, [0.0, 0.0, body.neck])
    place_head(joints, pivot + _apply(head, [body.eye_forward, 0.0, body.eye_up]), head)
    world_from_head = np.broadcast_to(np.eye(4), (frames, 4, 4)).copy()
    world_from_head[:, :3, :3] = head
    world_from_head[:, :3, 3] = (joints[:, LEFT_EYE] + joints[:, RIGHT_EYE]) / 2
    return BodyTrack(joints, head_camera(world_from_head, body.camera_pitch))


def place_head(joints: np.ndarray, eyes: np.ndarray, head: np.ndarray) -> None:
    """Fill nose, eyes and ears of ``joints`` [F, 17, 3] from the point between the eyes [F, 3] and head axes [F, 3, 3]."""
    joints[:, NOSE] = eyes + _apply(head, [0.025, 0.0, -0.04])
    for side, eye, ear in ((1.0, LEFT_EYE, LEFT_EAR), (-1.0, RIGHT_EYE, RIGHT_EAR)):
        joints[:, eye] = eyes + _apply(head, [0.0, 0.032 * side, 0.0])
        joints[:, ear] = eyes + _apply(head, [-0.095, 0.075 * side, -0.025])


def head_camera(world_from_head: np.ndarray, pitch: float) -> np.ndarray:
    """Camera poses [F, 4, 4] (OpenCV axes) a few centimetres in front of the eyes, tilted down by ``pitch`` radians."""
    head_from_camera = np.eye(4)
    head_from_camera[:3, :3] = yaw_pitch(np.zeros(1), np.array([pitch]))[0] @ CAMERA_FROM_HEAD_AXES.T
    head_from_camera[:3, 3] = [0.035, 0.0, 0.01]
    return world_from_head @ head_from_camera


def capsules(joints: np.ndarray, visible: np.ndarray | None = None) -> np.ndarray:
    """What the camera sees of its wearer: [F, C, 8] rows (end a, end b, radius, tint). The head is left out.

    Args:
        joints: [F, 17, 3] world metres.
        visible: [17] bool; parts whose joints are missing (motion capture) get radius 0 and stay invisible.
    """
    parts: list[tuple[np.ndarray, np.ndarray, float, int, tuple[int, ...]]] = []
    for shoulder, elbow, wrist, hip, knee, ankle in SIDES:
        forearm = joints[:, wrist] - joints[:, elbow]
        hand = forearm / np.maximum(np.linalg.norm(forearm, axis=-1, keepdims=True), 1e-6)
        parts.append((joints[:, shoulder], joints[:, elbow], 0.052, SHIRT, (shoulder, elbow)))
        parts.append((joints[:, elbow], joints[:, wrist], 0.042, SHIRT, (elbow, wrist)))
        parts.append((joints[:, wrist] + 0.02 * hand, joints[:, wrist] + 0.11 * hand, 0.042, SKIN, (elbow, wrist)))
        parts.append((joints[:, hip], joints[:, knee], 0.075, TROUSERS, (hip, knee)))
        parts.append((joints[:, knee], joints[:, ankle], 0.055, TROUSERS, (knee, ankle)))
        forward = _forward(joints)
        toe = joints[:, ankle] + 0.15 * forward - [0.0, 0.0, 0.035]
        parts.append((joints[:, ankle] - [0.0, 0.0, 0.02], toe, 0.045, SHOE, (ankle,)))
    shoulders = (joints[:, LEFT_SHOULDER] + joints[:, RIGHT_SHOULDER]) / 2
    hips = (joints[:, LEFT_HIP] + joints[:, RIGHT_HIP]) / 2
    sides = (joints[:, LEFT_SHOULDER] - joints[:, RIGHT_SHOULDER]) * 0.22
    chest = shoulders + (hips - shoulders) * 0.3
    trunk = (LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_HIP, RIGHT_HIP)
    parts.append((chest + sides, hips + sides * 0.8, 0.1, SHIRT, trunk))
    parts.append((chest - sides, hips - sides * 0.8, 0.1, SHIRT, trunk))

    out = np.zeros((len(joints), len(parts), 8))
    for row, (a, b, radius, tint, needed) in enumerate(parts):
        out[:, row, 0:3], out[:, row, 3:6], out[:, row, 7] = a, b, tint
        out[:, row, 6] = radius if visible is None or all(visible[list(needed)]) else 0.0
    return out


def _forward(joints: np.ndarray) -> np.ndarray:
    """Horizontal unit forward direction [F, 3] of the pelvis, from the line through the hips."""
    line = joints[:, LEFT_HIP] - joints[:, RIGHT_HIP]
    forward = np.stack([line[:, 1], -line[:, 0], np.zeros(len(line))], axis=1)
    return forward / np.maximum(np.linalg.norm(forward, axis=1, keepdims=True), 1e-6)
