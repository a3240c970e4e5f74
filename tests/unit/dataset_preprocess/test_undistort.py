"""``egoagent data undistort``: which videos and calibrations a download has, and what is said of those it has not."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_samples import data_command
from video_samples import write_video as write_timed

from dataset_preprocess.egoexo import read_splits, read_takes
from dataset_preprocess.errors import RecordingError
from dataset_preprocess.undistort_egovideos import FrameSettings, find_videos
from internlm.data.frames import decode
from internlm.data.store import TakeStore
from internlm.egoworld.camera import default_camera
from internlm.egoworld.raw import device_calibration

av = pytest.importorskip("av")
SIZE = 64


def write_video(path: Path, size: int = SIZE, frames: int = 12, rate: int = 30) -> None:
    """Grey frames whose left edge is bright; brightness rises by 8 a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12", "preset": "veryfast"})
        stream.width = stream.height = size
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        for number in range(frames):
            image = np.full((size, size, 3), 40 + 8 * number, np.uint8)
            image[:, : size // 4] = 230
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_calibration(path: Path, **changes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(device_calibration(default_camera("fisheye624", SIZE), serial=path.parent.name) | changes))


def entry(name: str, cameras: list[tuple[str, bool]], videos: list[str] | None = None) -> dict:
    return {
        "take_name": name,
        "take_uid": f"uid-{name}",
        "parent_task_name": "Cooking",
        "capture": {"cameras": [{"cam_id": cam, "is_ego": ego} for cam, ego in cameras]},
        "frame_aligned_videos": {cam: {} for cam in (videos if videos is not None else [cam for cam, _ in cameras])},
    }


@pytest.fixture
def download(tmp_path):
    """Four takes: one plain, one of two wearers, one without video, one without calibration."""
    root = tmp_path / "raw"
    takes = [
        entry("kitchen_1", [("cam01", False), ("aria01", True)]),
        entry("dance_2", [("aria02", True), ("aria03", True), ("aria01", False), ("gp01", True)]),
        entry("no_video_3", [("aria01", True)]),
        entry("no_calib_4", [("aria01", True)]),
    ]
    small = "frame_aligned_videos/downscaled/448"
    for name, aria in (("kitchen_1", "aria01"), ("dance_2", "aria02"), ("dance_2", "aria03"), ("no_calib_4", "aria01")):
        write_video(root / "takes" / name / small / f"{aria}_214-1.mp4")
    for name, aria in (("kitchen_1", "aria01"), ("dance_2", "aria02"), ("dance_2", "aria03"), ("no_video_3", "aria01")):
        write_calibration(root / "takes" / name / f"{aria}_noimagestreams.calib.json")
    (root / "takes.json").write_text(json.dumps(takes))
    (root / "annotations").mkdir()
    splits = {"train": ["uid-kitchen_1"], "val": ["uid-dance_2"], "test": []}
    (root / "annotations" / "splits.json").write_text(json.dumps({"split_to_take_uids": splits}))
    return root


def test_every_wearer_becomes_a_take_and_what_is_missing_is_named(download, tmp_path, capfd):
    assert data_command("undistort", download, tmp_path / "s", "--size", 32) == 1
    shown = capfd.readouterr().err
    assert "no_video_3" in shown and "aria01_214-1.mp4: does not exist; fetch the part downscaled_takes/448" in shown
    assert "neither aria01_noimagestreams.vrs nor a calibration JSON of aria01" in shown
    store = TakeStore(tmp_path / "s")
    assert {(i.name, i.uid, i.split, i.extra["aria"]) for i in store.infos} == {
        ("kitchen_1", "uid-kitchen_1", "train", "aria01"),
        ("dance_2", "uid-dance_2", "val", "aria02"),
        ("dance_2.aria03", "uid-dance_2.aria03", "val", "aria03"),
    }
    take = store.take("kitchen_1")
    assert take.frame_numbers.tolist() == [0, 5, 10] and take.info.frame_rate == 30 and take.info.labels == {"task": "Cooking"}
    image = decode(take.read_frame(10))
    assert image.shape == (32, 32, 3) and take.info.camera.width == 32
    assert image[16, 3, 0] > 200 and abs(int(image[16, 24, 0]) - 120) < 6  # still upright, and frame 10
    assert not [path for path in (tmp_path / "s" / "takes").iterdir() if path.name[0] == "."]


def test_a_second_run_does_only_what_was_missing(download, tmp_path, capfd):
    data_command("undistort", download, tmp_path / "s", "--size", 32)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s" / "takes").rglob("*.tar")}
    write_calibration(tmp_path / "calib" / "no_calib_4_aria01.calib.json")
    write_video(download / "takes/no_video_3/frame_aligned_videos/aria01_214-1.mp4")
    capfd.readouterr()
    assert data_command("undistort", download, tmp_path / "s", "--size", 32, "--calibrations", tmp_path / "calib") == 0
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "s" / "takes").rglob("*.tar")}
    assert len(after) == 5 and before.items() <= after.items()
    assert data_command("check", tmp_path / "s") == 0


