"""JSON of recordings: whatever is wrong is named with its place, and only a text that ends too early is called cut off."""

import json

import pytest
from data_samples import data_command
from egoexo_samples import body, download, extrinsics
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_preprocess.aria.adt import read_skeleton, read_trajectory
from dataset_preprocess.aria.calibration import read_calibration
from dataset_preprocess.body_pose.annotations import AUTOMATIC, read_annotation
from dataset_preprocess.body_pose.camera_pose import read_camera_poses
from dataset_preprocess.body_pose.upstream_json import read_fragments
from dataset_preprocess.egoexo import read_splits, read_takes
from dataset_preprocess.errors import RecordingError
from dataset_preprocess.import_mocap import read_joint_map
from dataset_preprocess.json_input import parse_json, read_json

READERS = {
    "annotation": (lambda path: read_annotation(path, AUTOMATIC), '{"120": [{"annotation3D": {"left-wrist": {"x": @, "y": 0}}}]}',
                   "frame 120: [0].annotation3D.left-wrist.x "),
    "camera poses": (read_camera_poses, '{"aria01": {"camera_extrinsics": {"7": [[@, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]}}}',
                     "frame 7: aria01.camera_extrinsics[0][0] "),
    "fragments": (lambda path: read_fragments([path]), '{"99": {"pose": [[0, @, 0]], "confidence": [1]}}',
                  "frame 99: pose[0][1] "),
    "calibration": (read_calibration, '{"CameraCalibrations": [{"Label": "camera-rgb", "Projection": {"Params": [@]}}]}',
                    "CameraCalibrations[0].Projection.Params[0] "),
    "skeleton": (read_skeleton, '{"frames": [{"timestamp_ns": 1, "joints": []}, {"timestamp_ns": 2, "joints": [[0, @]]}]}',
                 "frames[1].joints[0][1] "),
    "joint map": (read_joint_map, '{"left-wrist": @}', "left-wrist "),
    "takes": (lambda path: read_takes(path.parent), '[{"take_name": "a", "take_uid": "u", "score": @}]', "[0].score "),
    "splits": (lambda path: read_splits(path.parent.parent), '{"split_to_take_uids": {"val": [@]}}',
               "split_to_take_uids.val[0] "),
}  # fmt: skip
FILES = {"takes": "takes.json", "splits": "annotations/splits.json"}


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("reader", READERS)
def test_a_number_that_json_does_not_have_is_named_with_its_place(tmp_path, reader, word):
    read, text, place = READERS[reader]
    path = tmp_path / FILES.get(reader, "x.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text.replace("@", word))
    with pytest.raises(RecordingError) as error:
        read(path)
    assert str(error.value) == f"{path}: {place}is the number {word}, which is not valid JSON; mend or remove the value"


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader not in ("takes", "joint map")])
def test_numbers_beyond_any_measure_are_refused(tmp_path, reader):
    read, text, _ = READERS[reader]
    path = tmp_path / FILES.get(reader, "x.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text.replace("@", "1e999"))
    with pytest.raises(RecordingError, match=path.name):
        read(path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"1": [], "2": [], "1": []}', "gives frame 1 twice; which one holds?"),
        ('{"3": [{"annotation3D": {"nose": 1, "nose": 2}}]}', "frame 3: [0].annotation3D gives the key 'nose' twice"),
        ('{"1": [{"annotation3D": {"no', "ends in the middle of a value; a download that broke off?"),
        ('{"1": [', "a download that broke off?"),
        ('{"1": nul', "a download that broke off?"),
        ('{"1": -', "a download that broke off?"),
        ("", "it is empty"),
        ("  \n", "it is empty"),
        ("\0" * 64, "it holds 64 zero bytes"),
        ("<!DOCTYPE html><html>", "is a web page or XML, not JSON"),
        ("version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        ('{"1": []}\n{"2": []}', "it holds more than one value, another begins at line 2, column 1"),
        ('{"1": [], }', "at line 1, column"),
        ("{'1': []}", "Expecting property name enclosed in double quotes at line 1, column 2"),
        ('{"1": [01]}', "at line 1, column"),
        ("[" * 100_000, "nested too deeply"),
        ("3", "holds a JSON int, expected dict"),
        ("[1]", "holds a JSON list, expected dict"),
    ],
)
def test_damage_is_called_what_it_is(text, what):
    with pytest.raises(RecordingError) as error:
        parse_json(text, dict, "x.json")
    assert what in str(error.value) and str(error.value).startswith("x.json: ")
    assert ("broke off" in str(error.value)) == ("broke off" in what)


