"""Ego-Exo4D body poses: the whole chain against EgoWorld's truth, and each step on files written by hand."""

import json

import numpy as np
import pytest
from data_samples import data_command_here as data_command
from egoexo_samples import body, download, extrinsics, write

from dataset_preprocess.body_pose.annotations import AUTOMATIC, MANUAL, merge, read_annotation, usual_step
from dataset_preprocess.body_pose.camera_pose import read_camera_poses
from dataset_preprocess.body_pose.filters import Filters, apply_filters
from dataset_preprocess.body_pose.upstream_json import slices
from dataset_preprocess.errors import RecordingError
from internlm.data.store import COCO_JOINTS, TakeStore
from internlm.egoworld.raw import arbitrary_world, device_camera, generate_raw
from internlm.egoworld.simulate import plan_takes, simulate_take

SIZE, SECONDS, TAKES = 32, 4.0, {"train": 1, "val": 1, "test": 0}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """(folder in the Ego-Exo4D layout, {take: (joints [F, 17, 3], visible, world_from_camera)}) of two simulated takes."""
    path = tmp_path_factory.mktemp("raw")
    generate_raw(path, TAKES, seed=5, size=SIZE, seconds=SECONDS)
    truth = {}
    options = {"seed": 5, "seconds": SECONDS, "image_stride": 1, "places": (), "motions": ()}
    plans = plan_takes(path, TAKES, camera=device_camera(np.random.default_rng(0), SIZE), **options)
    for plan in plans:
        camera = device_camera(np.random.default_rng([*plan.seed, 214]), SIZE)
        take = simulate_take(plan.seed, plan.place, camera, seconds=SECONDS, image_stride=1)
        world = arbitrary_world(take, np.random.default_rng([*plan.seed, 3]))
        joints = take.joints @ world[:3, :3].T + world[:3, 3]
        truth[plan.name] = (joints, take.visible, world @ take.world_from_camera)
    return path, truth


def in_camera(world_from_camera, points):
    return np.einsum("fji,fkj->fki", world_from_camera[:, :3, :3], points - world_from_camera[:, None, :3, 3])


# The chain


@pytest.mark.parametrize("annotations", ["automatic", "manual", "either", "merged"])
def test_the_chain_gives_back_the_truth(raw, tmp_path, annotations):
    path, truth = raw
    assert data_command("poses", path, tmp_path / "s", "--annotations", annotations) == 0
    store = TakeStore(tmp_path / "s")
    assert {(info.name, info.split) for info in store.infos} == {(name, name.split("_")[0]) for name in truth}
    for name, (joints, visible, world_from_camera) in truth.items():
        take = store.take(name)
        track, labels = take.poses(), take.labels()
        step = 3 if annotations == "manual" else 1
        assert (np.diff(track.frames) == step).all() and take.info.extra["pose_rate_hz"] == 30 / step
        assert step == 3 or len(track.frames) == len(joints)
        np.testing.assert_array_equal(track.visible, visible[track.frames])
        assert np.abs((track.joints - joints[track.frames])[track.visible]).max() < 1e-3
        np.testing.assert_array_equal(track.camera_frames, np.arange(len(joints)))
        np.testing.assert_allclose(track.world_from_camera, world_from_camera, atol=1e-9)
        assert (labels["num_views"][track.visible] == 4).all() and (labels["frames"] == track.frames).all()
        manual = labels["annotation"] == MANUAL
        assert manual.mean() == {"automatic": 0, "either": 0, "manual": 1}.get(annotations, pytest.approx(1 / 3, abs=0.01))