def test_one_wearer_one_take_loose_files_and_the_upstream_picture(download, tmp_path):
    options = ("--takes", "uid-dance_2", "--aria", "aria03", "--stride", 4, "--no-pack", "--upstream-compat", "--size", SIZE)
    assert data_command("undistort", download, tmp_path / "s", *options) == 0
    (take,) = TakeStore(tmp_path / "s").select()
    assert take.info.name == "dance_2.aria03" and take.frame_numbers.tolist() == [0, 4, 8]
    assert (take.path / "frames" / "frame_0000004.jpg").is_file()
    assert take.info.camera is None and take.info.extra["geometry"]["lens"] == "upstream"


def test_full_size_videos_can_be_chosen(download, tmp_path):
    write_video(download / "takes/kitchen_1/frame_aligned_videos/aria01_214-1.mp4", size=128)
    sizes = {kind: find_videos(download, names=["kitchen_1"], video=kind)[0].video.parent.name for kind in ("any", "448", "full")}
    assert sizes == {"any": "448", "448": "448", "full": "frame_aligned_videos"}
    assert data_command("undistort", download, tmp_path / "s", "--takes", "kitchen_1", "--video", "full", "--size", 96) == 0
    assert TakeStore(tmp_path / "s").take("kitchen_1").info.extra["geometry"]["source_size"] == [128, 128]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda video, calib: write_video(video, rate=25), "has 25 frames/s; frame-aligned videos have 30"),
        (
            lambda video, calib: write_timed(video, size=(SIZE, SIZE), times=[20 * k for k in range(12) if k != 5]),
            "frame 5 is shown at 0.200 s, in a frame-aligned video at 0.167 s; annotations would belong to other frames",
        ),
        (lambda video, calib: video.write_bytes(video.read_bytes()[:-200]), "breaks off near frame"),
        (lambda video, calib: calib.write_text('{"CameraCalibrations": []}'), "describes 0 cameras called camera-rgb"),
        (lambda video, calib: write_calibration(calib, CalibrationSource="Factory"), "pictures of 64x64 belong to no known Aria"),
    ],
)
def test_bad_recordings_fail_alone_and_leave_nothing(download, tmp_path, capfd, make, message):
    folder = download / "takes" / "kitchen_1"
    make(folder / "frame_aligned_videos/downscaled/448/aria01_214-1.mp4", folder / "aria01_noimagestreams.calib.json")
    assert data_command("undistort", download, tmp_path / "s", "--size", 32, "--takes", "kitchen_1", "dance_2") == 1
    assert re.search(f"kitchen_1.*({message})", capfd.readouterr().err)
    assert sorted(path.name for path in (tmp_path / "s" / "takes").iterdir()) == ["dance_2", "dance_2.aria03"]


