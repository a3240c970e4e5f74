"""Damaged and hostile input: every reader returns something sound or raises the error that is meant for users.

Cases are drawn in hundreds of cheap rounds: a valid document with junk put in somewhere, or its bytes cut and overwritten.
"""

import copy
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from egoexo_samples import body, extrinsics
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from motion_samples import bvh_text

from dataset_preprocess.aria.calibration import read_calibration
from dataset_preprocess.body_pose.takes import PoseSettings, build_track, find_pose_files, read_pose_files
from dataset_preprocess.body_pose.upstream_json import read_fragments
from dataset_preprocess.egoexo import read_takes
from dataset_preprocess.errors import RecordingError
from dataset_preprocess.pipeline import SkipTake
from internlm.data.mocap import MocapError, read_motions
from internlm.data.store import COCO_JOINTS, StoreError

CASES = 300  # of each JSON file; twice as many of each motion text: 3,800 in all
pytestmark = pytest.mark.timeout(120)  # a hang is a failure


def rounds(cases=CASES):
    """hypothesis over seeds: each case is cheap, and a failing one is named by its seed."""

    def decorate(test):
        quick = settings(max_examples=cases, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        return quick(given(st.integers(0, 2**63))(test))

    return decorate


# What to put in


JUNK = (
    None, True, False, 0, 1, -1, 0.5, 1e308, -1e308, float("nan"), float("inf"), 10**40, "", "0", "nose", "²", "1e5", [],
    {}, [[]], [None], {"x": 1}, [[0] * 4] * 3, "aria01", [[1, 0, 0, 0]], {"0": []}, "../../x", "\0", "é" * 40, list(range(30)),
)  # fmt: skip
WORDS = (
    "", "}", "{", "nan", "1e400", "-1", "1e308", "0", "JOINT", "MOTION", "Ω", "²", "9" * 5000, "ROOT x", "End Site", "Frames:",
    "root", ":bonedata", ":hierarchy", "begin", "end", "name", "dof rx ry", "axis 1 2 3 XYZ", "\0", "#", "1",
)  # fmt: skip


def junk_in(document, rng: random.Random):
    """A copy of a JSON document with one to three nodes replaced, removed or renamed."""
    document = copy.deepcopy(document)
    for _ in range(rng.randint(1, 3)):
        node = document
        while isinstance(node, (dict, list)) and node:
            key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
            child = node[key]
            if not isinstance(child, (dict, list)) or not child or rng.random() < 0.25:
                break
            node = child
        if not isinstance(node, (dict, list)) or not node:
            return rng.choice(JUNK)
        way = rng.random()
        if way < 0.7:
            node[key] = copy.deepcopy(rng.choice(JUNK))
        elif way < 0.85:
            del node[key]
        elif isinstance(node, dict):
            node[rng.choice(("-1", "0", "00", "nose", "aria02", "²", "9" * 30, "x/y", ""))] = node.pop(key)
    return document


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes cut off, or pieces of them removed, doubled or overwritten."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        way = rng.random()
        if way < 0.4:
            data = data[:at]
        elif way < 0.6:
            data = data[:at] + data[at + rng.randrange(20) :]
        elif way < 0.8:
            data = (
                data[:at] + rng.choice((b"[", b"]", b"{", b"}", b",", b'"', b"\xff", b"NaN", b"1e999", b"[" * 3000)) + data[at:]
            )
        else:
            data = data[:at] + data[max(0, at - 40) : at] + data[at:]
    return data


def hostile(document, rng: random.Random) -> bytes:
    """The text of a document with junk in it, with damaged bytes, or both."""
    way = rng.random()
    text = json.dumps(junk_in(document, rng) if way < 0.7 else document).encode()
    return damaged(text, rng) if way > 0.6 else text


# Ego-Exo4D


FRAMES = range(6)
CAMERAS = {"camera_intrinsics": [[150, 0, 255.5], [0, 150, 255.5], [0, 0, 1]], "camera_extrinsics": extrinsics(FRAMES)}
CAMERA_FILE = {"metadata": {"take_name": "t1", "take_uid": "u1"}, "aria01": CAMERAS, "cam01": {}}
ENTRY = {
    "take_name": "t1", "take_uid": "u1", "task_name": "x", "capture": {"cameras": [{"cam_id": "aria01", "is_ego": True}]},
    "frame_aligned_videos": {"aria01": {"rgb": {"relative_path": "x"}}},
}  # fmt: skip
BODY = body(FRAMES)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A sound download of one take, whose files the cases overwrite one at a time."""
    path = tmp_path_factory.mktemp("raw")
    for name, content in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(content))
    return path


FILES = {
    "takes.json": [ENTRY],
    "annotations/splits.json": {"split_to_take_uids": {"train": ["u1"]}, "take_uid_to_benchmark": {}},
    "annotations/ego_pose/train/body/automatic/u1.json": BODY,
    "annotations/ego_pose/train/body/annotation/u1.json": body(range(0, 6, 3)),
    "annotations/ego_pose/train/camera_pose/u1.json": CAMERA_FILE,
}


def poses_of(root: Path) -> None:
    """The pose chain over a download: sound tracks or an error for users."""
    for files in find_pose_files(root):
        annotation, cameras = read_pose_files(files, "merged")
        track, labels, facts = build_track(annotation, cameras, PoseSettings())
        assert np.isfinite(track.joints).all() and np.isfinite(track.world_from_camera).all()
        assert (np.diff(track.frames) > 0).all() and (np.diff(track.camera_frames) > 0).all()
        json.dumps(facts)


@pytest.mark.parametrize("name", FILES)
def test_pose_chain(root, name):
    sound = (root / name).read_bytes()

    @rounds(CASES if "splits" not in name else 100)
    def case(seed):
        (root / name).write_bytes(hostile(FILES[name], random.Random(seed)))
        try:
            poses_of(root)
        except (RecordingError, SkipTake) as error:
            assert str(error)

    try:
        case()
    finally:
        (root / name).write_bytes(sound)
    poses_of(root)


@rounds()
def test_fragments(tmp_path_factory, seed):
    pose = {"pose": [[0.1, 0.2, 1.0]] * 17, "confidence": [1] * 17, "trajectory": [0, 0, 0]}
    path = tmp_path_factory.getbasetemp() / "u_0-3.json"
    path.write_bytes(hostile({str(frame): pose for frame in range(4)}, random.Random(seed)))
    try:
        poses = read_fragments([path])
    except RecordingError as error:
        assert "u_0-3.json" in str(error)
    else:
        assert np.isfinite(poses.joints).all() and poses.joints.shape[1:] == (len(COCO_JOINTS), 3)


@rounds()
def test_calibration(tmp_path_factory, seed):
    params = [1216.0, 1420.0, 1430.0, 0.4, -0.5, 0.2, 1.0, -1.6, 0.6, 2e-4, -4e-4, -3e-4, 3e-5, -2e-4, -6e-5]
    camera = {
        "Calibrated": True,
        "Label": "camera-rgb",
        "Projection": {"Name": "FisheyeRadTanThinPrism", "Params": params},
        "SerialNumber": "1",
        "T_Device_Camera": {"Translation": [0, 0, 0], "UnitQuaternion": [1, [0, 0, 0]]},
    }
    path = tmp_path_factory.getbasetemp() / "c.calib.json"
    path.write_bytes(hostile({"CameraCalibrations": [camera], "DeviceClassInfo": {}, "Serial": "1"}, random.Random(seed)))
    try:
        calibration = read_calibration(path)
    except (RecordingError, StoreError) as error:
        assert str(error)
    else:
        assert np.isfinite(calibration.sensor.params).all() and calibration.sensor.params[0] > 0


def test_nesting_without_end_and_numbers_without_end(tmp_path):
    for text in ("[" * 200_000, '{"a":' * 200_000, '{"0": ' + "9" * 100_000 + "}", '{"0": "' + "x" * 10, "\x00" * 50, ""):
        (tmp_path / "takes.json").write_text(text)
        with pytest.raises(RecordingError, match=r"takes\.json"):
            read_takes(tmp_path)


# Motion capture


def mangled(text: str, rng: random.Random) -> str:
    """Words of a text file replaced, dropped or doubled, and lines cut."""
    lines = text.split("\n")
    for _ in range(rng.randint(1, 4)):
        row = rng.randrange(len(lines))
        words = lines[row].split(" ")
        at = rng.randrange(len(words) + 1)
        words[at : at + rng.randint(0, 2)] = [rng.choice(WORDS)]
        lines[row] = " ".join(words)
        if rng.random() < 0.2:
            lines[row : row + rng.randint(1, 3)] = [lines[row]] * rng.randint(0, 2)
    return "\n".join(lines[: rng.randrange(1, len(lines) + 1)] if rng.random() < 0.2 else lines)


def asf_text() -> str:
    """A skeleton with the bones that the reader needs, all hanging from the root's hips, spine and neck."""
    chain = {
        "lowerback": "root",
        "thorax": "lowerback",
        "upperneck": "thorax",
        "head": "upperneck",
        **{f"{s}{bone}": parent for s in "lr" for bone, parent in (("hipjoint", "root"), ("clavicle", "thorax"))},
        **{
            f"{s}{b}": f"{s}{p}"
            for s in "lr"
            for b, p in (("femur", "hipjoint"), ("tibia", "femur"), ("humerus", "clavicle"), ("radius", "humerus"))
        },
    }
    bones = "".join(
        f"  begin\n     id {n}\n     name {name}\n     direction {[1, -1][name[0] == 'r']} {[-1, 1][parent == 'thorax']} 0.1\n"
        f"     length 4\n     axis 0 10 0 XYZ\n     dof rx ry rz\n  end\n"
        for n, (name, parent) in enumerate(chain.items(), 1)
    )
    tree = "".join(f"    {parent} {name}\n" for name, parent in chain.items())
    return (
        ":version 1.10\n:name S\n:units\n  mass 1.0\n  length 0.45\n  angle deg\n:root\n  order TX TY TZ RX RY RZ\n"
        "  axis XYZ\n  position 0 0 0\n  orientation 0 0 0\n:bonedata\n" + bones + ":hierarchy\n  begin\n" + tree + "  end\n"
    )


def amc_text(frames: int = 8) -> str:
    bones = re.findall(r"name (\w+)\n +direction", asf_text())
    rows = [f"{n + 1}\nroot {n} 17 0 0 {5 * n} 0\n" + "".join(f"{bone} {n} 0 1\n" for bone in bones) for n in range(frames)]
    return "#!OML:ASF\n:FULLY-SPECIFIED\n:DEGREES\n" + "".join(rows)


def motion_or_named_error(path: Path) -> bool:
    try:
        motions = read_motions(path)
    except MocapError as error:
        assert path.stem in str(error)
        return False
    for motion in motions:
        assert len(motion) and np.isfinite(motion.joints).all() and np.isfinite(motion.world_from_head).all()
    return True


@pytest.mark.parametrize("kind", ["bvh", "asf", "amc"])
def test_motion_files(tmp_path_factory, kind):
    folder = tmp_path_factory.mktemp(kind)
    sound = {"bvh": bvh_text(4), "asf": asf_text(), "amc": amc_text()}
    read = folder / ("s.bvh" if kind == "bvh" else "s.amc")
    for name, text in sound.items():
        (folder / f"s.{name}").write_text(text)
    assert motion_or_named_error(read), "the undamaged files are sound"
    outcomes = set()

    @rounds(2 * CASES)
    def case(seed):
        rng = random.Random(seed)
        text = mangled(sound[kind], rng).encode()
        (folder / f"s.{kind}").write_bytes(damaged(text, rng) if rng.random() < 0.2 else text)
        outcomes.add(motion_or_named_error(read))

    case()
    assert outcomes == {True, False}, "some damage is harmless, most is not"


@rounds(100)
def test_motion_archives(tmp_path_factory, seed):
    rng = random.Random(seed)
    arrays = {
        "joint_names": np.array(["nose", "left-eye", "left-wrist"]),
        "pos_m": np.ones((6, 3, 3)),
        "fps": np.array(30.0),
        "names": np.array(["train/a", "b"]),
        "lengths": np.array([2, 4]),
        "visible": np.ones((6, 3), bool),
        "up": np.array("z"),
    }
    odd = (np.array(np.nan), np.zeros(0), np.array("x"), np.full((6, 3, 3), 1e300), np.array([2, 2**62]), np.array([None, {}]),
           np.ones((2, 2, 2, 2)), np.array(-1), np.array([True]), np.array(1j), np.zeros((0, 3, 3)), np.array([1.5]))  # fmt: skip
    for _ in range(rng.randint(1, 2)):
        key = rng.choice(list(arrays))
        if rng.random() < 0.8:
            arrays[key] = rng.choice(odd)
        elif len(arrays) > 1:
            del arrays[key]
    path = tmp_path_factory.getbasetemp() / "m.npz"
    np.savez(path, **arrays)
    if rng.random() < 0.2:
        path.write_bytes(damaged(path.read_bytes(), rng))
    try:
        motions = read_motions(path)
    except MocapError as error:
        assert "m.npz" in str(error)
    else:
        assert all(np.isfinite(motion.joints).all() for motion in motions)
