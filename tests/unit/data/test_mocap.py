"""Recorded motion: readers against independent kinematics and real files, complaints that name file and line."""

import re

import numpy as np
import pytest
from motion_samples import bvh_text
from scipy.spatial.transform import Rotation

from internlm.data.mocap import MocapError, read_motions
from internlm.data.mocap.archive import BVH_JOINTS
from internlm.data.mocap.asf_amc import forward_kinematics, parse_amc, read_asf
from internlm.data.mocap.motion import resample
from internlm.data.skeleton import BONES
from internlm.data.store import TakeStore
from internlm.egoworld.place_motion import PlacementError, fit, label_actions, longest_run
from internlm.egoworld.rooms import make_room
from internlm.egoworld.sight import inside_solid
from internlm.egoworld.simulate import generate_store

LIMBS = BONES[:8]


def test_bvh_of_a_known_figure(tmp_path):
    path = tmp_path / "figure.bvh"
    path.write_text(bvh_text(9))
    (motion,) = read_motions(path)
    assert len(motion) == 3, "120 Hz to 30 Hz"
    assert motion.visible.all(), "a recorded head orientation gives the face"
    lengths = [np.linalg.norm(motion.joints[0, a] - motion.joints[0, b]) for a, b in LIMBS]
    np.testing.assert_allclose(lengths, [0.30, 0.25, 0.30, 0.25, 0.42, 0.41, 0.42, 0.41], atol=1e-9)
    np.testing.assert_allclose(motion.joints[1, 11] - motion.joints[0, 11], [0.04, 0, 0], atol=1e-9)  # 1 cm a frame at 120 Hz
    # BVH faces +z with left +x; z up turns that into facing -y
    np.testing.assert_allclose(motion.world_from_head[0, :3, 0], [0, -1, 0], atol=1e-9)
    np.testing.assert_allclose(motion.world_from_head[0, :3, 2], [0, 0, 1], atol=1e-9)
    assert 0.03 < motion.joints[0, 15, 2] < 0.09, "ankles stand just above the floor"


def test_bvh_turns_to_the_left_about_the_vertical(tmp_path):
    path = tmp_path / "turned.bvh"
    path.write_text(bvh_text(4, yaw=90.0))
    np.testing.assert_allclose(read_motions(path)[0].world_from_head[0, :3, 0], [1, 0, 0], atol=1e-9)


def test_other_frame_rates_are_interpolated(tmp_path):
    path = tmp_path / "fifty.bvh"
    path.write_text(bvh_text(51, rate=50.0))
    (motion,) = read_motions(path)
    assert len(motion) == 31
    steps = np.diff(motion.joints[:, 11, 0])
    np.testing.assert_allclose(steps, 0.01 * 50 / 30, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "line", "what"),
    [
        (lambda t: t.replace("HIERARCHY", "HIER", 1), 1, "starts with HIERARCHY"),
        (lambda t: t.replace("OFFSET 0 -42 0", "OFFSET 0 x 0", 1), None, "expected numbers"),
        (lambda t: t.replace("CHANNELS 6", "CHANNELS 5", 1), 5, "CHANNELS"),
        (lambda t: t.replace("Frames: 8", "Frames: 9"), None, "ends where frame 9 of 9"),
        (lambda t: t.replace("Frames: 8", "Frames: 7"), None, "more rows"),
        (lambda t: t.replace("Frames: 8", "Frames: ²"), None, "expected 'Frames: <count>'"),
        (lambda t: t.replace("Frames: 8", "Frames: " + "9" * 5000), None, "expected 'Frames: <count>'"),
        (lambda t: t.replace("CHANNELS 3", "CHANNELS ³", 1), None, "CHANNELS"),
        (lambda t: t.replace("Frame Time: 0.0083333", "Frame Time: 0"), None, "not plausible"),
        (lambda t: t.replace("Frame Time: 0.0083333", "Frame Time: 8.3333"), None, "not plausible"),  # milliseconds
        (lambda t: t.replace("MOTION", t.partition("MOTION")[0].replace("HIERARCHY", "") + "MOTION"), None, "second skeleton"),
        (lambda t: t.replace("JOINT Head", "JOINT Kopf"), None, "known name for head; it has Hips, LeftUpLeg"),
        (lambda t: t.rsplit(" ", 1)[0] + "\n", None, "expected"),
        (lambda t: "", 1, "file ends"),
    ],
)
def test_malformed_bvh_names_file_and_line(tmp_path, change, line, what):
    path = tmp_path / "broken.bvh"
    path.write_text(change(bvh_text(8)))
    with pytest.raises(MocapError, match=re.escape(what)) as error:
        read_motions(path)
    assert str(path) in str(error.value)
    assert re.search(rf"line {line or '[0-9]+'}\b", str(error.value))


