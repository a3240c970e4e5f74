"""Motion files as many programs write them: whatever names, axes, unit and spelling, the same joints and the same gaze."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from data_samples import data_command_here as data_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mocap_dialects import (
    AXES,
    BONES,
    COCO,
    FAMILIES,
    UNITS,
    AmcDialect,
    BvhDialect,
    Spelling,
    amc_as_bvh,
    assert_same_motion,
    bone_names,
    make_figure,
    names_of,
    write_amc,
    write_bvh,
)

from internlm.cli import main
from internlm.data.mocap import MocapError, read_motions
from internlm.data.mocap.joint_names import UnknownJoints, find_joints
from internlm.data.store import COCO_JOINTS, TakeStore

pytestmark = pytest.mark.timeout(180)


def cases(count):
    return settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


spellings = st.builds(
    Spelling,
    bom=st.sampled_from(("", "utf-8-sig", "utf-16")),
    newline=st.sampled_from(("\n", "\r\n", "\r")),
    indent=st.sampled_from(("\t", "  ", "")),
    brace=st.sampled_from(("own line", "same line", "one line")),
    case=st.sampled_from(("usual", "lower", "upper")),
    comma=st.sampled_from((False, False, True)),
    blank=st.booleans(),
    wrap=st.sampled_from((False, False, True)),
)
bvh_dialects = st.builds(
    BvhDialect,
    family=st.sampled_from(sorted(FAMILIES)),
    rest=st.sampled_from(("standing", "standing", "turned", "bones along x")),
    axes=st.sampled_from(sorted(AXES)),
    axes_in_root=st.booleans(),
    unit=st.sampled_from(sorted(UNITS)),
    orders=st.integers(0, 2**32 - 1),
    places=st.sampled_from(("root", "repeated", "added", "moved")),
    root_offset=st.sampled_from(("none", "repeated", "added")),
    rate=st.sampled_from((30.0, 60.0, 120.0, 1 / 0.033)),
    spelling=spellings,
)
amc_dialects = st.builds(
    AmcDialect,
    family=st.sampled_from(("acclaim", "acclaim", "mixamo", "unity", "max", "rokoko", "mvn")),
    axes=st.sampled_from(sorted(AXES)),
    length=st.sampled_from((0.45, 1.0, 0.3937, 2.54, None)),
    radians=st.booleans(),
    orders=st.integers(0, 2**32 - 1),
    first=st.integers(0, 500),
    rate=st.sampled_from((None, 120.0, 60.0, 30.0)),
    spelling=st.builds(replace, spellings, comma=st.just(False)),
)


def test_bvh_dialects(tmp_path_factory):
    path = tmp_path_factory.mktemp("bvh") / "walk.bvh"

    @cases(1300)
    @given(dialect=bvh_dialects, seed=st.integers(0, 60), size=st.sampled_from((0.85, 1.0, 1.2)))
    def case(dialect, seed, size):
        figure = make_figure(seed, 17 if dialect.rest == "bones along x" else 5, size)
        write_bvh(path, figure, dialect, seed)
        try:
            (motion,) = read_motions(path)
        except MocapError as error:
            # Standing in a world turned by the root's rotation, or lying in one that is not: few places fit both.
            assert (dialect.axes_in_root or dialect.rest == "turned") and "state which is up" in str(error)
            (motion,) = read_motions(path, up=dialect.axes[0])
            asked.append(error)
        assert_same_motion(motion, figure.truth, round(dialect.rate / 30))

    asked = []
    case()
    assert len(asked) < 26, "two in a hundred at most"


def test_amc_dialects(tmp_path_factory):
    path = tmp_path_factory.mktemp("amc") / "02_01.amc"

    @cases(700)
    @given(dialect=amc_dialects, seed=st.integers(0, 60), size=st.sampled_from((0.85, 1.0, 1.2)))
    def case(dialect, seed, size):
        figure = make_figure(seed, 5, size)
        write_amc(path, figure, dialect)
        assert_same_motion(read_motions(path)[0], figure.truth, round((dialect.rate or 120) / 30))

    case()


# Names


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_joints_of_the_common_programs(tmp_path, family):
    """Among fingers, twist bones, ends and targets of inverse kinematics the joints are found by their names."""
    names = names_of(family)
    own = [names[joint] for joint in names]
    decoys = [f"{n}{tail}" for n in own for tail in ("_twist", "Roll", "_IK", "Nub", "_end", "Index1", "Thumb", "Props")]
    found = find_joints([*decoys[:90], *own, *decoys[90:]])
    joints = {role: [*decoys[:90], *own, *decoys[90:]][place] for role, place in found.items()}
    assert joints == {"head": names["Head"], "neck": names["Neck"], **{coco: names[joint] for coco, joint in COCO.items()}}


RIGS = {
    "Blender": ("DEF-spine.004 DEF-spine.005 DEF-spine.006 DEF-shoulder.L {DEF-upper_arm.L} DEF-upper_arm.L.001 {DEF-forearm.L} "
                "DEF-forearm.L.001 {DEF-hand.L} DEF-palm.01.L {DEF-thigh.L} DEF-thigh.L.001 {DEF-shin.L} DEF-shin.L.001 "
                "{DEF-foot.L}"),
    "Unreal": ("neck_01 neck_02 head clavicle_l {upperarm_l} upperarm_twist_01_l {lowerarm_l} lowerarm_twist_01_l {hand_l} "
               "{thigh_l} thigh_twist_01_l {calf_l} calf_twist_01_l {foot_l} ball_l ik_foot_root ik_foot_l ik_hand_l"),
    "Daz": ("neck1 neck2 head l_eye {l_upperarm} l_upperarmtwist1 {l_forearm} l_forearmtwist1 {l_hand} {l_thigh} l_thightwist1 "
            "{l_shin} {l_foot} l_metatarsal"),
    "iClone": ("CC_Base_NeckTwist01 CC_Base_NeckTwist02 CC_Base_Head CC_Base_FacialBone {CC_Base_L_Upperarm} {CC_Base_L_Forearm} "
               "CC_Base_L_UpperarmTwist01 CC_Base_L_ElbowShareBone {CC_Base_L_Hand} {CC_Base_L_Thigh} CC_Base_L_ThighTwist01 "
               "{CC_Base_L_Calf} CC_Base_L_CalfTwist01 {CC_Base_L_Foot} CC_Base_L_ToeBaseShareBone"),
    "VRM": ("J_Bip_C_Neck J_Bip_C_Head J_Adj_L_FaceEye J_Sec_Hair1_01 {J_Bip_L_UpperArm} J_Sec_L_TopsUpperArmInside_01 "
            "{J_Bip_L_LowerArm} {J_Bip_L_Hand} J_Bip_L_Thumb1 {J_Bip_L_UpperLeg} {J_Bip_L_LowerLeg} {J_Bip_L_Foot}"),
    "Neuron": ("Neck Neck1 Head LeftShoulder {LeftArm} {LeftForeArm} {LeftHand} LeftHandThumb1 LeftInHandIndex {LeftUpLeg} "
               "{LeftLeg} {LeftFoot}"),
}  # fmt: skip


@pytest.mark.parametrize("rig", sorted(RIGS))
def test_joints_among_the_bones_of_whole_rigs(rig):
    """{} are the left arm and leg."""
    names = RIGS[rig].replace("{", "").replace("}", "").split()
    found = {role: names[place] for role, place in find_joints(names).items()}
    right = re.findall(r"\{(\S+)\}", RIGS[rig])
    assert [found[joint] for joint in (5, 7, 9, 11, 13, 15)] == right
    assert "ead" in found["head"] or "006" in found["head"]
    assert found["neck"] == names[0]


def test_unknown_names_are_listed_and_a_map_gives_them(tmp_path):
    figure = make_figure(1, 9, 1.0)
    write_bvh(tmp_path / "w.bvh", figure, BvhDialect(family=None))
    write_amc(tmp_path / "w.amc", figure, AmcDialect(family=None))
    names, bones = names_of(None), bone_names(None)
    for file, there in (("w.bvh", names.values()), ("w.amc", bones.values())):
        with pytest.raises(MocapError, match="--joints MAP.json") as error:
            read_motions(tmp_path / file)
        assert all(name in str(error.value) for name in there), "the message names what the file has"
    joint_map = {COCO_JOINTS[coco]: names[joint] for coco, joint in COCO.items()} | {"head": names["Head"]}
    assert_same_motion(read_motions(tmp_path / "w.bvh", joint_map=joint_map)[0], figure.truth, 4)
    ends = {end: bones[bone] for bone, (_, _, end) in BONES.items()}
    far_ends = {COCO_JOINTS[coco]: ends[joint] for coco, joint in COCO.items()}
    far_ends |= {"head": bones["head"], "neck": bones["lowerneck"]}
    assert_same_motion(read_motions(tmp_path / "w.amc", joint_map=far_ends)[0], figure.truth, 4)
    with pytest.raises(MocapError, match="not in the file: .'Bauch'") as error:
        read_motions(tmp_path / "w.bvh", joint_map={"head": "Bauch"})
    assert "b12Left" in str(error.value)


def test_a_map_of_a_few_joints_needs_the_unit(tmp_path):
    figure, names = make_figure(1, 9, 1.0), names_of(None)
    write_bvh(tmp_path / "w.bvh", figure, BvhDialect(family=None, unit="cm"))
    with pytest.raises(MocapError, match="--unit"):
        read_motions(tmp_path / "w.bvh", joint_map={"left-wrist": names["LeftHand"]})
    (motion,) = read_motions(tmp_path / "w.bvh", joint_map={"left-wrist": names["LeftHand"]}, unit=0.01, up="y")
    assert motion.visible.sum() == 3 and motion.visible[:, 9].all() and motion.world_from_head is None
    np.testing.assert_allclose(motion.joints[:, 9], figure.truth.joints[::4, 9], atol=1e-6)


def test_a_map_may_add_points_of_the_face(tmp_path):
    figure, names = make_figure(1, 9, 1.0), names_of("cmu")
    write_bvh(tmp_path / "w.bvh", figure, BvhDialect())
    (motion,) = read_motions(tmp_path / "w.bvh", joint_map={"nose": names["Head"]})
    assert_same_motion(motion, figure.truth, 4)
    assert motion.face == "recorded" and motion.visible[:, :5].sum() == motion.visible[:, 0].sum() == 3
    neck = figure.positions["Head"][::4] - figure.positions["RightFoot"][::4]
    np.testing.assert_allclose(motion.joints[:, 0, 2] - motion.joints[:, 16, 2], neck[:, 1], atol=1e-3)
    write_bvh(tmp_path / "x.bvh", figure, BvhDialect(family=None))
    with pytest.raises(MocapError, match="no joint of the body"):
        read_motions(tmp_path / "x.bvh", joint_map={"head": names_of(None)["Head"]}, unit=0.01)


def test_names_that_could_mean_two_joints_are_refused():
    with pytest.raises(UnknownJoints, match="'LeftArm' and 'left_arm'"):
        find_joints(["LeftArm", "left_arm", "LeftForeArm", "LeftHand"])
    assert find_joints(["LeftUpLeg", "LeftLeg"], [-1, 0]) == {}, "a limb is whole or not found"
    assert find_joints(["LeftUpLeg", "LeftLeg", ""], [-1, 0, 1], limb_ends={1: 2}) == {11: 0, 13: 1, 15: 2}


def test_thousands_of_like_names_take_no_time():
    with pytest.raises(UnknownJoints):
        find_joints([f"{n}:Left{part}" for part in ("Arm", "ForeArm", "Hand") for n in range(2000)])


# What a file does not say


def test_the_same_recording_as_bvh_and_as_amc_looks_the_same_way(shared_data, tmp_path):
    """The skeleton and the angles of a real AMC file, written as BVH: gazes within a degree, joints within a millimetre."""
    source = shared_data / "cmu_amc"
    for name in ("02_01", "02_02", "02_03", "02_04"):
        amc_as_bvh(source / "02.asf", source / f"{name}.amc", tmp_path / f"{name}.bvh")
        (a,), (b,) = read_motions(source / f"{name}.amc"), read_motions(tmp_path / f"{name}.bvh")
        np.testing.assert_allclose(a.joints[:, 5:], b.joints[:, 5:], atol=1e-3)
        apart = (a.world_from_head[:, :3, 0] * b.world_from_head[:, :3, 0]).sum(1)
        assert np.degrees(np.arccos(np.clip(apart, -1, 1))).max() < 1


@pytest.mark.parametrize("axes", ["y", "z"])
def test_who_lies_is_left_lying(tmp_path, axes):
    figure = make_figure(3, 9, 1.0, sway=3.0, heading=0.0)
    down = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # on the stomach
    positions = {joint: places @ down.T for joint, places in figure.positions.items()}
    ground = min(places[:, 1].min() for places in positions.values()) - 0.05
    positions = {joint: places - [0, ground, 7] for joint, places in positions.items()}
    lying = replace(figure, positions=positions, turns={joint: down @ turn for joint, turn in figure.turns.items()})
    write_bvh(tmp_path / "l.bvh", lying, BvhDialect(axes=axes))
    (motion,) = read_motions(tmp_path / "l.bvh")
    assert_same_motion(motion, lying.truth, 4)
    assert motion.world_from_head[:, 2, 0].max() < -0.7, "looks at the floor"


def test_axes_that_nothing_tells_are_asked_for(tmp_path):
    figure = make_figure(3, 9, 1.0)
    low = replace(figure, positions={j: p - [0, 3, 0] for j, p in figure.positions.items()})
    write_bvh(tmp_path / "w.bvh", low, BvhDialect(axes="z", axes_in_root=True))
    with pytest.raises(MocapError, match="--up y or z"):
        read_motions(tmp_path / "w.bvh")
    assert_same_motion(read_motions(tmp_path / "w.bvh", up="z")[0], low.truth, 4)


def test_units_that_no_leg_tells_are_asked_for(tmp_path):
    figure = make_figure(3, 9, 0.55)  # a child in centimetres could be a giant in inches
    write_bvh(tmp_path / "w.bvh", figure, BvhDialect())
    with pytest.raises(MocapError, match="--unit NAME"):
        read_motions(tmp_path / "w.bvh")
    assert_same_motion(read_motions(tmp_path / "w.bvh", unit=0.01)[0], figure.truth, 4)
    write_amc(tmp_path / "w.amc", figure, AmcDialect())  # states its unit
    assert_same_motion(read_motions(tmp_path / "w.amc")[0], figure.truth, 4)
    write_amc(tmp_path / "w.amc", make_figure(3, 9, 1.0), AmcDialect(unit_is_wrong=True))
    assert_same_motion(read_motions(tmp_path / "w.amc")[0], make_figure(3, 9, 1.0).truth, 4)


def test_mirrored_files_are_refused(tmp_path):
    """Left-handed axes: read as they are the wearer would look backwards."""
    write_bvh(tmp_path / "w.bvh", make_figure(3, 9, 1.0), BvhDialect(family="cmu"))
    text = (tmp_path / "w.bvh").read_text()
    swapped = text.replace("Left", "?").replace("Right", "Left").replace("?", "Right")
    (tmp_path / "w.bvh").write_text(swapped)
    with pytest.raises(MocapError, match="feet point backwards"):
        read_motions(tmp_path / "w.bvh")
    other = {"Left": "Right", "Right": "Left"}
    names = names_of("cmu")
    back = {COCO_JOINTS[coco]: re.sub("Left|Right", lambda side: other[side[0]], names[joint]) for coco, joint in COCO.items()}
    assert_same_motion(read_motions(tmp_path / "w.bvh", joint_map=back)[0], make_figure(3, 9, 1.0).truth, 4)


def test_a_head_that_no_rest_pose_explains_is_an_estimate(tmp_path):
    """Bones along x and a head whose frame is at no right angle to anything: looks ahead on average, and says so."""
    figure = make_figure(4, 241, 1.0)
    write_bvh(tmp_path / "w.bvh", figure, BvhDialect(rest="bones along x", head_tilt=45.0))
    (motion,) = read_motions(tmp_path / "w.bvh")
    assert motion.head == "estimated" and not motion.visible[:, :5].any()
    left, right = motion.joints[:, 5], motion.joints[:, 6]
    ahead = np.cross(left - right, [0, 0, 1.0])
    cosine = (motion.world_from_head[:, :3, 0] * ahead).sum(1) / np.linalg.norm(ahead, axis=1)
    assert np.median(cosine) > 0.9


# Rates and faults of AMC


@pytest.mark.parametrize(
    ("stated", "option", "count"), [(None, None, 11), (60, None, 21), (None, 60, 21), (60, 120, 11), (None, 50, 25)]
)
def test_rates(tmp_path, stated, option, count):
    figure = make_figure(5, 41, 1.0)
    write_amc(tmp_path / "w.amc", figure, AmcDialect(rate=stated))
    write_bvh(tmp_path / "w.bvh", figure, BvhDialect(rate=stated or 120))
    for name in ("w.amc", "w.bvh"):
        (motion,) = read_motions(tmp_path / name, rate=option)
        assert len(motion) == count and motion.source_rate == pytest.approx(option or stated or 120, rel=1e-5)


def damaged_amc(lines, how):
    starts = [n for n, line in enumerate(lines) if line.strip().isdigit()]
    one, two = starts[3], starts[4]
    return {
        "cut inside the last frame": lines[: starts[-1] + 6],
        "cut after a frame's number": lines[: starts[-1] + 1],
        "a frame lacks a leg": lines[:one] + [line for line in lines[one:two] if "femur" not in line] + lines[two:],
        "a frame lacks the root": lines[:one] + [line for line in lines[one:two] if "root" not in line] + lines[two:],
        "no frame has a leg": [line for line in lines if not line.startswith("lfemur")],
        "a frame lacks a toe": lines[:one] + [line for line in lines[one:two] if "ltoes" not in line] + lines[two:],
        "frames are missing": lines[:one] + lines[two:],
        "frames come twice": lines[:two] + lines[one:],
        "a bone comes twice": [*lines[:two], "head 0 0 0", *lines[two:]],
        "frames run backwards": lines[:one] + lines[two : starts[5]] + lines[one:two] + lines[starts[5] :],
        "a value is missing": lines[: two - 1] + [lines[two - 1].rsplit(" ", 1)[0]] + lines[two:],
    }[how]


@pytest.mark.parametrize(
    "how",
    ["cut inside the last frame", "cut after a frame's number", "a frame lacks a leg", "a frame lacks the root",
     "no frame has a leg", "a frame lacks a toe", "frames are missing", "frames come twice", "a bone comes twice",
     "frames run backwards", "a value is missing"],
)  # fmt: skip
def test_damaged_amc_is_refused(tmp_path, how):
    write_amc(tmp_path / "w.amc", make_figure(5, 9, 1.0), AmcDialect())
    lines = (tmp_path / "w.amc").read_text().splitlines()
    (tmp_path / "w.amc").write_text("\n".join(damaged_amc(lines, how)) + "\n")
    with pytest.raises(MocapError, match=r"w\.amc, line [0-9]+: .*(frame [0-9]+|expected 3 numbers)"):
        read_motions(tmp_path / "w.amc")


def test_thinned_frames_keep_their_numbers_where_the_rate_is_stated(tmp_path):
    figure = make_figure(5, 9, 1.0)
    write_amc(tmp_path / "w.amc", figure, AmcDialect())
    text = re.sub(r"(?m)^(\d+)$", lambda number: str(2 * int(number[0])), (tmp_path / "w.amc").read_text())
    (tmp_path / "w.amc").write_text(text)
    with pytest.raises(MocapError, match="frame 4 follows frame 2"):
        read_motions(tmp_path / "w.amc")
    assert_same_motion(read_motions(tmp_path / "w.amc", rate=60)[0], figure.truth, 2)
    (tmp_path / "w.amc").write_text(text.replace("\n8\n", "\n9\n"))
    with pytest.raises(MocapError, match="frame 9 follows frame 6"):
        read_motions(tmp_path / "w.amc", rate=60)


def test_bones_that_carry_nothing_may_be_missing_throughout(tmp_path):
    figure = make_figure(5, 9, 1.0)
    write_amc(tmp_path / "w.amc", figure, AmcDialect())
    lines = (tmp_path / "w.amc").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("ltoes", "rtoes", "lhand"))]
    (tmp_path / "w.amc").write_text("\n".join(kept))
    assert_same_motion(read_motions(tmp_path / "w.amc")[0], figure.truth, 4)


def test_the_skeleton_of_an_amc_is_its_own(tmp_path):
    figure = make_figure(5, 9, 1.0)
    write_amc(tmp_path / "02_01.amc", figure, AmcDialect())
    asf = (tmp_path / "02_01.asf").read_bytes()
    (tmp_path / "02_01.asf").unlink()
    (tmp_path / "._02.asf").write_bytes(b"\0\5\x16\7")  # what macOS adds to archives
    with pytest.raises(MocapError, match="needs its skeleton 02.asf"):
        read_motions(tmp_path / "02_01.amc")
    (tmp_path / "03.asf").write_bytes(asf)
    with pytest.raises(MocapError, match="needs its skeleton 02.asf"):
        read_motions(tmp_path / "02_01.amc")  # another subject's body
    (tmp_path / "02.ASF").write_bytes(asf)
    assert_same_motion(read_motions(tmp_path / "02_01.amc")[0], figure.truth, 4)


# The command


def test_hidden_files_of_archives_are_no_motions(tmp_path):
    for folder in ("CMU", "__MACOSX/CMU", ".Trash"):
        (tmp_path / "m" / folder).mkdir(parents=True)
    write_bvh(tmp_path / "m" / "CMU" / "w.bvh", make_figure(5, 9, 1.0), BvhDialect())
    for name in ("__MACOSX/CMU/._w.bvh", "CMU/._w.bvh", ".Trash/old.bvh"):
        (tmp_path / "m" / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / "m" / "folder.bvh").mkdir()
    assert data_command("mocap", tmp_path / "s", tmp_path / "m") == 0
    assert [info.name for info in TakeStore(tmp_path / "s").infos] == ["CMU_w"]


def test_what_the_user_states_reaches_the_store(tmp_path, capsys):
    figure, names = make_figure(5, 41, 0.55), names_of(None)
    write_bvh(tmp_path / "w.bvh", figure, BvhDialect(family=None, axes="z"))
    joint_map = {COCO_JOINTS[coco]: names[joint] for coco, joint in COCO.items()} | {"head": names["Head"]}
    (tmp_path / "map.json").write_text(json.dumps(joint_map), encoding="utf-8-sig")
    options = ("--joints", tmp_path / "map.json", "--rate", 60, "--unit", "cm", "--up", "z")
    assert data_command("mocap", tmp_path / "s", tmp_path / "w.bvh", *options) == 0
    take = TakeStore(tmp_path / "s").take("w")
    assert len(take.poses().frames) == 21
    extra = take.info.extra
    assert (extra["head"], extra["source_rate_hz"], extra["source_up"], extra["source_unit_m"]) == ("recorded", 60, "z", 0.01)
    world = ["world", str(tmp_path / "w"), "--motion", str(tmp_path / "w.bvh"), "--size", "16", "--image-stride", "30"]
    named = ("--motion-joints", str(tmp_path / "map.json"), "--motion-rate", "30", "--motion-unit", "cm")
    assert main([*world, "--jobs", "1", *named]) == 0
    capsys.readouterr()
    wrong = {"--unit": ("cubit", "0", "nan"), "--rate": ("0", "nan"), "--joints": ("none.json",)}
    for option, value in ((option, value) for option, values in wrong.items() for value in values):
        assert main(["data", "mocap", str(tmp_path / "t"), str(tmp_path / "w.bvh"), option, value]) == 2
        assert value in capsys.readouterr().err
