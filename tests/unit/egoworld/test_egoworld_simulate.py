"""Whole takes: pictures agree with poses, stores are reproducible whatever wrote them, raw layout carries the same truth."""

import hashlib
import json

import numpy as np
import pytest

from internlm.data.camera import project, unproject
from internlm.data.store import StoreError, TakeStore
from internlm.egoworld.body import LEFT_WRIST, RIGHT_WRIST
from internlm.egoworld.camera import default_camera
from internlm.egoworld.render import Renderer
from internlm.egoworld.rooms import PLACES
from internlm.egoworld.simulate import SettingsError, gaps, generate_store, plan_takes, simulate_take


@pytest.fixture(scope="module")
def take():
    return simulate_take((1, 0), "kitchen", default_camera("pinhole", 96), seconds=20, image_stride=3)


@pytest.mark.parametrize("model", ["pinhole", "fisheye624"])
def test_projected_wrist_lies_on_the_drawn_hand(model):
    camera = default_camera(model, 96)
    take = simulate_take((1, 0), "kitchen", camera, seconds=12, image_stride=2)
    white = np.zeros((4, 3))
    white[0] = (1, 0, 1)  # skin in a colour of its own
    renderer = Renderer(take.room, camera, white)
    checked = 0
    for number in take.image_frames:
        pose, joints = take.world_from_camera[number], take.joints[number]
        for wrist in (LEFT_WRIST, RIGHT_WRIST):
            local = (joints[wrist] - pose[:3, 3]) @ pose[:3, :3]
            uv, inside = project(camera, local[None])
            column, row = np.round(uv[0]).astype(int)
            if not inside[0] or not (3 < column < 92 and 3 < row < 92) or np.linalg.norm(local) < 0.25:
                continue
            _, with_body = renderer.render(pose, take.capsules[number])
            distance = with_body[row, column]
            if distance > np.linalg.norm(local) + 0.06:
                pytest.fail(f"frame {number}: at the wrist's pixel the picture shows something {distance:.2f} m away")
            checked += distance > np.linalg.norm(local) - 0.08  # nearer things may hide the wrist
    assert checked >= 5


def test_takes_are_reproducible(take):
    again = simulate_take((1, 0), "kitchen", default_camera("pinhole", 96), seconds=20, image_stride=3)
    np.testing.assert_array_equal(take.joints, again.joints)
    np.testing.assert_array_equal(next(take.images())[1], next(again.images())[1])
    other = simulate_take((1, 1), "kitchen", default_camera("pinhole", 96), seconds=2)
    assert other.about["room_seed"] != take.about["room_seed"]


def test_pictures_show_a_room(take):
    number, rgb, depth = next(take.images())
    assert number == 0 and rgb.shape == (96, 96, 3) and rgb.dtype == np.uint8 and rgb.std() > 5
    assert 0.05 < depth.min() and depth.max() < 12


def test_gaps_are_short_and_as_many_as_asked():
    lost = gaps(np.random.default_rng(0), 9000, 0.03)
    assert 0.02 < lost.mean() < 0.04
    assert not gaps(np.random.default_rng(0), 900, 0.0).any()


def _digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_store_is_the_same_whatever_wrote_it(tmp_path):
    options = dict(seed=5, size=32, seconds=3, image_stride=10)
    generate_store(tmp_path / "one", {"train": 2, "test": 1}, jobs=1, **options)
    generate_store(tmp_path / "two", {"train": 2, "test": 1}, jobs=2, **options)
    assert _digest(tmp_path / "one") == _digest(tmp_path / "two")

    store = TakeStore(tmp_path / "one")
    assert [(t.info.split, t.info.labels["place"]) for t in store.select("train")] == [("train", p) for p in PLACES[:2]]
    take = store.select("test")[0]
    np.testing.assert_array_equal(take.frame_numbers, np.arange(0, 90, 10))
    poses, labels = take.poses(), take.labels()
    np.testing.assert_array_equal(poses.frames, np.arange(90))
    np.testing.assert_array_equal(poses.camera_frames, np.arange(90))
    assert labels["action"].shape == (90,) and labels["gaze_target"].shape == (90, 3)

    more = []
    generate_store(tmp_path / "one", {"train": 3, "test": 1}, on_take=more.append, **options)
    assert len(more) == 1, "complete takes are kept"
    with pytest.raises(StoreError, match="other settings"):
        generate_store(tmp_path / "one", {"train": 3}, **{**options, "seconds": 4})


def test_no_two_takes_share_a_room(tmp_path):
    options = dict(seed=0, camera=default_camera("pinhole", 32), seconds=1, image_stride=30)
    plans = plan_takes(tmp_path, {"train": 4, "val": 3, "test": 3}, **options)
    seeds = {simulate_take(plan.seed, plan.place, plan.camera, seconds=0.2).about["room_seed"] for plan in plans}
    assert len(seeds) == len({plan.uid for plan in plans}) == 10
    with pytest.raises(SettingsError, match="split 'eval'"):
        plan_takes(tmp_path, {"eval": 1}, **options)