def test_texts_of_other_encodings(tmp_path):
    path = tmp_path / "x.json"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        path.write_bytes('{"Küche": [1]}'.encode(encoding))
        assert read_json(path, dict) == {"Küche": [1]}
        assert parse_json("\ufeff[]", list, "text") == []
    path.write_bytes('{"Küche": 1}'.encode("latin-1"))
    with pytest.raises(RecordingError, match="is not valid JSON: byte 0xfc at 3 is no utf-8 text"):
        read_json(path)
    path.write_bytes('{"Kü'.encode()[:-1])  # inside a character
    with pytest.raises(RecordingError, match="a download that broke off"):
        read_json(path)


def test_trajectory_with_a_byte_order_mark(tmp_path):
    names = ["tracking_timestamp_us", *(f"t{a}_world_device" for a in "xyz"), *(f"q{a}_world_device" for a in "xyzw")]
    path = tmp_path / "t.csv"
    path.write_text(",".join(names) + "\n5,1,2,3,0,0,0,1\n", encoding="utf-8-sig")
    times, poses = read_trajectory(path)
    assert times.tolist() == [5000] and poses[0, :3, 3].tolist() == [1, 2, 3]


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(VALUES, st.booleans(), st.data())
def test_what_json_writes_is_read_and_every_cut_of_it_is_refused(value, ascii_only, data):
    text = json.dumps([value], ensure_ascii=ascii_only).encode()
    assert parse_json(text, list, "x") == [value]
    with pytest.raises(RecordingError, match="^x: .*a download that broke off|^x: is not valid JSON: it is empty"):
        parse_json(text[: data.draw(st.integers(0, len(text) - 1))], list, "x")


def test_poses_without_any_joint_are_not_blamed_on_the_filters(tmp_path, capsys):
    empty = {str(frame): [{"annotation3D": {}}] for frame in range(5)}
    download(tmp_path / "raw", automatic=empty, cameras=extrinsics(range(5)))
    assert data_command("poses", tmp_path / "raw", tmp_path / "s", "--workers", 0) == 0
    told = capsys.readouterr().out
    assert "none of the 5 annotated frames has a joint: annotation3D is empty in all of them" in told and "filter" not in told
    download(tmp_path / "far", automatic=body(range(5), views=1), cameras=extrinsics(range(5)))
    assert data_command("poses", tmp_path / "far", tmp_path / "t", "--workers", 0) == 0
    told = capsys.readouterr().out
    assert "the filters hid every one of the 10 joints in 5 frames: 10 by few_views; --no-filters keeps them" in told
    download(tmp_path / "blind", automatic={**body([0]), **empty_from(1)}, cameras=extrinsics([1, 2]))
    words = ("--no-filters", "--coordinates", "camera", "--workers", 0)
    assert data_command("poses", tmp_path / "blind", tmp_path / "u", *words) == 0
    assert "none of the 1 frames with a joint has a camera pose, which --coordinates camera needs" in capsys.readouterr().out


def empty_from(frame: int) -> dict:
    return {str(frame): [{"annotation3D": {}}]}


def test_splits_that_are_no_lists_do_not_become_training_takes(tmp_path):
    path = tmp_path / "annotations" / "splits.json"
    path.parent.mkdir()
    for uids in ('"u1"', "[3]", '{"u1": 1}'):
        path.write_text('{"split_to_take_uids": {"train": [], "test": ' + uids + "}}")
        with pytest.raises(RecordingError, match=r"split_to_take_uids.test is .*, expected a list of take uids"):
            read_splits(tmp_path)