def test_camera_and_first_frame_coordinates(raw, tmp_path):
    path, truth = raw
    for kind in ("camera", "first"):
        assert data_command("poses", path, tmp_path / kind, "--coordinates", kind) == 0
        for name, (joints, _, world_from_camera) in truth.items():
            take = TakeStore(tmp_path / kind).take(name)
            track = take.poses()
            assert take.info.pose_space == {"camera": "camera", "first": "world"}[kind]
            cameras = world_from_camera if kind == "camera" else np.broadcast_to(world_from_camera[0], world_from_camera.shape)
            expected = in_camera(cameras, joints)[track.frames]
            assert np.abs((track.joints - expected)[track.visible]).max() < 1e-3
            if kind == "first":
                np.testing.assert_allclose(track.world_from_camera[0], np.eye(4), atol=1e-9)
                back = in_camera(track.world_from_camera, track.joints)
                assert np.abs((back - in_camera(world_from_camera, joints))[track.visible]).max() < 1e-3
    up = track.world_from_camera  # upright: the picture's down axis points down, so joints below the head have positive y
    assert (in_camera(up, track.joints)[:, 11:13, 1][track.visible[:, 11:13]] > 0.3).all()


def test_a_second_run_keeps_and_force_repeats(raw, tmp_path, capsys):
    path, truth = raw
    assert data_command("poses", path, tmp_path / "s", "--takes", next(iter(truth))) == 0
    assert len(TakeStore(tmp_path / "s")) == 1
    before = {file: file.read_bytes() for file in (tmp_path / "s").rglob("*") if file.is_file()}
    assert data_command("poses", path, tmp_path / "s") == 0
    assert all(file.read_bytes() == content for file, content in before.items()) and len(TakeStore(tmp_path / "s")) == 2
    assert data_command("poses", path, tmp_path / "s", "--force") == 0
    assert all(file.read_bytes() == content for file, content in before.items())
    with pytest.raises(RecordingError, match="'nobody' has no body annotation"):
        data_command("poses", path, tmp_path / "s", "--takes", "nobody")


# A download written by hand


def test_camera_position_and_upright_axes(tmp_path):
    download(
        tmp_path / "raw", automatic=body(range(12), lambda f: (2.0, 0.5, 1.2)), cameras=extrinsics(range(12), (1.9, 0.5, 1.3))
    )
    assert data_command("poses", tmp_path / "raw", tmp_path / "s", "--no-filters", "--coordinates", "camera") == 0
    track = TakeStore(tmp_path / "s").take("t1").poses()
    np.testing.assert_allclose(track.world_from_camera[0, :3, 3], [1.9, 0.5, 1.3], atol=1e-9)
    np.testing.assert_allclose(track.world_from_camera[0, :3, 1], [0, 0, -1], atol=1e-9)  # y is down
    np.testing.assert_allclose(track.world_from_camera[0, :3, 2], [1, 0, 0], atol=1e-9)  # z is forward
    np.testing.assert_allclose(track.joints[0, 0], [0, 0.1, 0.1], atol=1e-6)  # ahead of and below the camera


def test_gaps_and_frames_without_camera_stay_gaps(tmp_path):
    frames = [7, 10, 13, 22, 25, 28]
    download(tmp_path / "raw", manual=body(frames), cameras={**extrinsics([7, 10, 13, 25]), "22": None})
    assert data_command("poses", tmp_path / "raw", tmp_path / "s") == 0
    take = TakeStore(tmp_path / "s").take("t1")
    track = take.poses()
    assert track.frames.tolist() == frames and track.camera_frames.tolist() == [7, 10, 13, 25]
    assert take.info.extra["pose_step"] == 3 and take.info.extra["pose_rate_hz"] == 10
    facts = json.loads((tmp_path / "s/manifest/poses/t1.json").read_text())["facts"]
    assert facts["gaps"] == 1 and facts["poses_without_camera"] == 2 and facts["frames_without_extrinsics"] == 1
    assert data_command("poses", tmp_path / "raw", tmp_path / "c", "--coordinates", "camera") == 0
    assert TakeStore(tmp_path / "c").take("t1").poses().frames.tolist() == [7, 10, 13, 25]