@pytest.mark.parametrize("kind", ["pinhole", "fisheye624"])
def test_depth_is_that_of_the_point_each_pixel_shows(tmp_path, kind):
    generate_store(tmp_path, {"val": 1}, size=32, seconds=1, image_stride=10, camera=kind, depth=True)
    take = TakeStore(tmp_path).select()[0]
    depth = take.column("depth")
    assert depth.about == {"kind": "z"} and depth.frames.tolist() == take.frame_numbers.tolist() == [0, 10, 20]
    pixels = np.stack(np.meshgrid(np.arange(32), np.arange(32)), -1)
    made = simulate_take((0, 1, 0), PLACES[0], take.info.camera, seconds=1, image_stride=10)
    for (number, _, distance), (stored_number, stored) in zip(made.images(), depth.rows, strict=True):
        assert number == stored_number and stored.max() > 500 and stored.dtype == np.uint16
        assert ((stored == 0) == (distance == 0)).all(), "no depth where the lens carries no light"
        if kind == "pinhole":
            fx, fy, cx, cy = take.info.camera.params
            points = stored[..., None] / 1000 * np.dstack([(pixels - (cx, cy)) / (fx, fy), np.ones((32, 32))])
        else:
            directions, _ = unproject(take.info.camera, pixels)
            points = stored[..., None] / 1000 * directions / np.maximum(directions[..., 2:], 1e-6)
        np.testing.assert_allclose(np.linalg.norm(points, axis=-1), distance, atol=2e-3)


# The Ego-Exo4D layout


def test_raw_layout_carries_the_same_world(tmp_path):
    av = pytest.importorskip("av")
    from internlm.egoworld.raw import device_camera, generate_raw

    generate_raw(tmp_path, {"train": 1}, seed=2, size=64, seconds=2)
    entry = json.loads((tmp_path / "takes.json").read_text())[0]
    splits = json.loads((tmp_path / "annotations" / "splits.json").read_text())
    assert splits["split_to_take_uids"]["train"] == [entry["take_uid"]]
    uid, name = entry["take_uid"], entry["take_name"]
    pose = tmp_path / "annotations" / "ego_pose" / "train"
    body = json.loads((pose / "body" / "automatic" / f"{uid}.json").read_text())
    manual = json.loads((pose / "body" / "annotation" / f"{uid}.json").read_text())
    cameras = json.loads((pose / "camera_pose" / f"{uid}.json").read_text())["aria01"]["camera_extrinsics"]
    assert len(body) == len(cameras) == 60 and set(np.diff([int(k) for k in manual])) == {3}

    camera = device_camera(np.random.default_rng([2, 0, 0, 214]), 64)
    take = simulate_take((2, 0, 0), PLACES[0], camera, seconds=2, image_stride=1)
    extrinsic = np.array(cameras["30"])
    assert extrinsic[:, 2] @ [1, 0, 0] < -0.5, "world up is -x of the sensor, which lies on its side"
    for joint, name_of in ((LEFT_WRIST, "left-wrist"), (RIGHT_WRIST, "right-wrist")):
        if take.visible[30, joint]:
            p = body["30"][0]["annotation3D"][name_of]
            x, y, z = extrinsic @ [p["x"], p["y"], p["z"], 1]
            local = (take.joints[30, joint] - take.world_from_camera[30, :3, 3]) @ take.world_from_camera[30, :3, :3]
            np.testing.assert_allclose([-y, x, z], local, atol=1e-4)  # upright x = -y, y = x of the sensor

    with av.open(str(tmp_path / "takes" / name / "frame_aligned_videos/downscaled/448/aria01_214-1.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 60
    truth = next(take.images())[1]
    assert np.abs(frames[0].astype(int) - truth).mean() < 12


def test_sensor_calibration_maps_to_the_video_by_crop_and_halve():
    """A ray through the 2880 landscape calibration, cropped by 32, halved, turned and scaled, meets the video's pixel."""
    from internlm.data.store import Camera
    from internlm.egoworld.raw import device_calibration, device_camera

    camera = device_camera(np.random.default_rng(3), 448)
    rgb = device_calibration(camera, "x")["CameraCalibrations"][0]
    assert rgb["Label"] == "camera-rgb"
    sensor = Camera("fisheye624", 2880, 2880, tuple(rgb["Projection"]["Params"]))
    points = np.random.default_rng(0).uniform([-0.7, -0.7, 1], [0.7, 0.7, 1], (200, 3))
    upright, inside = project(camera, points)
    landscape = np.stack([points[:, 1], -points[:, 0], points[:, 2]], 1)
    raw, _ = project(sensor, landscape)
    halved = (raw - 0.5 - 32) / 2  # on the 1408 landscape picture
    turned = np.stack([1407 - halved[:, 1], halved[:, 0]], 1)
    scaled = (turned + 0.5) * 448 / 1408 - 0.5
    assert inside.sum() > 100
    np.testing.assert_allclose(scaled[inside], upright[inside], atol=1e-6)
