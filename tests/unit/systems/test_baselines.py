"""Forecasters against independent oracles: published size, closed forms, known floors, no look into the future."""

import os
import signal
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from motion_samples import motion_store

from internlm.config.load import load_config
from internlm.data import motion as motion_data
from internlm.data.frames import DataError
from internlm.data.motion import Recordings, constant_velocity, zero_velocity
from internlm.eval.errors import EvalError
from internlm.eval.tasks.motion import metrics as pose_metrics
from internlm.eval.tasks.motion.forecasters import CONFIGS, make, predict
from internlm.objective.motion import Counts, pose_distance
from internlm.systems.forecaster import diffusion, pose_agent, simlpe
from internlm.systems.forecaster.config import PoseModelConfig
from internlm.systems.forecaster.pose_agent import PoseNetwork
from internlm.systems.forecaster.ridge import Ridge
from internlm.systems.forecaster.streams import WindowBatch
from internlm.systems.resolve import load_system

JOINTS = ("LeftUpLeg", "RightUpLeg", "Hips", "Neck", "LeftHand")


@pytest.fixture(autouse=True)
def one_thread():
    """Sums over several threads need not repeat to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def track(name: str, frames: int, seed: int, action: str = "walk", split: str = "train") -> motion_data.Track:
    """A swinging, walking figure: every joint moves on a sine of its own."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames)[:, None] / 30
    base = np.array([[0.1, 0, 1], [-0.1, 0, 1], [0, 0, 1], [0, 0, 1.5], [0.3, 0.2, 1.2]])
    swing = 0.1 * np.sin(2 * np.pi * (1.0 * time + rng.random((1, 5))))[..., None] * np.array([0, 1, 0])
    joints = base + swing + np.array([0, 1.0, 0]) * time[..., None] + rng.normal(size=3)
    return motion_data.Track(name, action, split, joints, np.ones((frames, 5), bool))


def data(*tracks: motion_data.Track) -> motion_data.MotionData:
    return motion_data.MotionData("made", tracks or tuple(track(f"t{i}", 70, i) for i in range(4)), JOINTS, (2,))


def test_simlpe_has_the_published_number_of_parameters():
    model = simlpe.SiMLPe(size=66, past=50, future=10)
    assert sum(p.numel() for p in model.parameters()) == 137_580


def test_dct_is_orthonormal_and_its_first_row_is_the_mean():
    basis = simlpe.dct_matrix(30)
    torch.testing.assert_close(basis @ basis.T, torch.eye(30), atol=1e-5, rtol=0)
    x = torch.randn(30)
    assert float((basis @ x)[0]) == pytest.approx(float(x.mean()) * 30**0.5, abs=1e-4)


@pytest.mark.parametrize(("past", "future"), [(30, 30), (10, 20), (20, 10)])
def test_simlpe_starts_as_zero_velocity_and_then_learns_through_all_blocks(past, future):
    model = simlpe.SiMLPe(6, past, future, blocks=3)
    x = torch.randn(2, past, 6)
    torch.testing.assert_close(model(x), x[:, -1:].expand(-1, future, -1))
    torch.nn.init.normal_(model.read_out.weight)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if n != "read_in.bias")


def test_ridge_equals_the_normal_equations_and_finds_a_linear_law():
    made = data()
    ridge = Ridge(5)
    fitted, held = motion_data.hold_out(made)
    ridge.fit(fitted, held, 10)
    windows = motion_data.windows(made, 10, 5, 1)
    x, y = ridge._inputs(windows.past), (windows.future - windows.past[:, -1:]).reshape(len(windows), -1)
    x, y = x - x.mean(0), y - y.mean(0)
    by_hand = np.linalg.solve(x.T @ x + ridge.penalty * np.eye(x.shape[1]), x.T @ y)
    np.testing.assert_allclose(ridge.weight, by_hand, atol=1e-7)
    error = pose_metrics.position_error(ridge.predict(windows.past), windows.future).mean()
    assert error < 0.5 * pose_metrics.position_error(zero_velocity(windows.past, 5), windows.future).mean()