def test_takes_that_lack_something_are_named_and_do_not_stop_the_others(tmp_path, capsys):
    root = tmp_path / "raw"
    download(root, "u1", "good", automatic=body(range(20)), cameras=extrinsics(range(20)))
    download(root, "u2", "nocamera", automatic=body(range(20)))
    download(root, "u3", "unlisted", automatic=body(range(20)), cameras=extrinsics(range(20)), listed=False)
    download(root, "u4", "noextrinsics", automatic=body(range(20)), cameras={})
    download(root, "u5", "elsewhere", automatic=body(range(20)), cameras=extrinsics(range(50, 60)))
    download(root, "u6", "aria2", automatic=body(range(20)), cameras=extrinsics(range(20)), aria="aria02")
    download(root, "u7", "manualonly", split="val", manual=body(range(0, 60, 3)), cameras=extrinsics(range(60)))
    assert data_command("poses", root, tmp_path / "s") == 0
    store = TakeStore(tmp_path / "s")
    assert [info.name for info in store.infos] == ["aria2", "good", "manualonly"]
    assert store.take("aria2").info.extra["pose_camera"] == "aria02" and store.take("manualonly").info.split == "val"
    shown = "".join(capsys.readouterr())
    for text in (
        "u3 is annotated, but takes.json does not list it",
        "has no camera poses",
        "has no extrinsics",
        "none of the 20",
    ):
        assert text in shown, text


@pytest.mark.parametrize(
    ("automatic", "cameras", "what"),
    [
        ('{"0": [{"annotation3D": {"nose": {"x": 0', {}, "is not valid JSON"),
        ("[1]", {}, "holds a JSON list"),
        ({"-1": []}, {}, "is no frame number"),
        ({"99999999": []}, {}, "is no frame number"),
        ({"0": [{"annotation3D": {"nose": {"x": 0, "y": 0}}}]}, {}, "expected metres"),
        ('{"0": [{"annotation3D": {"nose": {"x": 1e999, "y": 0, "z": 0}}}]}', {}, "expected metres"),
        ('{"0": [{"annotation3D": {"nose": {"x": NaN, "y": 0, "z": 0}}}]}', {}, "the number NaN"),
        ({"0": [{"annotation3D": {"left_wrist_1": {"x": 0, "y": 0, "z": 0}}}]}, {}, "is no COCO joint"),
        ({"0": [], "00": [], "1": {}}, {}, "expected a list of persons"),
        ({"1": body([1])["1"], "01": body([1])["1"]}, {}, "gives frame 1 twice"),
        (body(range(5)), {"0": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0]]}, "extrinsics of frame 0 are no rotation"),
        (body(range(5)), {"0": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0]]}, "extrinsics of frame 0 are no rotation"),
        (body(range(5)), {"0": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}, "expected 3 rows of 4"),
        (body(range(5)), [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "a head camera moves"),
    ],
)
def test_damaged_files_are_named_and_leave_nothing(tmp_path, capsys, automatic, cameras, what):
    download(tmp_path / "raw", automatic=automatic, cameras=cameras)
    assert data_command("poses", tmp_path / "raw", tmp_path / "s") == 1
    shown = "".join(capsys.readouterr())
    assert what in shown and "u1.json" in shown
    assert list((tmp_path / "s" / "takes").iterdir()) == []


# Merging and rate


def annotation(tmp_path, frames, source, x):
    write(tmp_path / "a.json", body(frames, lambda f: (x, 0.0, 0.0)))
    return read_annotation(tmp_path / "a.json", source)


def test_merging_by_choice(tmp_path):
    manual, automatic = annotation(tmp_path, [9, 3, 6], MANUAL, 1.0), annotation(tmp_path, [3, 4, 5], AUTOMATIC, 2.0)
    table = {"manual": [3, 6, 9], "automatic": [3, 4, 5], "either": [3, 4, 5], "merged": [3, 4, 5, 6, 9]}
    for choice, frames in table.items():
        assert merge(manual, automatic, choice).frames.tolist() == frames
    both = merge(manual, automatic, "merged")
    assert both.joints[:, 0, 0].tolist() == [1, 2, 2, 1, 1] and both.source.tolist() == [MANUAL, 1, 1, MANUAL, MANUAL]
    assert merge(manual, None, "either").frames.tolist() == [3, 6, 9] and merge(manual, None, "automatic") is None


def test_rate_comes_from_the_differences():
    assert [usual_step(np.array(f)) for f in ([4], [1, 4, 7, 16], [0, 1, 2, 9, 16, 23], range(5))] == [1, 3, 7, 1]
    assert usual_step(np.array([0, 1, 4])) == 1


# Filters


