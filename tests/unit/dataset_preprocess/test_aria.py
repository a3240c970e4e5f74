"""Aria geometry against projectaria-tools on real recordings; calibrations that are damaged or another device's are named."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_preprocess.aria.calibration import CROP, RAW_SIZE, parse_calibration, read_calibration
from dataset_preprocess.aria.recording import calibration_text, open_vrs
from dataset_preprocess.aria.remap import picture_map, rays_of_pinhole
from dataset_preprocess.errors import RecordingError
from dataset_preprocess.json_input import parse_json
from internlm.data.camera import pinhole_camera, project, scale_camera, turn_clockwise
from internlm.egoworld.camera import default_camera
from internlm.egoworld.raw import device_calibration

RECORDINGS = ("adt/video", "aea/recording", "unit_test/aria_unit_test_timecode_sequence_calib")


@pytest.fixture(scope="module", params=RECORDINGS)
def recording(request, shared_data):
    """(calibration JSON file, opened recording) of one real device."""
    pytest.importorskip("projectaria_tools", reason="projectaria-tools is not installed")
    path = shared_data / "aria_gen1" / f"{request.param}.vrs"
    return shared_data / "aria_gen1" / "calib_json" / f"{path.stem}.calib.json", open_vrs(path)


def tool_camera(provider, size: int):
    camera = provider.get_device_calibration().get_camera_calib("camera-rgb")
    return camera if size == 1408 else camera.rescale(np.array([size, size]), size / 1408)


def first_image(provider, size: int = 1408) -> np.ndarray:
    import cv2

    image = provider.get_image_data_by_index(provider.get_stream_id_from_label("camera-rgb"), 0)[0].to_numpy_array()
    return image if size == 1408 else cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("size", [1408, 448])
def test_projection_and_visibility_equal_the_tool(recording, size):
    file, provider = recording
    ours, tool = scale_camera(read_calibration(file).sensor, size), tool_camera(provider, size)
    points = np.random.default_rng(0).uniform((-2, -2, 0.05), (2, 2, 1.5), (3000, 3))
    pixels, seen = project(ours, points)
    expected = [tool.project(point) for point in points]
    np.testing.assert_array_equal(seen, [pixel is not None for pixel in expected])
    assert 500 < seen.sum() < 2500
    np.testing.assert_allclose(pixels[seen], [pixel for pixel in expected if pixel is not None], rtol=0, atol=1e-6)


def test_calibration_of_a_recording_and_of_its_json_are_one(recording, tmp_path, shared_data):
    file, provider = recording
    from_json = read_calibration(file)
    from_vrs = parse_calibration(json.loads(calibration_text(provider, file)), "recording")
    assert from_json.sensor == from_vrs.sensor and from_json.serial == tool_camera(provider, 1408).get_serial_number()
    np.testing.assert_allclose(from_json.sensor.params, tool_camera(provider, 1408).get_projection_params(), rtol=0, atol=1e-9)
    tool_pose = tool_camera(provider, 1408).get_transform_device_camera().to_matrix()
    np.testing.assert_allclose(from_json.device_from_camera, tool_pose, atol=1e-9)


def test_a_turned_camera_equals_the_tools(recording):
    from projectaria_tools.core import calibration

    file, provider = recording
    expected = calibration.rotate_camera_calib_cw90deg(tool_camera(provider, 1408)).get_projection_params()
    np.testing.assert_allclose(turn_clockwise(read_calibration(file).sensor).params, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("source", "orientation"), [(448, "landscape"), (448, "upright"), (1408, "landscape")])
def test_undistorted_pictures_equal_the_tool(recording, source, orientation):
    from projectaria_tools.core import calibration

    file, provider = recording
    tool = tool_camera(provider, source)
    image = first_image(provider, source)
    focal = tool.get_projection_params()[0]
    target = calibration.get_linear_camera_calibration(source, source, focal)
    expected = np.rot90(calibration.distort_by_calibration(image, target, tool), -1).astype(int)
    lit = np.rot90(calibration.distort_by_calibration(np.full_like(image, 255), target, tool), -1)[..., 0] > 0
    pictures = picture_map(read_calibration(file), (source, source), orientation=orientation, size=source)
    result = pictures.apply(np.ascontiguousarray(np.rot90(image, -1)) if orientation == "upright" else image)
    np.testing.assert_array_equal(pictures.valid, lit)
    np.testing.assert_allclose(pictures.camera.params, pinhole_camera(source, focal).params, rtol=1e-12)
    assert 0.97 < lit.mean() < 1 and np.abs(result - expected)[lit].max() <= 1
    assert not result[~lit].any()


def test_upstream_pictures_are_the_released_ones_and_wrong_by_five_to_eight_pixels(recording):
    from projectaria_tools.core import calibration

    file, provider = recording
    raw = calibration.device_calibration_from_json_string(file.read_text()).get_camera_calib("camera-rgb")
    wrong = raw.rescale(np.array([448, 448]), 448 / raw.get_image_size()[0])
    target = calibration.get_linear_camera_calibration(448, 448, wrong.get_projection_params()[0])
    video = np.ascontiguousarray(np.rot90(first_image(provider, 448), -1))
    expected = calibration.distort_by_calibration(video, target, wrong).astype(int)
    lit = calibration.distort_by_calibration(np.full_like(video, 255), target, wrong)[..., 0] > 0
    pictures = picture_map(read_calibration(file), (448, 448), orientation="upright", size=448, lens="upstream")
    np.testing.assert_array_equal(pictures.valid, lit)
    assert np.abs(pictures.apply(video) - expected)[lit].max() <= 1
    assert pictures.camera is None
    # Where the released pinhole claims to look, and where the video really shows that direction.
    truth = turn_clockwise(scale_camera(read_calibration(file).sensor, 448))
    places, seen = project(truth, rays_of_pinhole(pinhole_camera(448, wrong.get_projection_params()[0])))
    taken = np.stack([pictures.columns, pictures.rows], -1)
    error = np.linalg.norm(places - taken, axis=-1)[seen & pictures.valid]
    assert 5 <= error.mean() <= 8.4


def test_small_pictures_of_large_recordings_are_averaged(recording):
    """Undistorting 1408 pixels to 448 directly would skip two of three pixels; the result equals that of the small video."""
    file, provider = recording
    calibration, image = read_calibration(file), first_image(provider)
    direct = picture_map(calibration, (1408, 1408), orientation="landscape", size=448)
    small = picture_map(calibration, (448, 448), orientation="landscape", size=448)
    np.testing.assert_allclose(direct.camera.params, small.camera.params, atol=1e-9)
    np.testing.assert_array_equal(direct.apply(image), small.apply(first_image(provider, 448)))


def test_a_kept_lens_is_turned_and_resized(recording):
    import cv2

    file, provider = recording
    image = first_image(provider)
    pictures = picture_map(read_calibration(file), (1408, 1408), orientation="landscape", size=352, lens="fisheye")
    expected = cv2.resize(np.rot90(image, -1).copy(), (352, 352), interpolation=cv2.INTER_AREA)
    assert np.abs(pictures.apply(image).astype(int) - expected).max() <= 1
    assert pictures.camera == scale_camera(turn_clockwise(read_calibration(file).sensor), 352)
    assert 0.75 < pictures.valid.mean() < 0.9


def test_raw_pictures_are_cropped_and_halved():
    import cv2

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)
    raw = cv2.resize(coarse, (RAW_SIZE, RAW_SIZE), interpolation=cv2.INTER_CUBIC)
    half = cv2.resize(raw[CROP:-CROP, CROP:-CROP], (1408, 1408), interpolation=cv2.INTER_AREA)
    content = device_calibration(default_camera("fisheye624", 448), "x") | {"CalibrationSource": "Factory"}
    calibration = parse_calibration(content, "device")
    results = [
        picture_map(calibration, image.shape[1::-1], orientation="landscape", size=448).apply(image).astype(int)
        for image in (raw, half)
    ]
    assert np.abs(results[0] - results[1]).max() <= 2


@pytest.mark.parametrize("shape", [(704, 704), (1408, 1056), (2880, 2160), (512, 512), (2816, 2816)])
def test_other_picture_sizes_are_refused(shape):
    content = device_calibration(default_camera("fisheye624", 448), "x")
    calibration = parse_calibration(content | {"CalibrationSource": "Factory"}, "device")
    with pytest.raises(RecordingError, match=f"take.mp4: pictures of {shape[0]}x{shape[1]} belong to no known Aria format"):
        picture_map(calibration, shape, orientation="upright", size=224, name="take.mp4")
    if shape[0] == shape[1]:  # a simulated device has pictures of any size
        assert picture_map(parse_calibration(content, "device"), shape, orientation="upright", size=224).camera.width == 224


def test_pictures_are_not_enlarged_and_must_keep_their_size():
    calibration = parse_calibration(device_calibration(default_camera("fisheye624", 448), "x"), "device")
    with pytest.raises(RecordingError, match="cannot store 512 pixels of pictures that have 448; lower the size"):
        picture_map(calibration, (448, 448), orientation="upright", size=512)
    pictures = picture_map(calibration, (448, 448), orientation="upright", size=224)
    with pytest.raises(RecordingError, match="a picture of 640x480 among pictures of 448x448"):
        pictures.apply(np.zeros((480, 640, 3), np.uint8))


def rgb(content: dict) -> dict:
    return content["CameraCalibrations"][0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.update(CameraCalibrations=[]), "describes 0 cameras called camera-rgb"),
        (lambda c: rgb(c).update(Label="camera-slam-left"), "describes 0 cameras called camera-rgb"),
        (lambda c: rgb(c).update(Projection={"Name": "Linear", "Params": [1, 2, 3, 4]}), "has the model 'Linear'"),
        (lambda c: rgb(c)["Projection"]["Params"].pop(), "expected 15 finite numbers"),
        (lambda c: rgb(c)["Projection"]["Params"].__setitem__(0, 240.0), "fit neither 2880 nor 1408 pixels"),
        (lambda c: rgb(c)["Projection"]["Params"].__setitem__(1, 316.0), "fit neither 2880 nor 1408 pixels"),
        (lambda c: rgb(c)["Projection"]["Params"].__setitem__(3, -9.0), "folds the picture"),
        (lambda c: rgb(c)["Projection"]["Params"].__setitem__(4, "x"), "expected 15 finite numbers"),
        (lambda c: rgb(c).update(T_Device_Camera=None), "no T_Device_Camera"),
        (lambda c: rgb(c)["T_Device_Camera"].update(UnitQuaternion=[0, [0, 0, 0]]), "is no rotation"),
    ],
)
def test_wrong_calibrations_are_named(tmp_path, damage, message):
    content = device_calibration(default_camera("fisheye624", 448), "x")
    damage(content)
    path = tmp_path / "aria01.calib.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RecordingError, match=message) as caught:
        read_calibration(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_calibration_are_named(tmp_path):
    for name, text, message in (
        ("cut.json", '{"CameraCalibrations": [', "is not valid JSON"),
        ("nan.json", '{"x": NaN}', "is not valid JSON"),
        ("deep.json", "[" * 100_000, "nested too deeply|not valid JSON"),
        ("list.json", "[]", "holds a JSON list, expected dict"),
        ("bytes.json", b"\xff\xfe\x00", "is not valid JSON"),
    ):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(RecordingError, match=message):
            read_calibration(path)
    with pytest.raises(RecordingError, match="gone.json: cannot be read"):
        read_calibration(tmp_path / "gone.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_fuzzed_calibrations_are_read_or_named(data):
    """Any value of a good calibration replaced by anything, or its text cut anywhere."""
    content = device_calibration(default_camera("fisheye624", 448), "x")
    paths = [
        ("CameraCalibrations",), ("CameraCalibrations", 0), *(("CameraCalibrations", 0, key) for key in rgb(content)),
        ("CameraCalibrations", 0, "Projection", "Params"), ("CameraCalibrations", 0, "Projection", "Name"),
        ("CalibrationSource",), *(("CameraCalibrations", 0, "Projection", "Params", i) for i in range(15)),
        *(("CameraCalibrations", 0, "T_Device_Camera", key) for key in ("Translation", "UnitQuaternion")),
    ]  # fmt: skip
    *front, last = data.draw(st.sampled_from(paths))
    place = content
    for key in front:
        place = place[key]
    place[last] = data.draw(JSON)
    text = json.dumps(content)
    text = text[: data.draw(st.integers(0, len(text)))] if data.draw(st.booleans()) else text
    try:
        calibration = parse_calibration(parse_json(text, dict, "fuzzed"), "fuzzed")
    except RecordingError as error:
        assert str(error).startswith("fuzzed: ")
    else:
        size = 64 if calibration.synthetic else 448
        assert picture_map(calibration, (size, size), orientation="upright", size=16).camera.width == 16
