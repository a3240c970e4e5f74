"""Motion capture as takes without images: joint maps, left and right, body models against independent kinematics, faults."""

import json
from itertools import pairwise

import numpy as np
import pytest
from data_samples import data_command_here as data_command
from motion_samples import bvh_text
from scipy.spatial.transform import Rotation

from internlm.data.mocap import MocapError, motion_take, read_motions
from internlm.data.mocap.archive import Archive
from internlm.data.mocap.smpl import BODY, COCO_FACE, forward_kinematics, load_body_model, read_parameters, rotation_matrices
from internlm.data.store import COCO_JOINTS, TakeStore

SMPL_NAMES = (
    "pelvis", "left-hip", "right-hip", "spine1", "left-knee", "right-knee", "spine2", "left-ankle", "right-ankle", "spine3",
    "left-foot", "right-foot", "neck", "left-collar", "right-collar", "head", "left-shoulder", "right-shoulder", "left-elbow",
    "right-elbow", "left-wrist", "right-wrist", "left-hand", "right-hand",
)  # fmt: skip
SMPL_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
FACE_NAMES = ("nose", "right-eye", "left-eye", "right-ear", "left-ear")


def rest_pose() -> dict[str, np.ndarray]:
    """A made-up standing figure: y up, facing +z, left is +x."""
    half = {
        "hip": (0.1, 0.0, 0.0), "knee": (0.1, -0.4, 0.0), "ankle": (0.1, -0.8, 0.0), "foot": (0.1, -0.85, 0.12),
        "collar": (0.08, 0.45, 0.0), "shoulder": (0.2, 0.47, 0.0), "elbow": (0.45, 0.47, 0.0), "wrist": (0.7, 0.47, 0.0),
        "hand": (0.8, 0.47, 0.0), "eye": (0.03, 0.72, 0.09), "ear": (0.075, 0.7, 0.0),
    }  # fmt: skip
    middle = {"pelvis": (0, 0.05, 0), "spine1": (0, 0.15, 0), "spine2": (0, 0.25, 0), "spine3": (0, 0.35, 0)}
    middle |= {"neck": (0, 0.5, 0), "head": (0, 0.6, 0.02), "nose": (0, 0.68, 0.12)}
    points = {name: np.array(p, float) for name, p in middle.items()}
    for name, p in half.items():
        points[f"left-{name}"], points[f"right-{name}"] = np.array(p), np.array(p) * [-1, 1, 1]
    return points