# npz


def npz(path, **changes):
    names = [*BVH_JOINTS.values(), "Head", "Neck"]
    rng = np.random.default_rng(0)
    pos = rng.uniform(0, 1, (30, len(names), 3))
    pos[:, names.index("Head"), 1] += 2
    data = dict(
        names=np.array(["train/a", "test/b"]),
        lengths=np.array([10, 20]),
        pos_m=pos,
        joint_names=np.array(names),
        fps=30.0,
        up="y",
    )
    np.savez(path, **{key: value for key, value in {**data, **changes}.items() if value is not None})
    return pos, names


def test_npz_splits_and_axes(tmp_path):
    pos, names = npz(tmp_path / "m.npz")
    both = read_motions(tmp_path / "m.npz")
    assert [(m.name, m.split, len(m)) for m in both] == [("a", "train", 10), ("b", "test", 20)]
    assert [m.name for m in read_motions(tmp_path / "m.npz", "test")] == ["b"]
    assert not both[0].visible[:, :5].any() and both[0].visible[:, 5:].all(), "no face points were recorded"
    got, raw = both[1].joints[:, 9], pos[10:, names.index("LeftHand")]
    np.testing.assert_allclose(np.diff(got, axis=0), np.diff(np.stack([raw[:, 0], -raw[:, 2], raw[:, 1]], 1), axis=0), atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"pos_m": None}, "lacks pos_m"),
        ({"lengths": np.array([10, 19])}, "lengths sum to 29"),
        ({"lengths": np.array([-1, 31])}, "not one positive count"),
        ({"joint_names": np.array(["x"])}, "expected"),
        ({"pos_m": np.full((30, 14, 3), np.nan)}, "not finite"),
        ({"up": "x"}, "up is 'x'"),
    ],
)
def test_malformed_npz(tmp_path, changes, what):
    npz(tmp_path / "m.npz", **changes)
    with pytest.raises(MocapError, match=what):
        read_motions(tmp_path / "m.npz")


def test_files_that_cannot_be_motions(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK not a zip")
    (tmp_path / "x.amc").write_text("1\nroot 0\n")
    for name, what in (
        ("x.npz", "cannot be read"),
        ("x.txt", "unknown kind"),
        ("none.bvh", "no such file"),
        ("x.amc", "needs its skeleton"),
    ):
        with pytest.raises(MocapError, match=what):
            read_motions(tmp_path / name)


# Real recordings


def test_amc_against_independent_kinematics(shared_data):
    skeleton = read_asf(shared_data / "cmu_amc" / "02.asf")
    values = parse_amc(shared_data / "cmu_amc" / "02_01.amc", skeleton)[:200:50]
    ends, _ = forward_kinematics(skeleton, values)
    for frame, row in enumerate(values):
        position = {"root": row[:3]}
        turn = {"root": Rotation.from_euler("xyz", row[3:6], degrees=True)}
        column = 6
        for name, bone in skeleton.bones.items():
            angles = dict(zip(bone.freedoms, row[column : column + len(bone.freedoms)]))
            column += len(bone.freedoms)
            frame_of = Rotation.from_euler("xyz", bone.axis[1], degrees=True)
            own = Rotation.from_euler("xyz", [angles.get(axis, 0.0) for axis in "xyz"], degrees=True)
            turn[name] = turn[bone.parent] * frame_of * own * frame_of.inv()
            position[name] = position[bone.parent] + turn[name].apply(bone.direction * bone.length)
            np.testing.assert_allclose(ends[name][frame], position[name], atol=1e-9)


@pytest.mark.parametrize("file", ["cmu_amc/01_01.bvh", "cmu_amc/02_01.amc", "cmu_amc/02_02.amc", "cmu_mocap/cmu8_30hz.npz"])
def test_real_recordings_are_human(shared_data, file):
    motions = read_motions(shared_data / file)
    for motion in motions:
        for a, b in LIMBS:
            lengths = np.linalg.norm(motion.joints[:, a] - motion.joints[:, b], axis=-1)
            assert lengths.std() < 2e-3 and 0.15 < lengths.mean() < 0.5
        hips = motion.joints[:, 11:13].mean(1)
        assert 0.3 < hips[:, 2].mean() < 1.3
        rotation = motion.world_from_head[:, :3, :3]
        np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.broadcast_to(np.eye(3), rotation.shape), atol=1e-6)
        assert np.linalg.det(rotation).min() > 0.99
        assert (rotation[:, 2, 2] > 0).mean() > 0.9, "heads are upright"


