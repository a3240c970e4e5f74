"""``egoagent data check``: what is damaged, missing or cannot be a wearer's motion is found and named."""

import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_samples import data_command, jpeg, picture, turning_camera, write_take
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_samples import array_header

from dataset_preprocess.manifest import Entry, Manifest
from internlm import cli
from internlm.data.store import Camera, PoseTrack, StoreWriter, TakeInfo


def standing(frames: int = 60) -> np.ndarray:
    """World joints [N, 17, 3] of somebody 1.7 m tall who walks with turning_camera: the camera between the eyes."""
    offsets = np.array(
        [[0.02, 0, 0]] + [[0.0, y, 0.03] for y in (0.03, -0.03)] + [[-0.05, y, 0] for y in (0.07, -0.07)]
        + [[-0.05, y, z] for z in (-0.2, -0.5, -0.75) for y in (0.2, -0.2)]
        + [[-0.05, y, z] for z in (-0.7, -1.1, -1.5) for y in (0.1, -0.1)]
    )  # fmt: skip
    return (turning_camera(np.arange(frames))[:, None, :3, 3] + offsets).astype(np.float32)


def write_person(path: Path, name: str = "person", joints: np.ndarray | None = None, **other) -> None:
    joints = standing() if joints is None else joints
    numbers = np.arange(len(joints))
    track = PoseTrack(numbers, joints, np.ones(joints.shape[:2], bool), numbers, turning_camera(numbers))
    info = TakeInfo(name, name, "train", 30.0, Camera("pinhole", 48, 48, (20, 20, 23.5, 23.5)), "world")
    images = ((n, jpeg(picture(n))) for n in range(0, len(joints), 5))
    StoreWriter(path).add_take(replace(info, **other), images, track)


@pytest.fixture
def check(tmp_path, capsys):
    """Run the command on tmp_path/s; returns (exit code, what it printed)."""

    def run(*words) -> tuple[int, str]:
        code = data_command("check", tmp_path / "s", *words)
        return code, capsys.readouterr().out

    return run


def test_sound_store_is_told_in_one_line_a_take(tmp_path, check):
    write_person(tmp_path / "s")
    code, out = check("--strict")
    assert code == 0, out
    heading, row, total = out.splitlines()
    assert heading.split() == ["take", "split", "images", "Hz", "poses", "visible", "cameras", "posed", "face", "speed"]
    assert " ".join(row.split()) == "person train 12 every 5 30 60 every 1 100% 60 every 1 12 2 cm 0.6 m/s"
    assert total == "1 takes (train 1), 0 with faults"
    assert check("--workers", 2)[1] == out


def test_gaps_are_counted_and_damaged_images_named(tmp_path, check):
    write_take(tmp_path / "s", images=[0, 5, 10, 20], poses=[n for n in range(60) if n != 5])
    code, out = check()
    assert code == 0 and "4 every 5, 1 gap " in out and "59 every 1, 1 gap " in out and " 94% " in out
    assert " 60 every 1 3 " in " ".join(out.split()), "three of the four images have a body pose"
    tar = tmp_path / "s" / "takes" / "take" / "frames.tar"
    offset = int(np.load(tar.with_name("frames.idx.npy"))[2, 1])
    with open(tar, "r+b") as file:
        file.seek(offset)
        file.write(b"x" * 30)
    code, out = check()
    assert code == 1 and "fault: frame 10: " in out
    assert check("--decode-every", 3)[0] == 0, "frames 0 and 20 are sound"
    os.truncate(tar, 100)
    code, out = check()
    assert code == 1 and "points outside frames.tar" in out and "59 every 1" in out, "the poses are checked all the same"


