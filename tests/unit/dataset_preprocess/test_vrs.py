"""``egoagent data vrs``: real Aria recordings become upright takes; a Digital Twin's skeleton lands on the wearer's hands."""

import struct
import subprocess
import sys

import numpy as np
import pytest
from data_samples import data_command, write_take

from dataset_preprocess.aria.adt import ADT_JOINTS, find_adt, read_adt_poses, read_skeleton, read_trajectory
from dataset_preprocess.aria.calibration import parse_calibration, read_calibration
from dataset_preprocess.aria.recording import RgbStream, check_complete, open_vrs
from dataset_preprocess.errors import RecordingError
from internlm.data.camera import project
from internlm.data.geometry import invert_rigid, transform_points
from internlm.data.store import COCO_JOINTS, TakeStore


@pytest.fixture
def recordings(shared_data):
    pytest.importorskip("projectaria_tools", reason="projectaria-tools is not installed")
    files = sorted((shared_data / "aria_gen1").glob("*/*.vrs"))
    if not files:
        pytest.skip("no VRS recordings among the sample data")
    return files


def test_recordings_become_upright_takes(recordings, tmp_path, capfd):
    assert data_command("vrs", tmp_path / "s", *recordings, "--size", 128) == 0
    store = TakeStore(tmp_path / "s")
    assert {info.name: len(store.take(info.name).frame_numbers) for info in store.infos} == {
        "adt_video": 3,
        "aea_recording": 8,
        "unit_test_aria_unit_test_timecode_sequence_calib": 4,
    }
    assert [info.frame_rate for info in store.infos] == [30, 20, 30]
    assert {info.camera.model for info in store.infos} == {"pinhole"}
    assert all(info.extra["geometry"]["orientation"].startswith("upright") for info in store.infos)
    take = store.take("aea_recording")
    assert np.diff(take.labels()["timestamp_ns"]).mean() == pytest.approx(5e7, rel=1e-3)
    assert data_command("check", tmp_path / "s") == 0
    capfd.readouterr()
    assert data_command("vrs", tmp_path / "s", *recordings, "--size", 128) == 0
    assert "3 kept" in capfd.readouterr().out


def test_frame_numbers_follow_the_cameras_own_counter(recordings):
    for file in recordings:
        stream = RgbStream(file)
        provider = open_vrs(file)
        stream_id = provider.get_stream_id_from_label("camera-rgb")
        records = [provider.get_image_data_by_index(stream_id, row)[1] for row in range(len(stream.numbers))]
        assert stream.numbers.tolist() == [record.frame_number - records[0].frame_number for record in records]
        assert stream.stamps_ns.tolist() == [record.capture_timestamp_ns for record in records]


def test_strides_lenses_and_loose_files(recordings, tmp_path):
    options = ("--size", 64, "--stride", 3, "--lens", "fisheye", "--no-pack")
    assert data_command("vrs", tmp_path / "s", recordings[1], *options) == 0
    (take,) = TakeStore(tmp_path / "s").select()
    assert take.frame_numbers.tolist() == [0, 3, 6] and take.labels()["frames"].tolist() == [0, 3, 6]
    assert take.info.camera.model == "fisheye624" and (take.path / "frames").is_dir()