def test_velocity_floors_by_hand():
    past = np.array([[[[0.0, 0, 0]], [[1.0, 0, 0]]]])
    assert zero_velocity(past, 2)[0, :, 0, 0].tolist() == [1, 1]
    assert constant_velocity(past, 2)[0, :, 0, 0].tolist() == [2, 3]


@pytest.mark.parametrize("spread", [0.3, 1.0, 1.7])
def test_diffusion_noise_levels_and_samples_of_a_known_distribution(spread):
    kept = diffusion.signal_share(100)
    assert kept[0] > 0.99 and kept[-1] < 1e-3 and (kept.diff() < 0).all()
    model = diffusion.DiffusionPolicy(6, 4, 5, hidden=16, layers=1, heads=2).eval()

    def best_estimate(noisy, level, _):  # E[clean | noisy] when clean offsets are normal with this spread
        kept = model.kept[level][:, None, None]
        return noisy * kept.sqrt() * spread**2 / (kept * spread**2 + 1 - kept)

    model.forward = best_estimate
    past = torch.randn(400, 4, 6)
    offsets = (model.sample(past, steps=100) - past[:, -1:]) / model.scale
    assert offsets.std().item() == pytest.approx(spread, rel=0.05) and abs(offsets.mean().item()) < 0.05 * spread


def test_diffusion_samples_are_reproducible_and_see_only_the_past():
    model = diffusion.DiffusionPolicy(6, 4, 5, hidden=16, layers=1, heads=2).eval()
    past = torch.randn(3, 4, 6)
    torch.testing.assert_close(model.sample(past, seed=1), model.sample(past, seed=1))
    assert not torch.allclose(model.sample(past, seed=1), model.sample(past, seed=2))
    noisy = torch.randn(3, 5, 6, requires_grad=True)
    model(noisy, torch.tensor([3, 50, 99]), past)[:, 2].sum().backward()
    assert noisy.grad[:, 3:].abs().sum() == 0 and noisy.grad[:, :3].abs().sum() > 0


def pose_network(**changes) -> PoseNetwork:
    torch.manual_seed(0)
    small = dict(hidden_size=32, num_layers=2, num_heads=2, mlp_multiple_of=16, init_std=0.2, num_joints=5, poses_per_step=5)
    return PoseNetwork(PoseModelConfig(**small | changes)).eval()


def test_pose_agent_starts_as_zero_velocity_and_continues_by_chunks():
    network, past = pose_network(), torch.randn(2, 10, 5, 3)
    rolled = pose_agent.roll_out(network, past, 12)
    torch.testing.assert_close(rolled, past[:, -1:].expand(-1, 12, -1, -1))
    with torch.no_grad():
        network.pose_head.layers[-1].bias.normal_(std=0.1)
    longer, shorter = pose_agent.roll_out(network, past, 15), pose_agent.roll_out(network, past, 5)
    torch.testing.assert_close(longer[:, :5], shorter)
    # The second chunk is the first one of a window that ends with the first prediction.
    torch.testing.assert_close(longer[:, 5:10], pose_agent.roll_out(network, torch.cat((past, shorter), 1), 5))


@pytest.mark.parametrize("sequence", ["causal", "block"])
@pytest.mark.parametrize(("observed", "poses"), [(1, 5), (1, 20), (3, 12)])
@torch.no_grad()
def test_pose_agent_reads_every_chunk_once(sequence, observed, poses, monkeypatch):
    """Rolled out without gradients, it is what whole passes over all chunks give."""
    network, past = pose_network(sequence=sequence, num_layers=3), torch.randn(2, 5 * observed, 5, 3)
    network.pose_head.layers[-1].weight.normal_(std=0.1)
    with torch.enable_grad():
        expected = pose_agent.roll_out(network, past, poses).detach()
    monkeypatch.setattr(network, "forward", None)
    torch.testing.assert_close(pose_agent.roll_out(network, past, poses), expected, rtol=1e-5, atol=1e-5)


