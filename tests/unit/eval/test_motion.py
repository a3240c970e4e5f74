"""Motion errors against hand-computed cases: units, velocities, masks shared by model and floors, root-relative."""

import numpy as np
import pytest

from internlm.data.frames import DataError
from internlm.eval.tasks.motion import chunks as motion


def chunks(target, past, visible=None, past_visible=None, takes=None):
    """Chunks from [N, P, J, 3] and [N, Q, J, 3] arrays, all visible unless said."""
    target, past = np.asarray(target, float), np.asarray(past, float)
    visible = np.ones(target.shape[:3], bool) if visible is None else visible
    past_visible = np.ones(past.shape[:3], bool) if past_visible is None else past_visible
    return motion.MotionChunks(target, visible, past, past_visible, np.zeros(len(target), int) if takes is None else takes)


def walker(joints=17, poses=3, seconds=0.1, speed=0.5):
    """Every joint moves at ``speed`` m/s along x; past at -2·dt, -dt, 0 and target at dt, 2·dt, ..."""
    base = np.random.default_rng(0).normal(size=(1, 1, joints, 3))
    times = np.arange(-2, poses + 1) * seconds
    track = base + np.stack([speed * times, 0 * times, 0 * times], -1)[None, :, None]
    return track[:, 3:], track[:, :3]


def test_uniform_motion_by_hand():
    target, past = walker()
    data = chunks(target, past)
    result = motion.compare(target.copy(), data, rate=10.0)
    assert result["mpjpe_cm"] == result["mpjve_cm_s"] == 0
    # zero velocity lags 5, 10, 15 cm; its velocity is wrong by 0.5 m/s throughout
    floor = result["floors"]["zero_velocity"]
    assert floor["mpjpe_cm"] == pytest.approx(10.0)
    assert floor["mpjpe_cm_by_pose"] == pytest.approx([5.0, 10.0, 15.0])
    assert floor["mpjve_cm_s"] == pytest.approx(50.0)
    assert result["floors"]["constant_velocity"]["mpjpe_cm"] == pytest.approx(0.0, abs=1e-9)
    # without the root's motion nothing moves
    assert result["root_relative"]["floors"]["zero_velocity"]["mpjpe_cm"] == pytest.approx(0.0, abs=1e-9)


def test_a_constant_offset_costs_velocity_only_in_the_first_step():
    target, past = walker()
    result = motion.compare(target + np.array([0.0, 0.03, 0.04]), chunks(target, past), rate=30.0)
    assert result["mpjpe_cm"] == pytest.approx(5.0)
    assert result["mpjve_cm_s"] == pytest.approx(5.0 * 30 / 3)  # 150 cm/s in the first of three steps
    assert result["root_relative"]["mpjpe_cm"] == pytest.approx(0.0, abs=1e-9)


def test_masks_are_shared_and_hidden_joints_never_count():
    target, past = walker()
    visible, past_visible = np.ones(target.shape[:3], bool), np.ones(past.shape[:3], bool)
    visible[0, 1, 3] = False
    past_visible[0, -2, 5] = False  # constant velocity is unknown for joint 5
    wrong = target.copy()
    wrong[0, 1, 3] += 100.0
    wrong[0, :, 5, 2] += 1.0
    result = motion.compare(wrong, chunks(target, past, visible, past_visible), rate=10.0)
    assert result["mpjpe_cm"] == 0 and result["mpjve_cm_s"] == 0
    assert result["mpjpe_cm_all_visible"] == pytest.approx(100 * 3 / (3 * 17 - 1))
    assert result["joints_compared_share"] == pytest.approx((3 * 16 - 1) / (3 * 17 - 1))
    assert result["floors"]["zero_velocity"]["mpjpe_cm"] == pytest.approx((5 * 16 + 10 * 15 + 15 * 16) / (3 * 16 - 1))


def test_velocity_needs_both_ends():
    mask_target, past = walker()
    visible = np.ones(mask_target.shape[:3], bool)
    visible[0, 1] = False  # the middle pose is unseen: only the first step remains
    off = mask_target + np.array([0.0, 0.0, 0.01])
    result = motion.compare(off, chunks(mask_target, past, visible), rate=10.0)
    assert result["mpjve_cm_s"] == pytest.approx(10.0)
    assert result["mpjpe_cm"] == pytest.approx(1.0)


def test_mean_over_takes_weighs_takes_equally():
    target, past = walker()
    target, past = np.repeat(target, 3, 0), np.repeat(past, 3, 0)
    wrong = target.copy()
    wrong[2, ..., 2] += 0.06
    result = motion.compare(wrong, chunks(target, past, takes=np.array([4, 4, 9])), rate=10.0)
    assert result["mpjpe_cm"] == pytest.approx(2.0)
    assert result["mpjpe_cm_over_takes"] == pytest.approx(3.0)


def test_hips_unseen_and_nothing_seen():
    target, past = walker()
    visible = np.ones(target.shape[:3], bool)
    visible[..., 11] = False
    assert motion.compare(target, chunks(target, past, visible), rate=10.0)["root_relative"] is None
    with pytest.raises(ValueError, match="no joint is visible"):
        motion.compare(target, chunks(target, past, np.zeros_like(visible)), rate=10.0)
    with pytest.raises(DataError, match="two observed poses"):
        motion.constant_velocity(past[:, -1:], 2)


def test_root_relative_subtracts_the_mid_hip():
    poses = np.zeros((1, 17, 3))
    poses[0, 11], poses[0, 12], poses[0, 0] = (1, 0, 0), (3, 0, 0), (2, 0, 1.5)
    relative, seen = motion.root_relative(poses, np.ones((1, 17), bool))
    assert relative[0, 0].tolist() == [0, 0, 1.5] and relative[0, 11].tolist() == [-1, 0, 0] and seen.all()


def test_rates_may_differ_between_chunks():
    errors = motion.velocity_error(np.ones((2, 1, 1, 3)) * [0.01, 0, 0], np.zeros((2, 1, 1, 3)), np.array([30.0, 6.0]))
    assert errors.flatten().tolist() == pytest.approx([30.0, 6.0])