def test_a_real_recording_without_images_calibrates_its_small_video(shared_data, tmp_path):
    """The 2880-pixel calibration of a VRS file and an upright 448-pixel video of the same device, as Ego-Exo4D has them."""
    pytest.importorskip("projectaria_tools", reason="projectaria-tools is not installed")
    import cv2
    from projectaria_tools.core import calibration

    from dataset_preprocess.aria.recording import RgbStream

    vrs = shared_data / "aria_gen1" / "aea" / "recording.vrs"
    stream = RgbStream(vrs)
    small = cv2.resize(stream.image(0), (448, 448), interpolation=cv2.INTER_AREA)
    folder = tmp_path / "raw" / "takes" / "real_1"
    video = folder / "frame_aligned_videos/downscaled/448/aria01_214-1.mp4"
    video.parent.mkdir(parents=True)
    with av.open(str(video), "w") as container:
        out = container.add_stream("libx264", rate=30, options={"crf": "1", "preset": "veryfast"})
        out.width = out.height = 448
        out.pix_fmt = "yuv420p"
        container.mux(out.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(small, -1)), format="rgb24")))
        container.mux(out.encode())
    shutil.copy(vrs, folder / "aria01_noimagestreams.vrs")
    assert data_command("undistort", tmp_path / "raw", tmp_path / "s", "--quality", 100) == 0
    (take,) = TakeStore(tmp_path / "s").select()
    camera = stream.provider.get_device_calibration().get_camera_calib("camera-rgb").rescale(np.array([448, 448]), 448 / 1408)
    target = calibration.get_linear_camera_calibration(448, 448, camera.get_projection_params()[0])
    expected = np.rot90(calibration.distort_by_calibration(small, target, camera), -1).astype(float)
    image = decode(take.read_frame(0)).astype(float)
    assert np.abs(cv2.blur(image, (5, 5)) - cv2.blur(expected, (5, 5)))[20:-20, 20:-20].mean() < 2.5
    np.testing.assert_allclose(take.info.camera.params, target.get_projection_params(), rtol=1e-9)


def test_the_tree_without_a_table_and_the_table_in_its_old_place(download):
    (download / "metadata").mkdir()
    (download / "takes.json").rename(download / "metadata" / "takes.json")
    assert [take.name for take in read_takes(download)] == ["dance_2", "kitchen_1", "no_calib_4", "no_video_3"]
    assert read_takes(download)[0].wearers == ("aria02", "aria03")
    (download / "metadata" / "takes.json").unlink()
    found = {take.name: take.wearers for take in read_takes(download)}
    assert found == {"kitchen_1": ("aria01",), "dance_2": ("aria02", "aria03"), "no_video_3": (), "no_calib_4": ("aria01",)}
    shutil.rmtree(download / "takes")
    with pytest.raises(RecordingError, match="neither takes.json nor a takes folder"):
        read_takes(download)


def test_the_body_pose_split_wins(download):
    folder = download / "annotations" / "ego_pose" / "test" / "camera_pose"
    folder.mkdir(parents=True)
    (folder / "uid-kitchen_1.json").write_text("{}")
    assert read_splits(download) == {"uid-kitchen_1": "test", "uid-dance_2": "val"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds a JSON dict, expected list"),
        ([1], "take 0: is no object"),
        ([{"take_name": "x"}], "take_uid None is no text"),
        ([{"take_name": "../x", "take_uid": "u"}], "'../x' cannot be the name of a file"),
        ([entry("a", []), entry("a", [])], "lists the take 'a' twice"),
    ],
)
def test_a_bad_table_is_named(download, content, message):
    (download / "takes.json").write_text(json.dumps(content))
    with pytest.raises(RecordingError, match=message):
        read_takes(download)


def test_settings_out_of_range_and_unknown_takes_are_named(download):
    for values, message in (
        ({"size": 4}, "--size 4: must lie between"), ({"stride": 0}, "--stride 0"), ({"quality": 101}, "--quality 101"),
        ({"focal": 3.0}, "--focal 3"), ({"focal": 200.0, "lens": "fisheye"}, "only a pinhole picture"),
    ):  # fmt: skip
        with pytest.raises(RecordingError, match=message):
            FrameSettings(**values)
    with pytest.raises(RecordingError, match="has no take 'kitchen_9' among 4"):
        find_videos(download, names=["kitchen_9"])