def test_pose_agent_loss_reaches_every_weight_but_the_visibility():
    network = pose_network(pose_target="absolute")
    past, future = torch.randn(2, 10, 5, 3), torch.randn(2, 10, 5, 3)
    batch = WindowBatch(past, future, torch.ones(2, 10, 5, dtype=torch.bool), future, torch.zeros(2), torch.arange(2))
    pose_agent.loss(network, batch, Counts.of(batch.visible), 5.0).backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert silent == []
    with pytest.raises(ValueError, match="whole chunks"):
        pose_agent.roll_out(network, past[:, :7], 5)


def test_pose_distance_is_mpjpe_plus_step_error():
    future = torch.zeros(1, 2, 1, 3)
    prediction = torch.tensor([[[[0.03, 0.04, 0.0]], [[0.03, 0.04, 0.0]]]])
    seen = torch.ones(1, 2, 1, dtype=torch.bool)
    assert float(pose_distance(prediction, future, seen, speed_weight=3.0)) == pytest.approx(0.05 + 3 * 0.05 / 2, abs=1e-5)
    seen[0, 1] = False
    assert float(pose_distance(prediction, future, seen, speed_weight=3.0)) == pytest.approx(0.05 + 3 * 0.05, abs=1e-5)
    seen[0, 0] = False
    assert float(pose_distance(prediction, future, seen, speed_weight=3.0)) == 0


def test_the_final_training_sees_all_training_takes_and_stops_where_selection_said(tmp_path):
    recordings, notes = Recordings((str(motion_store(tmp_path / "store")),)), []
    options = dict(past=10, future=5, seed=0, steps=20)
    forecaster = make("simlpe", recordings, **options, folder=tmp_path / "one", note=notes.append)
    report, chosen = forecaster.report, load_config(tmp_path / "one" / "chosen")
    assert report["steps"] == report["selection"]["chosen_step"] and report["parameters"] > 0 and len(notes) == 10
    assert report["selection"]["chosen_step"] == min(report["selection"]["curve"], key=lambda point: point["ratio"])["step"]
    assert chosen.forecaster.takes == "fitted" and load_config(tmp_path / "one" / "final").forecaster.takes == "all"
    past = motion_data.windows(recordings.open(), 10, 5, 5).past
    again = make("simlpe", recordings, **options, folder=tmp_path / "two")
    np.testing.assert_array_equal(forecaster.forecast(past), again.forecast(past))
    trained, step = load_system(tmp_path / "one" / "final")
    assert step == report["steps"] and not np.array_equal(forecaster.forecast(past), zero_velocity(past, 5))
    np.testing.assert_array_equal(predict(trained, past), forecaster.forecast(past))
    with pytest.raises(EvalError, match="unknown"):
        make("oracle", recordings, **options, folder=tmp_path)
    with pytest.raises(EvalError, match=r"nowhere\.py does not exist"):
        make("egoagent", recordings, **options, folder=tmp_path, file=tmp_path / "nowhere.py")


def test_training_improves_and_keeps_to_its_budget(tmp_path):
    recordings = Recordings((str(motion_store(tmp_path / "store")),))
    options = dict(past=10, future=5, seed=3, overrides=["optim.lr=1e-3", "train.clip_batch=16"], file=CONFIGS / "simlpe.py")
    report = make("simlpe", recordings, **options, folder=tmp_path / "one", steps=60).report
    assert report["selection"]["held_out"]["chosen"]["ratio"] < 0.95
    stopped = make("simlpe", recordings, **options, folder=tmp_path / "two", steps=10_000, cpu_minutes=0.02).report
    assert 0 < stopped["steps"] < 1000 and stopped["selection"]["steps_planned"] == 10_000


