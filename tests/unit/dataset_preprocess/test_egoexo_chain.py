"""A download in Ego-Exo4D's layout as one store: truth comes back through video, calibration and annotations together."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from data_samples import data_command_here as data_command
from data_samples import jpeg, picture
from PIL import Image

from internlm.config.schema import ClipConfig
from internlm.data.clips import ClipDataset
from internlm.data.store import StoreWriter, TakeInfo, TakeStore
from internlm.egoworld.raw import arbitrary_world, device_camera, generate_raw
from internlm.egoworld.simulate import plan_takes, simulate_take

SIZE, SECONDS, TAKES = 96, 2.0, {"train": 1, "val": 0, "test": 0}


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """(folder of the download, store, simulated take, room coordinates to recording coordinates [4, 4])."""
    raw, store = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("out") / "store"
    generate_raw(raw, TAKES, seed=9, size=SIZE, seconds=SECONDS)
    assert data_command("egoexo", raw, store, "--size", SIZE, "--stride", 5, "--quality", 95) == 0
    options = {"seed": 9, "seconds": SECONDS, "image_stride": 1, "places": (), "motions": ()}
    (plan,) = plan_takes(raw, TAKES, camera=device_camera(np.random.default_rng(0), SIZE), **options)
    camera = device_camera(np.random.default_rng([*plan.seed, 214]), SIZE)
    take = simulate_take(plan.seed, plan.place, camera, seconds=SECONDS, image_stride=1)
    return raw, store, take, arbitrary_world(take, np.random.default_rng([*plan.seed, 3]))


def test_frames_poses_and_lens_are_the_truth(joined):
    _, store, truth, world = joined
    (take,) = TakeStore(store).select("train")
    track = take.poses()
    assert take.frame_numbers.tolist() == list(range(0, 60, 5))
    assert track.frames.tolist() == track.camera_frames.tolist() == list(range(60))
    points = truth.joints @ world[:3, :3].T + world[:3, 3]
    assert np.abs((track.joints - points)[track.visible]).max() < 1e-3
    np.testing.assert_allclose(track.world_from_camera, world @ truth.world_from_camera, atol=1e-9)
    # The sensor that the frames were undistorted with is the simulated device's, turned on its side and at 1408 pixels.
    sensor, scale = take.info.extra["geometry"]["sensor"], 1408 / SIZE
    f, cx, cy = (value * scale for value in truth.camera.params[:3])
    shift = (scale - 1) / 2  # pixel centres lie at whole numbers
    np.testing.assert_allclose(sensor["params"][:3], [f, cy + shift, 1407 - (cx + shift)], rtol=1e-9)
    np.testing.assert_allclose(sensor["params"][3:9], truth.camera.params[3:9], rtol=1e-9)


def test_pictures_show_what_the_stored_camera_sees(joined):
    """The same room rendered through the stored pinhole, compared with the frames that went through fisheye and video."""
    _, store, truth, _ = joined
    (take,) = TakeStore(store).select("train")
    assert take.info.camera.model == "pinhole" and take.info.camera.params[0] == take.info.camera.params[1]
    rendered = {
        number: rgb for number, rgb, _ in replace(truth, camera=take.info.camera, image_frames=np.array([0, 30])).images()
    }
    for number, expected in rendered.items():
        picture = np.asarray(Image.open(io.BytesIO(take.read_frame(number))).convert("RGB")).astype(float)
        lit = picture.max(-1) > 0
        error = {name: np.abs(other - expected)[lit].mean() for name, other in variants(picture).items()}
        stored = error.pop("as stored")
        turned = [value for name, value in error.items() if "pixel" not in name]
        assert stored < min(error.values()) and stored < 0.5 * min(turned), (stored, error)


def variants(picture):
    """The picture, what it must not be, and itself a pixel aside: with a wrong lens or centre one of those would fit better."""
    shifted = {f"pixel {step} on axis {axis}": np.roll(picture, step, axis) for axis in (0, 1) for step in (-1, 1)}
    return {
        "as stored": picture,
        "turned left": np.rot90(picture),
        "turned right": np.rot90(picture, -1),
        "upside down": np.rot90(picture, 2),
        "mirrored": picture[:, ::-1],
        **shifted,
    }


def test_training_reads_clips_from_it(joined):
    _, store, _, _ = joined
    clips = ClipDataset([store], "train", ClipConfig(steps=2, frame_stride=5, pose_stride=1), 5, 17, 32)
    sample = clips.sample(0, None)
    assert sample["images"].shape == (3, 3, 32, 32) and sample["poses"].shape == (2, 5, 17, 3) and sample["visible"].mean() > 0.8


def test_a_take_without_calibration_fails_alone_and_keeps_its_poses(joined, tmp_path, capsys):
    raw, _, _, _ = joined
    import shutil

    shutil.copytree(raw, tmp_path / "raw")
    next((tmp_path / "raw" / "takes").glob("*/*.calib.json")).unlink()
    assert data_command("egoexo", tmp_path / "raw", tmp_path / "s", "--size", 32) == 1
    assert "neither aria01_noimagestreams.vrs nor a calibration JSON" in "".join(capsys.readouterr())
    (take,) = TakeStore(tmp_path / "s").select()
    assert len(take.frame_numbers) == 0 and len(take.poses().frames) == 60


def test_poses_first_or_frames_first_is_the_same_store(joined, tmp_path):
    raw, store, _, _ = joined
    options = ("--size", SIZE, "--stride", 5, "--quality", 95)
    assert data_command("poses", raw, tmp_path / "s") == 0
    assert data_command("undistort", raw, tmp_path / "s", *options) == 0
    files = {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert files == {
        path.relative_to(tmp_path / "s"): path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()
    }


def test_replace_makes_frames_and_poses_anew_and_keeps_both(joined, tmp_path, capsys):
    raw, store, _, _ = joined
    (name,) = [info.name for info in TakeStore(store).infos]
    StoreWriter(tmp_path / "s").add_take(TakeInfo(name, name, "train", 5.0, source="video"), [(0, jpeg(picture(1)))])
    options = ("--size", SIZE, "--stride", 5, "--quality", 95)
    assert data_command("egoexo", raw, tmp_path / "s", *options) == 1
    assert "has uid" in (told := "".join(capsys.readouterr())) and "--replace" in told, told
    assert data_command("egoexo", raw, tmp_path / "s", *options, "--replace") == 0
    files = {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert files == {p.relative_to(tmp_path / "s"): p.read_bytes() for p in (tmp_path / "s").rglob("*") if p.is_file()}


def test_uid_and_name_are_joined_through_takes_json(joined):
    raw, store, _, _ = joined
    (entry,) = json.loads((raw / "takes.json").read_text())
    (info,) = TakeStore(store).infos
    assert (info.name, info.uid) == (entry["take_name"], entry["take_uid"])