def figure(frames=40):
    rng = np.random.default_rng(0)
    one = np.zeros((17, 3))
    one[:5, 2] = 1.6
    one[5:11:2], one[6:12:2] = [[0, 0.2, 1.4], [0, 0.2, 1.1], [0, 0.2, 0.85]], [[0, -0.2, 1.4], [0, -0.2, 1.1], [0, -0.2, 0.85]]
    one[11:17:2], one[12:18:2] = [[0, 0.1, 0.9], [0, 0.1, 0.5], [0, 0.1, 0.1]], [[0, -0.1, 0.9], [0, -0.1, 0.5], [0, -0.1, 0.1]]
    joints = np.tile(one, (frames, 1, 1)) + rng.normal(size=(frames, 17, 3)) * 1e-3
    views = np.full((frames, 17), 4, np.uint8)
    return np.arange(frames), joints, np.ones((frames, 17), bool), views, np.tile([0.05, 0, 1.62], (frames, 1))


def test_a_sound_take_loses_nothing():
    frames, joints, visible, views, cameras = figure()
    kept, counts = apply_filters(Filters(), frames, joints, visible, views, cameras)
    assert kept.all() and counts == {"few_views": 0, "far_from_camera": 0, "bone_length": 0, "speed": 0}


def test_each_filter_hides_what_it_is_for():
    frames, joints, visible, views, cameras = figure()
    views[3, 9], views[4, 9] = 2, 0  # 0 = unknown: passes
    cameras[7] += [1.0, 0, 0]
    cameras[8] = np.nan  # unknown: passes
    joints[12, 10, 2] -= 0.3  # a forearm of 55 cm
    joints[20, 0, 0] += 0.8  # the nose jumps by 0.8 m and back within 1/30 s, head still
    kept, counts = apply_filters(Filters(head_distance=0.35), frames, joints, visible, views, cameras)
    expected = np.ones((40, 17), bool)
    expected[3, 9] = expected[12, 10] = expected[20, 0] = False
    expected[7] = False
    np.testing.assert_array_equal(kept, expected)
    assert counts == {"few_views": 1, "far_from_camera": 17, "bone_length": 1, "speed": 1}
    kept, counts = apply_filters(Filters(0, 0, 0, 0), frames, joints, visible, views, cameras)
    assert kept.all() and counts == {}


def test_a_gap_is_never_a_speed():
    frames, joints, visible, views, cameras = figure()
    moved = np.arange(40) >= 20
    joints[moved] += [6.0, 0, 0]
    cameras[moved] += [6.0, 0, 0]
    frames = frames + 5 * moved  # the wearer walks 6 m while nobody annotates: 30 m/s over six frames
    assert apply_filters(Filters(), frames, joints, visible, views, cameras)[0].all()
    steady = joints.copy()
    steady[10:, 9] += [0, 0, 0.8]  # a level change is not a spike; both sides of it are supported by their neighbours
    assert apply_filters(Filters(bone_ratio=0), frames, steady, visible, views, cameras)[0].all()


def test_other_units_are_refused(tmp_path):
    frames, joints, visible, views, cameras = figure()
    with pytest.raises(RecordingError, match="must be in metres"):
        apply_filters(Filters(), frames, joints * 1000, visible, views, cameras * 1000)


# The first release's fragments


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (99, []),
        (100, [(0, 100)]),
        (199, [(0, 199)]),
        (250, [(0, 100), (95, 250)]),
        (300, [(0, 100), (95, 200), (195, 300)]),
    ],
)
def test_fragments_cut_as_the_first_release_cut_them(count, expected):
    assert [(part.start, part.stop) for part in slices(count)] == expected