def test_a_stopped_comparison_says_so(tmp_path):
    recordings = Recordings((str(motion_store(tmp_path / "store")),))
    stop = lambda line: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    with pytest.raises(EvalError, match="stopped by SIGINT; the same command trains this method anew"):
        make("simlpe", recordings, past=10, future=5, seed=0, steps=20, folder=tmp_path / "one", note=stop)


def test_canonical_windows_keep_distances_and_face_one_way():
    made = data()
    joints = np.stack([t.joints[:20] for t in made.tracks])
    turned = motion_data.canonical(motion_data.turned(joints, np.array([0.3, 1.0, 2.0, 3.0])), 10, made)
    np.testing.assert_allclose(turned, motion_data.canonical(joints, 10, made), atol=1e-9)
    last = turned[:, 9]
    np.testing.assert_allclose(last[:, 2], 0, atol=1e-12)
    assert (last[:, 0, 0] > last[:, 1, 0]).all() and np.allclose(last[:, 0, 1], last[:, 1, 1])
    gaps = lambda x: np.linalg.norm(x[:, :, :1] - x[:, :, 1:], axis=-1)  # noqa: E731
    np.testing.assert_allclose(gaps(turned), gaps(joints))


def test_hold_out_takes_last_takes_and_whole_actions():
    tracks = [track(f"{a}{i}", 20, i, action=a) for a in "abcd" for i in range(3)] + [track("e0", 20, 0, action="e")]
    fitted, held = motion_data.hold_out(data(*tracks))
    assert held.recordings == ["a2", "b2", "c0", "c1", "c2", "d2"]
    assert set(fitted.recordings) | set(held.recordings) == {t.name for t in tracks}
    with pytest.raises(DataError, match="too few"):
        motion_data.hold_out(data(track("one", 20, 0)))


def test_windows_count_stride_and_masks():
    seen = track("a", 25, 0)
    seen.visible[9, 4] = False  # the last observed pose of the first window lacks a joint
    windows = motion_data.windows(data(seen, track("b", 14, 1)), 10, 5, 5)
    assert len(windows) == 3 and windows.takes.tolist() == [0, 0, 0]
    assert not windows.visible[0, :, 4].any() and windows.visible[0, :, :4].all() and windows.visible[1].all()
    with pytest.raises(DataError, match="no take has the 40 frames"):
        motion_data.windows(data(seen), 20, 20, 1)


def test_mirror_swaps_sides():
    assert data().mirrored.tolist() == [1, 0, 2, 3, 4], "a left hand without a right one stays"


def test_filled_joints_hold_their_nearest_visible_position():
    joints, seen = np.arange(5.0)[:, None, None] * np.ones(3), np.array([False, True, False, False, True])[:, None]
    assert motion_data.filled(joints, seen)[:, 0, 0].tolist() == [1, 1, 1, 4, 4]


@given(st.integers(0, 12), st.integers(1, 3), st.randoms(use_true_random=False))
def test_filling_is_the_nearest_visible_frame_by_definition(frames, count, random):
    visible = np.array([[random.random() < 0.4 for _ in range(count)] for _ in range(frames)], bool).reshape(frames, count)
    joints = np.arange(frames * count * 3, dtype=np.float64).reshape(frames, count, 3)
    expected = joints.copy()
    for joint in range(count):
        seen = np.flatnonzero(visible[:, joint])
        if len(seen):
            distance = np.abs(np.arange(frames)[:, None] - seen[None])
            expected[:, joint] = joints[seen[distance.argmin(1)], joint]
    np.testing.assert_array_equal(motion_data.filled(joints, visible), expected)


def test_filling_long_recordings_needs_memory_of_their_own_size():
    joints, visible = np.zeros((5000, 2, 3)), np.random.default_rng(0).random((5000, 2)) < 0.9
    tracemalloc.start()
    motion_data.filled(joints, visible)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * joints.nbytes