def test_one_bad_recording_does_not_stop_the_others(recordings, tmp_path, capfd):
    (tmp_path / "text.vrs").write_text("no recording")
    data = recordings[0].read_bytes()
    (tmp_path / "cut.vrs").write_bytes(data[: len(data) // 2])
    bad = [tmp_path / f"{name}.vrs" for name in ("text", "gone", "cut")]
    assert data_command("vrs", tmp_path / "s", *bad, recordings[0], "--size", 64) == 1
    shown = capfd.readouterr().err
    assert "text.vrs: " in shown and "gone.vrs: does not exist" in shown and "cut.vrs: " in shown
    assert [info.name for info in TakeStore(tmp_path / "s").infos] == ["adt_video"]
    assert data_command("vrs", tmp_path / "t", recordings[0], "--size", 2000) == 1
    assert "cannot store 2000 pixels of pictures that have 1408" in capfd.readouterr().err


def test_skeleton_lands_where_the_tool_projects_it(recordings, tmp_path):
    """From raw files to pixels by projectaria-tools and scipy alone; the store's poses and camera must agree within 0.5 px."""
    from projectaria_tools.core import calibration
    from scipy.spatial.transform import Rotation, Slerp

    file = recordings[0]
    assert data_command("vrs", tmp_path / "s", file, "--adt") == 0
    assert data_command("vrs", tmp_path / "f", file, "--adt", "--lens", "fisheye", "--size", 704) == 0
    assert data_command("check", tmp_path / "s") == 0
    tool = open_vrs(file).get_device_calibration().get_camera_calib("camera-rgb")
    camera_from_device = tool.get_transform_device_camera().inverse().to_matrix()
    times, joints = read_skeleton(file.parent / "Skeleton_T.json")
    rows = np.genfromtxt(file.parent / "aria_trajectory.csv", delimiter=",", skip_header=1, usecols=range(1, 10))
    device_ns = rows[:, 0] * 1000
    turn = Slerp(device_ns, Rotation.from_quat(rows[:, [5, 6, 7, 8]]))
    half = tool.rescale(np.array([704, 704]), 0.5)
    linear = calibration.get_linear_camera_calibration(448, 448, tool.get_projection_params()[0] * 448 / 1408)
    small, large = (TakeStore(tmp_path / name).take("adt_video") for name in "sf")
    tracks, cameras = [take.poses() for take in (small, large)], [take.info.camera for take in (small, large)]
    stamps = small.labels()["timestamp_ns"]
    assert tracks[0].frames.tolist() == tracks[0].camera_frames.tolist() == [0, 1, 2]
    compared, worst = 0, 0.0
    for row, stamp in enumerate(stamps):
        moment = np.clip(stamp, device_ns[0], device_ns[-1])
        world_from_device = np.eye(4)
        world_from_device[:3, :3] = turn(moment).as_matrix()
        world_from_device[:3, 3] = [np.interp(moment, device_ns, rows[:, column]) for column in (2, 3, 4)]
        camera_from_world = camera_from_device @ np.linalg.inv(world_from_device)
        skeleton = np.stack([[np.interp(stamp, times, joints[:, j, axis]) for axis in range(3)] for j in range(51)])
        z_up = np.stack([skeleton[:, 0], -skeleton[:, 2], skeleton[:, 1]], 1)  # the twin's world has y up
        mapped = [COCO_JOINTS.index(name) for name in ADT_JOINTS]
        for model, track, camera in zip((linear, half), tracks, cameras):
            np.testing.assert_allclose(track.joints[row][mapped], z_up[list(ADT_JOINTS.values())], atol=1e-5)
            pixels, seen = project(camera, transform_points(invert_rigid(track.world_from_camera[row]), z_up))
            for joint, point in enumerate(skeleton @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]):
                expected = model.project(point) if point[2] > 0 else None  # the tool's pinhole also sees what is behind
                assert (expected is not None) == seen[joint]
                if expected is not None:
                    u, v = expected  # of the landscape picture; turned clockwise its v axis points left
                    worst = max(worst, *np.abs(pixels[joint] - (model.get_image_size()[1] - 1 - v, u)))
                    compared += 1
    assert compared > 100 and worst <= 0.5
    # The hands are in the lower half of the picture, left hand left.
    pixels, _ = project(cameras[0], transform_points(invert_rigid(tracks[0].world_from_camera[0]), tracks[0].joints[0]))
    left, right = (pixels[COCO_JOINTS.index(f"{side}-wrist")] for side in ("left", "right"))
    assert left[0] < 224 < right[0] and left[1] > 300 and right[1] > 300


def test_twin_world_is_turned_upright_and_frames_without_samples_have_no_pose(shared_data):
    folder = shared_data / "aria_gen1" / "adt"
    device = read_calibration(shared_data / "aria_gen1" / "calib_json" / "video.calib.json").device_from_camera
    times, _ = read_skeleton(folder / "Skeleton_T.json")
    stamps = np.array([times[0] - 20_000_000, times[0] + 1, times[-1] - 1, times[-1] + 10**9])
    track = read_adt_poses(find_adt(folder), np.arange(4), stamps, device)
    assert track.frames.tolist() == [1, 2]
    head, hips = track.world_from_camera[0, :3, 3], track.joints[0, COCO_JOINTS.index("left-hip")]
    assert head[2] - hips[2] > 0.4 and abs(track.joints[..., 2].min()) < 1.5  # the camera is above the hips: z is up
    assert not track.visible[:, :5].any() and track.visible[:, 5:].all()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("skeleton_aria_association.json", "{}", "has 0 skeletons that wear an Aria"),
        ("Skeleton_T.json", '{"frames": [{"timestamp_ns": 1, "joints": [[1, 2]]}]}', "frame 0 has joints"),
        ("Skeleton_T.json", '{"frames": [{}]}', "frame 0 lacks timestamp_ns or joints"),
        ("aria_trajectory.csv", "tracking_timestamp_us,tx_world_device\n1,2\n", "row 1 is no device pose"),
        ("aria_trajectory.csv", "", "has no poses"),
    ],
)
def test_damaged_ground_truth_is_named(shared_data, tmp_path, name, text, message):
    for file in ("skeleton_aria_association.json", "Skeleton_T.json", "aria_trajectory.csv"):
        (tmp_path / file).write_bytes((shared_data / "aria_gen1" / "adt" / file).read_bytes())
    (tmp_path / name).write_text(text)
    with pytest.raises(RecordingError, match=message):
        files = find_adt(tmp_path)
        read_skeleton(files.skeleton)
        read_trajectory(files.trajectory)


