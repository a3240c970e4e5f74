"""``egoagent data``: real Aria recordings become upright takes; check and show tell what a store holds."""

import argparse
import subprocess
import sys

import numpy as np
import pytest
from data_samples import write_take

from dataset_preprocess import command
from dataset_preprocess.extract_vrs_frames import aria_camera, upright
from internlm.data.camera import scale_camera, turn_clockwise
from internlm.data.store import Camera, TakeStore


def data_command(*words) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def recordings(shared_data):
    pytest.importorskip("projectaria_tools", reason="projectaria-tools is not installed")
    folder = shared_data / "aria_gen1"
    files = sorted(folder.glob("*/*.vrs"))
    if not files:
        pytest.skip(f"no VRS recordings in {folder}")
    return files


def fisheye(camera: Camera, points: np.ndarray) -> np.ndarray:
    """FISHEYE624 written out from its definition: points [N, 3] to pixels [N, 2]."""
    f, cx, cy, *rest = camera.params
    k, (p0, p1, s0, s1, s2, s3) = rest[:6], rest[6:]
    radius = np.hypot(points[:, 0], points[:, 1])
    theta = np.arctan2(radius, points[:, 2])
    distorted = theta * (1 + sum(c * theta ** (2 * i + 2) for i, c in enumerate(k)))
    x, y = points[:, 0] / radius * distorted, points[:, 1] / radius * distorted
    r2 = x * x + y * y
    lean = 2 * (x * p0 + y * p1)
    u = x + lean * x + r2 * p0 + s0 * r2 + s1 * r2**2
    v = y + lean * y + r2 * p1 + s2 * r2 + s3 * r2**2
    return np.stack([f * u + cx, f * v + cy], 1)


def test_recordings_become_upright_takes(recordings, tmp_path, capfd):
    assert data_command("vrs", tmp_path / "s", *recordings, "--size", 128) == 0
    store = TakeStore(tmp_path / "s")
    assert {info.name: len(store.take(info.name).frame_numbers) for info in store.infos} == {
        "adt_video": 3,
        "aea_recording": 8,
        "unit_test_aria_unit_test_timecode_sequence_calib": 4,
    }
    assert [info.frame_rate for info in store.infos] == [30, 20, 30]
    take = store.take("aea_recording")
    assert np.diff(take.labels()["timestamp_ns"]).mean() == pytest.approx(5e7, rel=1e-3)
    assert data_command("check", tmp_path / "s") == 0
    assert "3 takes (train 3), 0 with faults" in capfd.readouterr().out
    assert data_command("vrs", tmp_path / "s", *recordings, "--size", 128) == 0
    assert capfd.readouterr().out.count("exists, skipped") == 3


def test_turned_and_scaled_camera_equals_the_tool(recordings):
    from projectaria_tools.core import calibration, data_provider

    rng = np.random.default_rng(0)
    points = rng.uniform((-0.9, -0.9, 1), (0.9, 0.9, 1.2), (200, 3))
    for file in recordings:
        source = data_provider.create_vrs_data_provider(str(file)).get_device_calibration().get_camera_calib("camera-rgb")
        sensor = aria_camera(source)
        pixels = np.array([source.project_no_checks(point) for point in points])
        np.testing.assert_allclose(fisheye(sensor, points), pixels, atol=1e-9)
        turned = turn_clockwise(sensor)
        np.testing.assert_allclose(
            turned.params, calibration.rotate_camera_calib_cw90deg(source).get_projection_params(), atol=1e-12
        )
        # The upright camera's axes: x is the sensor's -y, y the sensor's x. Pixels turn with the image.
        upright_points = np.stack([-points[:, 1], points[:, 0], points[:, 2]], 1)
        expected = np.stack([sensor.height - 1 - pixels[:, 1], pixels[:, 0]], 1)
        np.testing.assert_allclose(fisheye(turned, upright_points), expected, atol=1e-9)
        small = fisheye(scale_camera(turned, 352), upright_points)
        np.testing.assert_allclose(small, (expected + 0.5) / 4 - 0.5, atol=1e-9)


def test_upright_turns_clockwise():
    sensor = np.zeros((8, 8, 3), np.uint8)
    sensor[:, :2] = 200  # the sensor's left edge is the wearer's top
    image = upright(sensor, 4)
    assert image[0].min() == 200 and image[1:].max() == 0


def test_one_bad_recording_does_not_stop_the_others(recordings, tmp_path, capfd):
    bad = tmp_path / "text.vrs"
    bad.write_text("no recording")
    assert data_command("vrs", tmp_path / "s", bad, tmp_path / "gone.vrs", recordings[0], "--size", 64) == 1
    shown = capfd.readouterr()
    assert "text.vrs: " in shown.err and "gone.vrs: does not exist" in shown.err
    assert [info.name for info in TakeStore(tmp_path / "s").infos] == ["adt_video"]
    assert data_command("vrs", tmp_path / "t", recordings[0], "--size", 2000) == 1
    assert "size 2000 exceeds the recorded 1408x1408" in capfd.readouterr().err


def test_preprocessing_needs_no_torch(tmp_path):
    write_take(tmp_path / "s")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import dataset_preprocess.command, dataset_preprocess.extract_vrs_frames\n"
        "from dataset_preprocess.check_store import check_store\n"
        f"sys.exit(check_store({str(tmp_path / 's')!r}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
