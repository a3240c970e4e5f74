"""The wearer's body: constant bones, feet on the ground, a head camera that sits on the face."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internlm.data.skeleton import BONES
from internlm.egoworld.body import BodyState, capsules, draw_proportions, solve, two_bone, yaw_pitch


def random_state(rng: np.random.Generator, frames: int) -> BodyState:
    """Any state at all, far beyond what programs do."""
    return BodyState(
        root=rng.uniform(-3, 3, (frames, 2)),
        heading=rng.uniform(-4, 4, frames),
        drop=rng.uniform(0, 0.5, frames),
        lean=rng.uniform(-0.2, 0.7, frames),
        head_yaw=rng.uniform(-1.3, 1.3, frames),
        head_pitch=rng.uniform(-0.6, 1, frames),
        hands=rng.uniform(-0.7, 0.7, (frames, 2, 3)),
        hand_targets=rng.uniform(-3, 3, (frames, 2, 3)),
        hand_weights=rng.uniform(0, 1, (frames, 2)),
        gait_phase=rng.uniform(0, 9, frames),
        gait_stride=rng.uniform(-0.4, 0.4, (frames, 2)),
        gait_amount=rng.uniform(0, 1, frames),
    )


def standing(frames: int = 1, **changes) -> BodyState:
    zero = np.zeros(frames)
    values = {
        "root": np.zeros((frames, 2)), "heading": zero, "drop": zero, "lean": zero, "head_yaw": zero, "head_pitch": zero,
        "hands": np.broadcast_to([0.1, 0.0, -0.5], (frames, 2, 3)).copy(), "hand_targets": np.zeros((frames, 2, 3)),
        "hand_weights": np.zeros((frames, 2)), "gait_phase": zero, "gait_stride": np.zeros((frames, 2)), "gait_amount": zero,
    }  # fmt: skip
    return BodyState(**{**values, **changes})


@pytest.mark.parametrize("seed", range(5))
def test_bones_keep_their_length(seed):
    rng = np.random.default_rng(seed)
    joints = solve(random_state(rng, 400), draw_proportions(rng)).joints
    for a, b in (*BONES, (1, 2)):  # and between the eyes
        lengths = np.linalg.norm(joints[:, a] - joints[:, b], axis=-1)
        assert np.ptp(lengths) < 1e-9, (a, b)


def test_standing_body_has_human_measures():
    body = draw_proportions(np.random.default_rng(3))
    joints = solve(standing(), body).joints[0]
    assert 1.5 <= body.height <= 1.9
    assert joints[1, 2] == pytest.approx(0.93 * body.height, rel=0.04)  # eyes
    assert joints[[15, 16], 2] == pytest.approx(body.ankle_height, abs=0.01)
    assert joints[1, 1] > 0 > joints[2, 1], "left is +y when facing +x"
    assert joints[[13, 14], 0].min() > joints[[11, 12], 0].max() - 1e-6, "knees bend forward"


def test_face_is_rigid_in_the_head_camera():
    rng = np.random.default_rng(0)
    track = solve(random_state(rng, 50), draw_proportions(rng))
    camera_from_world = np.linalg.inv(track.world_from_camera)
    face = np.einsum("fij,fkj->fki", camera_from_world[:, :3, :3], track.joints[:, :5]) + camera_from_world[:, None, :3, 3]
    assert np.ptp(face, axis=0).max() < 1e-9
    assert face[0, 1, 0] < 0 < face[0, 2, 0], "the left eye is on the left of the picture"
    assert (face[0, 3:5, 2] < 0).all(), "ears are behind the camera"


def test_camera_is_upright_and_looks_ahead_and_a_little_down():
    body = draw_proportions(np.random.default_rng(1))
    pose = solve(standing(heading=np.array([0.7])), body).world_from_camera[0]
    right, down, forward = pose[:3, :3].T
    assert forward @ [np.cos(0.7), np.sin(0.7), 0] == pytest.approx(np.cos(body.camera_pitch))
    assert forward[2] == pytest.approx(-np.sin(body.camera_pitch))
    assert down[2] < -0.9 and abs(right[2]) < 1e-9


def test_hand_meets_a_target_in_reach():
    body = draw_proportions(np.random.default_rng(2))
    target = np.array([0.35, -0.2, body.shoulder_height - 0.1])
    targets = np.stack([np.zeros(3), target])[None]
    joints = solve(standing(hand_targets=targets, hand_weights=np.array([[0.0, 1.0]])), body).joints[0]
    np.testing.assert_allclose(joints[10], target, atol=1e-9)


@given(st.lists(st.floats(-2, 2), min_size=6, max_size=6), st.floats(0.1, 0.6), st.floats(0.1, 0.6))
@settings(max_examples=100, deadline=None)
def test_two_bone_chain(numbers, first, second):
    start, target = np.array(numbers[:3]), np.array(numbers[3:])
    middle, end = two_bone(start[None], target[None], first, second, np.array([[0.3, 0.5, -0.81]]))
    assert np.linalg.norm(end - start) <= first + second + 1e-9
    assert np.linalg.norm(middle - start) == pytest.approx(first, abs=1e-6) or np.linalg.norm(target - start) < 1e-6
    distance = np.linalg.norm(target - start)
    if abs(first - second) + 0.06 < distance < 0.99 * (first + second):
        np.testing.assert_allclose(end[0], target, atol=1e-9)


def test_capsules_follow_the_joints_and_hide_what_was_not_recorded():
    rng = np.random.default_rng(4)
    joints = solve(random_state(rng, 6), draw_proportions(rng)).joints
    visible = np.ones(17, bool)
    rows = capsules(joints, visible)
    assert rows.shape[0] == 6 and rows.shape[2] == 8 and (rows[..., 6] > 0).all()
    np.testing.assert_allclose(rows[:, 1, 0:3], joints[:, 7])  # left forearm runs from the elbow
    np.testing.assert_allclose(rows[:, 1, 3:6], joints[:, 9])
    visible[9] = False
    assert capsules(joints, visible)[0, 1, 6] == 0


def test_yaw_pitch_turns_left_and_down():
    rotation = yaw_pitch(np.array([np.pi / 2]), np.array([0.3]))[0]
    np.testing.assert_allclose(rotation @ [1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], atol=1e-12)