def test_walkers_look_where_they_go(shared_data):
    for motion in [*read_motions(shared_data / "cmu_amc/02_01.amc"), *read_motions(shared_data / "cmu_mocap/cmu8_30hz.npz")]:
        if "02_01" in motion.name or motion.name.startswith("walking/"):
            way = np.gradient(motion.joints[:, 11:13, :2].mean(1), axis=0) * 30
            fast = np.linalg.norm(way, axis=1) > 0.6
            ahead = (way * motion.world_from_head[:, :2, 0]).sum(1) / np.linalg.norm(way, axis=1)
            assert ahead[fast].mean() > 0.8, motion.name


def test_npz_counts(shared_data):
    motions = read_motions(shared_data / "cmu_mocap/cmu8_30hz.npz")
    assert len(motions) == 96 and sum(map(len, motions)) == 17004
    assert len(read_motions(shared_data / "cmu_mocap/cmu8_30hz.npz", "test")) == sum(m.split == "test" for m in motions)


# In a room


def test_motion_is_placed_on_free_floor(tmp_path):
    (tmp_path / "walk.bvh").write_text(bvh_text(241))
    (motion,) = read_motions(tmp_path / "walk.bvh")
    room = make_room(np.random.default_rng(0), "gym")
    placed = fit(motion, room, 900, np.random.default_rng(1))
    assert 30 <= len(placed) <= len(motion)
    assert room.is_free(placed.joints[:, 11:13, :2].mean(1), 0.19).all()
    assert not inside_solid(room, placed.world_from_head[:, :3, 3], 0.04).any()
    np.testing.assert_allclose(np.ptp(placed.joints[:, 11, 2]), 0, atol=1e-9)
    assert set(label_actions(placed)) <= set(range(8))
    with pytest.raises(PlacementError, match="gym"):
        fit(motion.cut(0, 5), room, 900, np.random.default_rng(1))


def test_longest_run():
    assert longest_run(np.array([0, 1, 1, 0, 1, 1, 1, 0], bool), 99) == (4, 7)
    assert longest_run(np.array([0, 1, 1, 0, 1, 1, 1, 0], bool), 2) == (4, 6)
    assert longest_run(np.zeros(3, bool), 9) == (0, 0)


def test_store_of_recorded_motion(tmp_path):
    (tmp_path / "walk.bvh").write_text(bvh_text(241))
    generate_store(tmp_path / "store", {"train": 1}, size=32, image_stride=10, motions=read_motions(tmp_path / "walk.bvh"))
    take = TakeStore(tmp_path / "store").select("train")[0]
    poses = take.poses()
    assert take.info.extra["motion"] == "walk" and len(poses.frames) == len(poses.camera_frames) >= 30
    assert "gaze_target" not in take.labels(), "gaze is not recorded, so it is not invented"


def test_resample_keeps_exact_frames():
    values = np.arange(12.0)[:, None]
    np.testing.assert_array_equal(resample(values, 120.0)[:, 0], [0, 4, 8])
    np.testing.assert_array_equal(resample(values, 30.0), values)