def test_fragments_are_written_and_read_back(tmp_path):
    frames = [*range(10, 130), *range(140, 270)]  # 250 with a gap
    cameras = extrinsics([f for f in range(300) if f != 20])
    automatic = body([*frames, 20], lambda f: (1.0 + f / 1000, 0.2, 1.1))
    download(tmp_path / "raw", automatic=automatic, manual=body([500]), cameras=cameras)
    download(tmp_path / "raw", "u2", "x_bouldering_1", automatic=body(range(200)), cameras=extrinsics(range(200)))
    download(tmp_path / "raw", "u3", "short", automatic=body(range(99)), cameras=extrinsics(range(99)))
    download(tmp_path / "raw", "u4", "manual", manual=body(range(200)), cameras=extrinsics(range(200)))
    assert data_command("poses", tmp_path / "raw", tmp_path / "f", "--upstream-json") == 0
    kept = [f for f in dict.fromkeys(map(int, automatic)) if f != 20]
    names = sorted(path.name for path in (tmp_path / "f").rglob("u*.json") if path.parent.name == "train")
    assert names == [f"u1_{kept[0]}-{kept[99]}.json", f"u1_{kept[95]}-{kept[-1]}.json"]
    second = json.loads((tmp_path / "f" / "train" / names[1]).read_text())
    assert list(map(int, second)) == kept[95:] and set(second["200"]) == {"pose", "confidence", "trajectory"}
    frame = second["200"]
    matrix = np.array(cameras["200"])
    np.testing.assert_allclose(frame["pose"][0], matrix @ [1.2, 0.2, 1.1, 1.0], atol=1e-12)
    assert frame["pose"][1] == [-1, -1, -1] and frame["trajectory"] == matrix[:, 3].tolist()
    assert frame["confidence"] == [int(name in ("nose", "left-wrist")) for name in COCO_JOINTS]

    assert data_command("poses", tmp_path / "f", tmp_path / "s", "--from-upstream-json") == 0
    assert data_command("poses", tmp_path / "f", tmp_path / "n", "--from-upstream-json", "--download", tmp_path / "raw") == 0
    assert [(info.name, info.uid) for info in TakeStore(tmp_path / "n").infos] == [("t1", "u1")]
    assert data_command("poses", tmp_path / "raw", tmp_path / "d", "--coordinates", "camera", "--no-filters") == 0
    take = TakeStore(tmp_path / "s").take("u1")
    read, direct = take.poses(), TakeStore(tmp_path / "d").take("t1").poses()
    assert take.info.pose_space == "camera" and take.info.split == "train"
    np.testing.assert_array_equal(read.frames, direct.frames)
    np.testing.assert_array_equal(read.visible, direct.visible)
    np.testing.assert_allclose(read.joints, direct.joints, atol=1e-6)


def test_fragments_that_contradict_each_other(tmp_path):
    pose = {"pose": [[0, 0, 1]] * 17, "confidence": [1] * 17, "trajectory": [0, 0, 0]}
    write(tmp_path / "f/val/u_0-1.json", {"0": pose, "1": pose})
    write(tmp_path / "f/val/u_1-2.json", {"1": {**pose, "pose": [[0, 0, 2]] * 17}, "2": pose})
    assert data_command("poses", tmp_path / "f", tmp_path / "s", "--from-upstream-json") == 1
    with pytest.raises(RecordingError, match="has no fragments"):
        data_command("poses", tmp_path / "s", tmp_path / "t", "--from-upstream-json")


def test_wearers_camera_is_taken_among_several(tmp_path):
    path = tmp_path / "c.json"
    camera = {"camera_extrinsics": extrinsics([1])}
    write(path, {"metadata": {}, "aria01": {**camera, "camera_extrinsics": {}}, "aria02": camera})
    assert read_camera_poses(path).camera == "aria01" and read_camera_poses(path, ("aria03", "aria02")).camera == "aria02"
    with pytest.raises(RecordingError, match="has no camera aria09"):
        read_camera_poses(path, ("aria09",))


def test_poses_of_a_second_wearer_are_a_take_of_its_own(tmp_path):
    root = tmp_path / "raw"
    download(root, automatic=body(range(20)), cameras=extrinsics(range(20)), aria="aria02")
    table = json.loads((root / "takes.json").read_text())
    table[0]["capture"]["cameras"].append({"cam_id": "aria01", "is_ego": True})
    write(root / "takes.json", table)
    assert data_command("poses", root, tmp_path / "s") == 0
    assert [(info.name, info.uid) for info in TakeStore(tmp_path / "s").infos] == [("t1.aria02", "u1.aria02")]