def model_arrays(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The arrays of a SMPL file of that figure. Vertex j is rest joint j, five vertices are the face, the rest is random."""
    vertices = rng.normal(size=(6890, 3)) * 0.1
    figure = rest_pose()
    vertices[:24] = [figure[name] for name in SMPL_NAMES]
    face = [332, 6260, 2800, 4071, 583]
    vertices[face] = [figure[name] for name in FACE_NAMES]
    weights = np.zeros((6890, 24))
    weights[:, 0] = 1
    weights[face] = 0
    weights[face, 15], weights[face, 12] = 0.75, 0.25
    offsets = np.zeros((6890, 3, 207), np.float32)
    offsets[face] = rng.normal(size=(5, 3, 207)) * 1e-3
    return {
        "v_template": vertices,
        "shapedirs": rng.normal(size=(6890, 3, 10)).astype(np.float32) * 0.01,
        "J_regressor": np.eye(24, 6890),
        "weights": weights,
        "kintree_table": np.array([[max(p, 0) for p in SMPL_PARENTS], range(24)]),
        "posedirs": offsets,
    }


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    """(path, arrays) of a body model file."""
    arrays = model_arrays(np.random.default_rng(0))
    path = tmp_path_factory.mktemp("model") / "SMPL_MADE_UP.npz"
    np.savez(path, **arrays)
    return path, arrays


def amass(path, frames=40, rate=120.0, width=156, **changes):
    rng = np.random.default_rng(1)
    turns = np.cumsum(rng.normal(size=(frames, width)) * 0.01, 0)
    turns[:, :3] += [np.pi / 2, 0, 0]  # AMASS: z up, so the y-up rest pose is stood upright
    data = dict(
        poses=turns,
        trans=rng.normal(size=(frames, 3)) * 0.01 + [0, 0, 0.9],
        betas=rng.normal(size=10),
        gender=np.array("neutral"),
        mocap_framerate=np.array(rate),
        labels=np.array([None, {}], object),
    )
    np.savez(path, **{key: value for key, value in {**data, **changes}.items() if value is not None})
    return data


# The map


def test_every_body_joint_comes_from_the_smpl_joint_of_its_name():
    assert {COCO_JOINTS[coco]: SMPL_NAMES[source] for coco, source in BODY.items()} == {name: name for name in COCO_JOINTS[5:]}


def test_face_of_the_models_is_right_first_and_coco_left_first():
    assert [FACE_NAMES[source] for source in COCO_FACE] == list(COCO_JOINTS[:5])


@pytest.mark.parametrize(("count", "start"), [(45, 24), (73, 52), (127, 55)])
def test_stored_joints_need_no_model(tmp_path, count, start):
    figure = rest_pose()
    joints = np.zeros((6, count, 3))
    joints[:, :24] = [figure[name] for name in SMPL_NAMES]
    joints[:, start : start + 5] = [figure[name] for name in FACE_NAMES]
    np.savez(tmp_path / "j.npz", joints=joints, fps=30, up="y")
    (motion,) = read_motions(tmp_path / "j.npz")
    assert motion.visible.all() and motion.face == "recorded"
    floor = motion.joints[0, 15, 2] - figure["left-ankle"][1]
    for number, name in enumerate(COCO_JOINTS):
        x, y, z = figure[name]
        np.testing.assert_allclose(motion.joints[0, number], [x, -z, y + floor], atol=1e-9, err_msg=name)
    np.testing.assert_allclose(motion.world_from_head[0, :3, 1], [1, 0, 0], atol=1e-9)  # left stays left
    assert motion.world_from_head[0, 1, 0] < -0.9, "the figure faces +z, which is -y with z up"


def test_stored_joints_without_face_leave_it_invisible(tmp_path):
    figure = rest_pose()
    np.savez(tmp_path / "j.npz", joints=np.tile([figure[name] for name in SMPL_NAMES[:22]], (6, 1, 1)), fps=30)
    (motion,) = read_motions(tmp_path / "j.npz")
    assert not motion.visible[:, :5].any() and motion.visible[:, 5:].all() and motion.head == "estimated"


# Kinematics


def test_kinematics_against_scipy(body, tmp_path):
    path, arrays = body
    amass(tmp_path / "a.npz", width=72)
    poses, translation, betas = read_parameters(Archive(tmp_path / "a.npz"))
    joints, rotations, face = forward_kinematics(load_body_model(path), poses, translation, betas)
    shaped = arrays["v_template"] + arrays["shapedirs"].astype(float) @ betas
    for frame in (0, 17, 39):
        turn, place = {}, {}
        for joint, parent in enumerate(SMPL_PARENTS):
            own = Rotation.from_rotvec(poses[frame, joint])
            turn[joint] = own if parent < 0 else turn[parent] * own
            step = shaped[joint] - (shaped[parent] if parent >= 0 else 0)
            place[joint] = step if parent < 0 else place[parent] + turn[parent].apply(step)
            np.testing.assert_allclose(joints[frame, joint], place[joint] + translation[frame], atol=1e-9)
            np.testing.assert_allclose(rotations[frame, joint], turn[joint].as_matrix(), atol=1e-9)
    np.testing.assert_allclose(rotation_matrices(np.zeros((1, 3))), np.eye(3)[None])


def test_kinematics_against_the_reference_package(body):
    torch = pytest.importorskip("torch")
    smplx = pytest.importorskip("smplx", reason="the smplx extra is not installed")
    path, arrays = body
    rng = np.random.default_rng(3)
    poses, translation, betas = rng.normal(size=(5, 24, 3)) * 0.4, rng.normal(size=(5, 3)), rng.normal(size=10)
    tree, triangles = arrays["kintree_table"].astype(np.int64), np.zeros((1, 3), int)
    struct = smplx.utils.Struct(**{**arrays, "kintree_table": tree, "f": triangles})
    model = smplx.SMPL(str(path), data_struct=struct, batch_size=5, dtype=torch.float64)
    flat = torch.from_numpy(poses)
    with torch.no_grad():
        out = model(
            betas=torch.from_numpy(np.tile(betas, (5, 1))),
            global_orient=flat[:, :1].reshape(5, 3),
            body_pose=flat[:, 1:].reshape(5, 69),
            transl=torch.from_numpy(translation),
        ).joints.numpy()
    joints, _, face = forward_kinematics(load_body_model(path), poses, translation, betas)
    np.testing.assert_allclose(joints, out[:, :24], atol=1e-6)
    np.testing.assert_allclose(face, out[:, 24:29][:, [0, 2, 1, 4, 3]], atol=1e-6)


def test_amass_file_becomes_a_full_take(body, tmp_path):
    amass(tmp_path / "a.npz")
    assert data_command("mocap", tmp_path / "s", tmp_path / "a.npz", "--body-model", body[0], "--split", "val") == 0
    take = TakeStore(tmp_path / "s").take("a")
    track = take.poses()
    assert len(track.frames) == 10 and track.visible.all() and len(take.frame_numbers) == 0
    assert take.info.split == "val" and take.info.extra["face"] == "recorded" and take.info.extra["source_rate_hz"] == 120
    assert (track.joints[:, 0, 2] > track.joints[:, 11, 2] + 0.4).all(), "the nose is above the hips: z is up"
    eyes = track.joints[:, 1:3].mean(1)
    assert np.linalg.norm(track.world_from_camera[:, :3, 3] - eyes, axis=1).max() < 0.05


def test_split_parameters_of_smplx_are_the_same_motion(body, tmp_path):
    data = amass(tmp_path / "a.npz", width=66)
    np.savez(
        tmp_path / "b.npz",
        root_orient=data["poses"][:, :3],
        pose_body=data["poses"][:, 3:],
        transl=data["trans"],
        betas=np.tile(data["betas"], (40, 1)),
        mocap_frame_rate=120.0,
    )
    a, b = (read_motions(tmp_path / name, body_model=body[0])[0] for name in ("a.npz", "b.npz"))
    np.testing.assert_array_equal(a.joints, b.joints)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"poses": np.zeros((40, 60))}, "poses are [40, 60]"),
        ({"trans": np.zeros((39, 3))}, "translation is [39, 3]"),
        ({"trans": None}, "lacks trans or transl"),
        ({"mocap_framerate": None}, "lacks mocap_framerate"),
        ({"mocap_framerate": np.array(0.0)}, "expected one rate"),
        ({"betas": np.zeros(300)}, "300 betas, but the body model has 10"),
        ({"poses": np.full((40, 156), np.nan)}, "poses holds values that are not finite"),
        ({"poses": np.array([{}], object)}, "poses cannot be read"),
        ({"up": "x"}, "up is 'x'"),
    ],
)
def test_malformed_parameters(body, tmp_path, changes, what):
    amass(tmp_path / "a.npz", **changes)
    with pytest.raises(MocapError) as error:
        read_motions(tmp_path / "a.npz", body_model=body[0])
    assert what in str(error.value)


def test_body_model_files_are_never_unpickled(body, tmp_path):
    amass(tmp_path / "a.npz")
    (tmp_path / "SMPL.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(MocapError, match="only .npz body models are read"):
        read_motions(tmp_path / "a.npz", body_model=tmp_path / "SMPL.pkl")
    with pytest.raises(MocapError, match="--body-model"):
        read_motions(tmp_path / "a.npz")
    np.savez(tmp_path / "bad.npz", **{**body[1], "weights": np.zeros((6890, 23))})
    with pytest.raises(MocapError, match="weights is"):
        read_motions(tmp_path / "a.npz", body_model=tmp_path / "bad.npz")


# Positions


def test_coco_names_with_visibility(tmp_path):
    rng = np.random.default_rng(0)
    names = [name.replace("-", "_") for name in COCO_JOINTS[:9]]
    positions, visible = rng.normal(size=(20, 9, 3)), rng.random((20, 9)) < 0.7
    positions[~visible] = np.nan
    np.savez(tmp_path / "p.npz", joints=positions, visible=visible, joint_names=names, fps=30, up="z")
    (motion,) = read_motions(tmp_path / "p.npz")
    assert (motion.visible[:, :9] == visible).all() and not motion.visible[:, 9:].any() and motion.world_from_head is None
    np.testing.assert_allclose(motion.joints[:, :9][visible], positions[visible])
    info, track = motion_take(motion)
    assert len(track.camera_frames) == 0 and info.extra["head"] is None
    np.savez(tmp_path / "q.npz", joints=positions, joint_names=names, fps=30)
    with pytest.raises(MocapError, match="mark missing joints"):
        read_motions(tmp_path / "q.npz")


def test_a_joint_between_two_frames_is_visible_only_in_both(tmp_path):
    visible = np.ones((5, 2), bool)
    visible[2, 0] = False
    positions = np.arange(5.0)[:, None, None] * np.ones((1, 2, 3))
    np.savez(tmp_path / "p.npz", joints=positions, visible=visible, joint_names=["nose", "left-eye"], fps=15, up="z", unit_m=0.5)
    (motion,) = read_motions(tmp_path / "p.npz")
    np.testing.assert_array_equal(motion.visible[:, 0], [1, 1, 1, 0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(motion.joints[:, 1, 0], np.arange(9) / 4)
    assert motion.source_rate == 15


def test_joint_map_for_names_of_their_own(tmp_path):
    np.savez(tmp_path / "p.npz", pos_m=np.arange(18.0).reshape(3, 2, 3), joint_names=["LHand", "X"], fps=30, up="z")
    (tmp_path / "map.json").write_text(json.dumps({"left-wrist": "LHand"}))
    assert data_command("mocap", tmp_path / "s", tmp_path / "p.npz", "--joints", tmp_path / "map.json") == 0
    track = TakeStore(tmp_path / "s").take("p").poses()
    np.testing.assert_array_equal(track.joints[:, 9], [[0, 1, 2], [6, 7, 8], [12, 13, 14]])
    assert track.visible.sum() == 3
    with pytest.raises(MocapError, match="not in the file: .'Y'.*the file's names are LHand, X"):
        read_motions(tmp_path / "p.npz", joint_map={"nose": "Y"})


def test_a_joint_map_with_head_and_neck_gives_a_gaze(tmp_path):
    positions, names = named_figure()
    order = [f"{side}-{part}" for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in ("left", "right")]
    joint_map = {joint: f"p{n}" for n, joint in enumerate([*order, "head", "neck"])}
    np.savez(tmp_path / "p.npz", joints=positions, joint_names=[f"p{n}" for n in range(len(names))], fps=30)
    (motion,) = read_motions(tmp_path / "p.npz", joint_map=joint_map)
    np.testing.assert_allclose(motion.world_from_head[0, :3, 0], [0, -1, 0], atol=1e-6)


def named_figure(unit: float = 1.0, up: str = "y", height: float = 0.9) -> tuple[np.ndarray, list[str]]:
    """The standing figure as positions of names like Mixamo's, its hips ``height`` metres above the ground."""
    figure = rest_pose()
    parts = {"shoulder": "Arm", "elbow": "ForeArm", "wrist": "Hand", "hip": "UpLeg", "knee": "Leg", "ankle": "Foot"}
    joints = {f"mixamorig:{side.title()}{name}": f"{side}-{part}" for part, name in parts.items() for side in ("left", "right")}
    joints |= {"mixamorig:Head": "head", "mixamorig:Neck": "neck"}
    points = np.array([figure[joint] for joint in joints.values()]) + [0, height, 0]
    points = points[:, [2, 0, 1]] if up == "z" else points
    return np.tile(points / unit, (6, 1, 1)), list(joints)


@pytest.mark.parametrize("up", ["y", "z"])
def test_names_of_other_programs_and_axes_that_nobody_states(tmp_path, up):
    positions, names = named_figure(up=up)
    np.savez(tmp_path / "p.npz", joints=positions, joint_names=names, fps=30)
    (motion,) = read_motions(tmp_path / "p.npz")
    assert motion.visible[:, 5:].all() and motion.head == "estimated"
    height = motion.joints[0, :, 2]
    assert height[5] - height[11] == pytest.approx(0.47) and height[11] - height[15] == pytest.approx(0.8)
    left = motion.joints[0, 5] - motion.joints[0, 6]
    facing = np.cross(left, [0, 0, 1]) / np.linalg.norm(left)
    np.testing.assert_allclose(motion.world_from_head[0, :3, 0], facing, atol=1e-6)


def test_axes_that_nobody_states_and_nothing_tells_are_asked_for(tmp_path):
    positions, names = named_figure(up="z", height=-2.0)
    np.savez(tmp_path / "p.npz", joints=positions, joint_names=names, fps=30)
    with pytest.raises(MocapError, match="--up"):
        read_motions(tmp_path / "p.npz")
    assert read_motions(tmp_path / "p.npz", up="z")[0].joints[0, 5, 2] > 1.2


@pytest.mark.parametrize(("unit", "name"), [(0.01, "cm"), (0.001, "mm"), (0.0254, "inch")])
def test_units_that_nobody_states_are_asked_for(tmp_path, unit, name):
    positions, names = named_figure(unit)
    np.savez(tmp_path / "p.npz", joints=positions, joint_names=names, fps=30)
    with pytest.raises(MocapError, match=r"a leg is [0-9.e+]+ m long; state the unit"):
        read_motions(tmp_path / "p.npz")
    assert data_command("mocap", tmp_path / "s", tmp_path / "p.npz", "--unit", name) == 0
    joints = TakeStore(tmp_path / "s").take("p").poses().joints
    np.testing.assert_allclose(joints[:, 11, 2] - joints[:, 15, 2], 0.8, atol=1e-5)
    body = np.tile([rest_pose()[joint] for joint in SMPL_NAMES], (6, 1, 1)) / unit
    np.savez(tmp_path / "j.npz", joints=body, fps=30, up="y")
    with pytest.raises(MocapError, match="state the unit"):
        read_motions(tmp_path / "j.npz")
    assert read_motions(tmp_path / "j.npz", unit=unit)[0].joints[0, 5, 2] > 1.2


def test_rates_of_archives_may_be_stated(body, tmp_path):
    positions, names = named_figure()
    np.savez(tmp_path / "p.npz", joints=positions, joint_names=names)
    amass(tmp_path / "a.npz", mocap_framerate=None)
    for name, frames in (("p.npz", 6), ("a.npz", 40)):
        with pytest.raises(MocapError, match="--rate"):
            read_motions(tmp_path / name, body_model=body[0])
        (motion,) = read_motions(tmp_path / name, body_model=body[0], rate=60)
        assert len(motion) == frames // 2 and motion.source_rate == 60


def test_poses_in_degrees_are_refused(body, tmp_path):
    data = amass(tmp_path / "a.npz")
    amass(tmp_path / "a.npz", poses=np.degrees(data["poses"]))
    with pytest.raises(MocapError, match="are these degrees"):
        read_motions(tmp_path / "a.npz", body_model=body[0])


def test_average_face_is_invisible_unless_asked_for(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "walk.bvh").write_text(bvh_text(8))
    assert data_command("mocap", tmp_path / "s", tmp_path / "m", "--label", "action=walk") == 0
    assert data_command("mocap", tmp_path / "t", tmp_path / "m", "--average-face") == 0
    plain, faced = (TakeStore(tmp_path / store).take("walk") for store in "st")
    assert plain.info.labels == {"action": "walk"} and plain.info.extra["face"] is None
    assert not plain.poses().visible[:, :5].any() and faced.poses().visible.all()
    np.testing.assert_array_equal(plain.poses().world_from_camera, faced.poses().world_from_camera)


# The command


def test_a_t_pose_at_the_start_can_be_left_out(shared_data, tmp_path):
    """One frame that nobody moved through: the CMU archive's wrists leave it at some 17 m/s."""
    source = shared_data / "cmu_mocap" / "cmu8_30hz.npz"
    assert data_command("mocap", tmp_path / "s", source, "--skip", 1) == 0
    assert data_command("mocap", tmp_path / "t", source) == 0
    for name in ("cmu8_30hz_train_walking_walking_1", "cmu8_30hz_test_soccer_soccer_1"):
        cut, whole = (TakeStore(tmp_path / store).take(name).poses() for store in "st")
        assert cut.frames.tolist() == cut.camera_frames.tolist() == list(range(1, len(whole.frames)))
        np.testing.assert_array_equal(cut.joints, whole.joints[1:])
        speed = np.linalg.norm(np.diff(whole.joints[:, 9:11], axis=0), axis=-1).max(1) * 30
        assert speed[0] > 10 and np.median(speed[1:]) < 5


def test_one_bad_file_does_not_stop_the_others_and_a_rerun_does_the_rest(tmp_path, capsys):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "good.bvh").write_text(bvh_text(8))
    (folder / "bad.bvh").write_text(bvh_text(8)[:300])
    np.savez(folder / "shape.npz", betas=np.zeros(10))
    assert data_command("mocap", tmp_path / "s", folder) == 1
    assert [info.name for info in TakeStore(tmp_path / "s").infos] == ["good"]
    before = (tmp_path / "s" / "takes" / "good" / "poses.npz").stat().st_mtime_ns
    (folder / "bad.bvh").write_text(bvh_text(12))
    assert data_command("mocap", tmp_path / "s", folder) == 0
    assert [info.name for info in TakeStore(tmp_path / "s").infos] == ["bad", "good"]
    assert (tmp_path / "s" / "takes" / "good" / "poses.npz").stat().st_mtime_ns == before
    assert data_command("check", tmp_path / "s") == 0


def test_the_cmu_archive_as_a_store(shared_data, tmp_path):
    assert data_command("mocap", tmp_path / "s", shared_data / "cmu_mocap" / "cmu8_30hz.npz") == 0
    store = TakeStore(tmp_path / "s")
    assert (len(store.select("train")), len(store.select("test"))) == (72, 24)
    assert sum(len(take.poses().frames) for take in store.select()) == 17004
    assert {info.labels["action"] for info in store.infos} >= {"walking", "running", "soccer", "walking_extra"}
    for a, b in pairwise(store.select("test")[0].poses().joints):
        assert np.abs(a - b).max() < 0.5