def test_truncated_image_is_found(tmp_path, check):
    data = jpeg(picture(0, 200, 200))
    StoreWriter(tmp_path / "s").add_take(TakeInfo("t", "t", "val", 30.0), [(0, data), (1, data[: len(data) // 2])])
    code, out = check()
    assert code == 1 and "fault: frame 1: image file is truncated" in out
    assert check("--decode-every", 0)[0] == 0


def test_images_of_another_size_than_the_camera(tmp_path, check):
    write_take(tmp_path / "s")
    path = tmp_path / "s" / "takes" / "take" / "take.json"
    info = json.loads(path.read_text())
    info["camera"]["width"] = 50
    path.write_text(json.dumps(info))
    code, out = check("--decode-every", 6)
    assert code == 1 and out.count("is 48x48, the camera says 50x48") == 3  # frames 0, 30 and the last


def test_index_that_points_at_other_members_is_found(tmp_path, check):
    write_take(tmp_path / "s", images=[0, 5, 10])
    path = tmp_path / "s" / "takes" / "take" / "frames.idx.npy"
    table = np.load(path)
    table[[0, 1], 1:] = table[[1, 0], 1:]  # every image decodes, but frames 0 and 5 are exchanged
    np.save(path, table)
    code, out = check()
    assert code == 1 and "frame 0: frames.idx.npy points at 'frame_0000005.jpg'" in out


def _in_millimetres(joints):
    return joints * 1000


def _long_arm(joints):
    joints[7, 9] += (0, 0, 0.9)
    return joints


def _jump(joints):
    joints[30:] += (3, 0, 0)
    return joints


def _somebody_else(joints):
    return joints + np.float32((2, 0, 0))


def _y_up(joints):
    joints[..., 2] *= -1
    return joints


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_in_millimetres, "is the unit the metre?"),
        (_long_arm, "left-elbow to left-wrist is 0.65 m at frame 7, 0.25 m usually"),
        (_jump, "nose moves at 91 m/s at frame 30 (and 16 times more)"),
        (_somebody_else, "the face is 1.98 m from the camera at frame 0 (and 59 times more)"),
        (_y_up, "is the world's z axis up?"),
    ],
)
def test_poses_that_cannot_be_the_wearers_are_odd(tmp_path, check, spoil, message):
    write_person(tmp_path / "s", joints=spoil(standing()))
    code, out = check()
    assert code == 0 and message in out, out
    assert check("--strict")[0] == 1


def test_the_same_motion_in_camera_coordinates_is_judged_alike(tmp_path, check):
    cameras = turning_camera(np.arange(60))
    joints = np.einsum("nji,nkj->nki", cameras[:, :3, :3], standing() - cameras[:, None, :3, 3]).astype(np.float32)
    write_person(tmp_path / "s", joints=joints, pose_space="camera")
    code, out = check("--strict")
    assert code == 0 and " 2 cm  0.6 m/s" in out, out


def test_images_and_poses_numbered_differently_are_odd(tmp_path, check):
    write_take(tmp_path / "s", images=range(1000, 1010))
    assert "odd: no image has a camera pose: images 1000 to 1009 every 1, poses 0 to 59 every 1" in check()[1]


def test_one_recording_under_two_names(tmp_path, check):
    for name, split in (("a", "train"), ("b", "val")):
        write_person(tmp_path / "s", name, uid="same", split=split)
    code, out = check()
    assert code == 1 and out.count("uid 'same' belongs to several takes: a, b") == 2
    assert out.count("recording 'same' is in the splits train, val") == 2


def test_two_wearers_of_one_recording_are_two_takes(tmp_path, check):
    for tail in ("", ".aria02"):
        write_person(tmp_path / "s", f"dance{tail}", uid=f"17{tail}")
    (tmp_path / "takes.json").write_text(json.dumps([{"take_uid": "17", "take_name": "dance"}]))
    code, out = check("--takes-json", tmp_path / "takes.json")
    assert code == 0, out
    write_person(tmp_path / "s", "dance.aria03", uid="17.aria04", split="val")
    code, out = check("--takes-json", tmp_path / "takes.json")
    assert code == 1 and out.count("recording '17' is in the splits train, val") == 3
    assert out.count("uid '17' is the take 'dance' in") == 1


def test_names_and_uids_are_compared_with_the_download(tmp_path, check):
    for name in ("cmu_bike01_5", "fair_cooking_06_4", "new_1"):
        write_person(tmp_path / "s", name, uid=f"uid-{name}")
    table = tmp_path / "takes.json"
    takes = [("uid-cmu_bike01_5", "cmu_bike01_5"), ("uid-fair_cooking_06_4", "fair_cooking_06_5")]
    table.write_text(json.dumps([{"take_uid": uid, "take_name": name} for uid, name in takes]))
    code, out = check("--takes-json", table)
    assert code == 1 and "uid 'uid-fair_cooking_06_4' is the take 'fair_cooking_06_5'" in out
    assert "uid 'uid-new_1' is not in" in out and out.count("fault:") == 2


def test_manifest_and_takes_must_agree(tmp_path, check):
    write_person(tmp_path / "s")
    manifest = Manifest(tmp_path / "s", "frames")
    manifest.write("person", Entry("done"))
    manifest.write("gone", Entry("done"))
    manifest.write("late", Entry("failed", "no calibration"))
    (tmp_path / "s" / "takes" / ".partial-late").mkdir()
    code, out = check()
    assert code == 1 and "manifest/frames/gone.json calls it done, but it is not there" in out
    assert "fault: step frames failed when it was last tried: no calibration" in out and ", 2 with faults" in out
    assert "step frames: 2 done, 1 failed" in out and "unfinished: .partial-late" in out


HOSTILE = {
    "no take.json": lambda take: (take / "take.json").unlink(),
    "broken JSON": lambda take: (take / "take.json").write_text('{"name": "take", '),
    "nested JSON": lambda take: (take / "take.json").write_text("[" * 100000),
    "JSON of another kind": lambda take: (take / "take.json").write_text("[1, 2]"),
    "camera of text": lambda take: _edit(take, camera={"model": "pinhole", "width": "4", "height": 4, "params": "1234"}),
    "infinite camera": lambda take: _edit(take, camera={"model": "pinhole", "width": 4, "height": 4, "params": [1e400, 1, 1, 1]}),
    "huge rate": lambda take: _edit(take, frame_rate=10**400),
    "split given twice": lambda take: (take / "take.json").write_text('{"split": "val", ' + (take / "take.json").read_text()[1:]),
    "name of somebody else": lambda take: _edit(take, name="../../etc"),
    "labels of text": lambda take: _edit(take, labels="kitchen"),
    "missing tar": lambda take: (take / "frames.tar").unlink(),
    "tar that is a folder": lambda take: ((take / "frames.tar").unlink(), (take / "frames.tar").mkdir()),
    "tar that is a pipe": lambda take: ((take / "frames.tar").unlink(), os.mkfifo(take / "frames.tar")),
    "empty tar": lambda take: os.truncate(take / "frames.tar", 0),
    "index of text": lambda take: (take / "frames.idx.npy").write_text("frames"),
    "index that is an archive": lambda take: shutil.copy(take / "poses.npz", take / "frames.idx.npy"),
    "index of floats": lambda take: np.save(take / "frames.idx.npy", np.zeros((3, 3))),
    "index of objects": lambda take: np.save(take / "frames.idx.npy", np.array([{}], object), allow_pickle=True),
    "negative index": lambda take: np.save(take / "frames.idx.npy", np.array([[0, -5, 3]])),
    "index of a huge shape": lambda take: (take / "frames.idx.npy").write_bytes(array_header((1 << 40, 3))),
    "truncated poses": lambda take: os.truncate(take / "poses.npz", 500),
    "poses that are an array": lambda take: (take / "poses.npz").write_bytes(_npy(np.zeros(3))),
    "poses without joints": lambda take: np.savez(take / "poses.npz", frames=np.arange(3)),
    "labels of another length": lambda take: np.savez(take / "labels.npz", frames=np.arange(3), action=np.arange(4)),
}


def _edit(take: Path, **values) -> None:
    path = take / "take.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("harm", HOSTILE)
@pytest.mark.timeout(60)
def test_hostile_take_is_a_finding_and_the_others_are_checked(tmp_path, check, harm):
    write_take(tmp_path / "s", "hostile")
    write_person(tmp_path / "s", "sound")
    HOSTILE[harm](tmp_path / "s" / "takes" / "hostile")
    code, out = check()
    assert code == 1 and "2 takes (" in out and ", 1 with faults" in out, out
    assert "  fault: " in out.partition("\nhostile")[2].partition("\nsound ")[0] and "\nsound " in out


@pytest.mark.parametrize(
    "content", ["", "{", "[" * 100000, "3", '{"format": "zip"}', '{"format": "egoagent-take-store", "version": 1, "joints": 3}']
)
def test_folder_that_is_no_store_is_refused_in_one_line(tmp_path, content, capsys):
    (tmp_path / "takes").mkdir()
    (tmp_path / "store.json").write_text(content)
    assert cli.main(["data", "check", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("egoagent data: ") and "store.json" in told and len(told.splitlines()) == 1


def test_empty_store_fails(tmp_path, check):
    StoreWriter(tmp_path / "s")
    code, out = check()
    assert code == 1 and "0 takes (none)" in out


def test_archive_that_unpacks_to_more_than_any_take_is_not_unpacked(tmp_path, check, monkeypatch):
    monkeypatch.setattr("internlm.data.store.archives.MAX_ARCHIVE", 20000)
    write_take(tmp_path / "s")
    code, out = check()
    assert code == 1 and "poses.npz: cannot be read: it would unpack to 2" in out


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "s"
    write_take(path, images=[0, 5, 10])
    return path


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damaged_byte_is_a_finding_at_most(sample, tmp_path_factory, data):
    """Never an exception, whichever bytes of whichever file are changed, cut or added."""
    from dataset_preprocess.check_store import check_store

    copy = tmp_path_factory.mktemp("copy") / "s"
    shutil.copytree(sample, copy)
    file = copy / "takes" / "take" / data.draw(st.sampled_from(["take.json", "frames.tar", "frames.idx.npy", "poses.npz"]))
    content = bytearray(file.read_bytes())
    start = data.draw(st.integers(0, min(len(content), 3000)))
    content[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    file.write_bytes(content)
    assert check_store(copy) in (0, 1)
    shutil.rmtree(copy.parent)