MAGIC, RECORD = b"VisionRe", struct.Struct("<IIiIdHBBI")


def records(data: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Description, records and index of a recording with its index in front, as they are in the samples."""
    index, description, first = struct.unpack_from("<QQQ", data, 24)
    found, place = [], first
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "little")
        found.append(data[place : place + length])
        place += length
    return data[description:index], found, data[index:first]


def recording(data: bytes, description: bytes, parts: list[bytes], *, index: bytes = b"", first: int | None = 0) -> bytes:
    """The file of these parts, the index at its end. first: what the header says, None = where the records begin."""
    chained, previous = [], len(description)
    for part in [*parts, *([index] if index else [])]:
        chained.append(part[:4] + previous.to_bytes(4, "little") + part[8:])
        previous = len(part)
    begin = 80 + len(description)
    place = begin + sum(map(len, parts)) if index else 0
    header = data[:24] + struct.pack("<QQQ", place, 80, begin if first is None else first) + data[48:76] + b"VRS1"
    return header + description + b"".join(chained)


def retagged(description: bytes, old: bytes, new: bytes) -> bytes:
    """The description with another calibration text."""
    place = description.index(b"\x0a\0\0\0calib_json") + 14
    length = int.from_bytes(description[place : place + 4], "little")
    text = description[place + 4 : place + 4 + length].replace(old, new)
    changed = description[:place] + len(text).to_bytes(4, "little") + text + description[place + 4 + length :]
    return len(changed).to_bytes(4, "little") + changed[4:]


def with_empty_index(data: bytes, description: bytes, index: bytes, parts: list[bytes]) -> bytes:
    """As a recorder leaves it that reserves room for the index in front and dies before it is written."""
    begun = (32).to_bytes(4, "little") + index[4:]
    header = data[:24] + struct.pack("<QQQ", 80 + len(description), 80, 0) + data[48:80]
    return header + description + begun + b"".join(parts)


@pytest.mark.parametrize("layout", ["first 0", "first at the description", "no index", "no index, first 0", "index cut"])
def test_recordings_of_every_layout_are_the_same_take(recordings, tmp_path, layout):
    data = recordings[0].read_bytes()
    description, parts, index = records(data)
    variants = {
        "first 0": recording(data, description, parts, index=index),
        "first at the description": recording(data, description, parts, index=index, first=80),
        "no index": recording(data, description, parts, first=None),
        "no index, first 0": recording(data, description, parts),
        "index cut": recording(data, description, parts, index=index)[:-100],
    }
    file = tmp_path / recordings[0].parent.name / recordings[0].name
    file.parent.mkdir()
    file.write_bytes(variants[layout])
    for store, source in (("s", recordings[0]), ("t", file)):
        assert data_command("vrs", tmp_path / store, source, "--size", 64, "--workers", 0) == 0
    one, two = (TakeStore(tmp_path / store).take("adt_video") for store in "st")
    assert len(one.frame_numbers) == 3 and one.info == two.info
    assert [one.read_frame(n) for n in range(3)] == [two.read_frame(n) for n in range(3)]
    assert file.read_bytes() == variants[layout], "the recording itself is left as it is"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("cut between records", ["is damaged or breaks off: of", "no whole record begins at byte", "fetch it again"]),
        ("cut", ["is damaged or breaks off: of", "no whole record begins at byte", "fetch it again"]),
        ("unclosed", ["was never closed", "power loss", "whole records; VRS's own tool", "vrs copy video.vrs --to NEW.vrs"]),
        ("empty index in front", ["was never closed", "vrs copy video.vrs --to NEW.vrs"]),
        (
            "Oatmeal",
            ["second-generation Aria glasses", "'Oatmeal'", "what is supported: first-generation", "egoagent data videos"],
        ),
        ("Eureka", ["comes from a device of class 'Eureka', not from Project Aria glasses", "what is supported"]),
        ("untagged", ["carries no calibration (file tag calib_json); its device is 'Aria'"]),
        ("no RGB", ["has no camera-rgb images: recorded with a profile without the RGB camera"]),
        ("no RGB data", ["has no camera-rgb images: recorded with a profile without the RGB camera"]),
        ("empty", ["is no VRS recording; it has 0 bytes"]),
        ("pointer", ["is no VRS recording", "git-lfs"]),
    ],
)
def test_recordings_that_cannot_be_read_say_what_they_are(recordings, tmp_path, capfd, what, words):
    data = recordings[0].read_bytes()
    description, parts, index = records(data)
    without_rgb = [part for part in parts if RECORD.unpack_from(part)[2] != 214]
    without_data = [part for part in parts if RECORD.unpack_from(part)[2::4][:2] != (214, 3)]
    variants = {
        "cut between records": data[: -len(parts[-1])],
        "cut": recording(data, description, parts, index=index)[:900_000],
        "unclosed": recording(data, description, parts)[:-50],
        "empty index in front": with_empty_index(data, description, index, parts),
        "untagged": recording(data, description.replace(b"calib_json", b"calib_text"), parts, index=index),
        "no RGB": recording(data, description, without_rgb),
        "no RGB data": recording(data, description, without_data),
        "empty": b"",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n",
    }
    if what not in variants:
        named = retagged(description, b'"DeviceClass":"Aria"', b'"DeviceClass":"' + what.encode() + b'"')
        variants[what] = recording(data, named, parts, index=index)
    file = tmp_path / "video.vrs"
    file.write_bytes(variants[what])
    assert data_command("vrs", tmp_path / "s", file, "--size", 64, "--workers", 0) == 1
    told = capfd.readouterr().err
    assert all(word in told for word in words), told


def made_up(count: int, *, index: bool, first: bool, header: int = 80, record: int = 32) -> bytes:
    """A VRS file of ``count`` records of random sizes."""
    rng = np.random.default_rng(count)
    sizes = (record + rng.integers(0, 200, count)).tolist()

    def body(size, stream, kind):
        return RECORD.pack(size, 0, stream, 1, 0.5, 1, kind, 0, 0) + bytes(size - RECORD.size)

    description = body(120, 2, 3)
    chain = b"".join(body(size, 214, 3) for size in sizes)
    place = header + len(description)
    end = RECORD.pack(record + 58, 0, 1, 2, 0.5, 1, 3, 0, 0).ljust(record, b"\0") + struct.pack("<I6xI", 1, count) + bytes(44)
    fields = struct.pack("<QIIQQQ", 1, header, record, (place + len(chain)) * index, header, place * first)
    return (MAGIC + fields).ljust(header, b"\0") + description + chain + (end if index else b"")


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("sizes", [(80, 32), (104, 40)])
def test_every_cut_of_a_recording_is_seen_and_no_whole_one_is_refused(tmp_path, first, sizes):
    file = tmp_path / "a.vrs"
    for index, count in ((True, 3), (False, 3), (True, 0), (False, 0)):
        whole = made_up(count, index=index, first=first, header=sizes[0], record=sizes[1])
        file.write_bytes(whole)
        assert check_complete(file) - {1} == ({214} if count else set())
        for cut in range(sizes[0] + 120, len(whole)) if count else ():
            file.write_bytes(whole[:cut])
            place, _ = struct.unpack_from("<QQ", whole, 24)
            try:
                check_complete(file)
            except RecordingError as error:
                assert ("was never closed" in str(error)) == (not index)
                assert not (index and cut >= place), "only the index is cut: every record is whole"
            else:
                ends = np.cumsum([sizes[0] + 120, *(sizes[1] + np.random.default_rng(count).integers(0, 200, count))])
                assert (index and cut >= place) or (not index and cut in ends)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"DeviceClassInfo": {"DeviceClass": "Oatmeal"}}, "second-generation"),
        ({"DeviceClassInfo": {"DeviceClass": "Aria Gen 2"}}, "second-generation"),
        ({"DeviceClassInfo": {}, "CameraCalibrations": [{"Label": "slam-front-left"}]}, "second-generation"),
        ({"DeviceClassInfo": {"DeviceClass": "Quest 3"}}, "device of class 'Quest 3'"),
    ],
)
def test_calibrations_of_other_devices_are_named(change, word):
    with pytest.raises(RecordingError, match=word):
        parse_calibration({"CameraCalibrations": [], **change}, "x.json")
    for fine in ("Aria", "aria", "AriaGen1", None, 3):
        with pytest.raises(RecordingError, match="describes 0 cameras called camera-rgb"):
            parse_calibration({"CameraCalibrations": [], "DeviceClassInfo": {"DeviceClass": fine}}, "x.json")


def test_preprocessing_needs_no_torch(tmp_path):
    write_take(tmp_path / "s")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import importlib; from internlm.commands.data import ACTIONS\n"
        "for module, _ in ACTIONS.values(): importlib.import_module(module)\n"
        "from dataset_preprocess.check_store import check_store\n"
        f"sys.exit(check_store({str(tmp_path / 's')!r}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
