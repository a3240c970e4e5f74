"""What `data check` says of bodies and gazes: right ones pass, wrong sizes and turned cameras are named with their figures."""

import re

import numpy as np
import pytest
from data_samples import data_command_here as data_command

from dataset_preprocess.pose_sanity import measure
from internlm.data.mocap import motion_take, read_motions
from internlm.data.store import PoseTrack, StoreWriter, TakeInfo
from internlm.egoworld.body import head_camera, place_head, yaw_pitch

FRAMES = 120


def wearer(
    *, speed: float = 1.2, way: float = 0.0, turned: float = 0.0, looks: float = 0.0, rolled: float = 0.0, size: float = 1.0
) -> PoseTrack:
    """Four seconds of somebody of 1.7 m times ``size`` who faces +x and goes at ``speed`` m/s, ``way`` degrees from there.

    turned: how far the camera is turned to the left on the head, degrees; looks: how far the head turns to and fro; rolled: the
    camera about its optical axis."""
    time = np.arange(FRAMES) / 30
    swing = np.radians(6) * np.sin(2 * np.pi * time)
    joints = np.zeros((FRAMES, 17, 3))
    middle = {5: (0.18, 1.4), 7: (0.2, 1.11), 9: (0.2, 0.86), 11: (0.09, 0.9), 13: (0.09, 0.48), 15: (0.09, 0.07)}
    for left, (aside, height) in middle.items():
        for joint, sign in ((left, 1), (left + 1, -1)):
            yaw = swing if left < 11 else -swing
            joints[:, joint] = np.stack([-np.sin(yaw) * sign * aside, np.cos(yaw) * sign * aside, np.full(FRAMES, height)], -1)
    head = yaw_pitch(np.radians(looks) * np.sin(2 * np.pi * time / 1.7), np.full(FRAMES, 0.1))
    eyes = np.array([0.1, 0.0, 1.6])
    place_head(joints, np.broadcast_to(eyes, (FRAMES, 3)), head)
    world_from_head = np.broadcast_to(np.eye(4), (FRAMES, 4, 4)).copy()
    world_from_head[:, :3, :3] = yaw_pitch(np.full(FRAMES, np.radians(turned)), np.zeros(FRAMES)) @ head
    world_from_head[:, :3, 3] = eyes
    camera = head_camera(world_from_head, 0.14)
    c, s = np.cos(np.radians(rolled)), np.sin(np.radians(rolled))
    camera[:, :3, :3] = camera[:, :3, :3] @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    going = time[:, None] * speed * np.array([np.cos(np.radians(way)), np.sin(np.radians(way)), 0])
    camera[:, :3, 3] = (camera[:, :3, 3] + going) * size
    joints = (joints + going[:, None]) * size
    frames = np.arange(FRAMES)
    return PoseTrack(frames, joints.astype(np.float32), np.ones((FRAMES, 17), bool), frames, camera)


def odd(track: PoseTrack) -> list[str]:
    return measure(track, 30.0, "world").odd


@pytest.mark.parametrize(
    "track",
    [wearer(), wearer(speed=0), wearer(turned=8), wearer(looks=40, turned=20, speed=0), wearer(looks=60), wearer(way=90),
     wearer(way=180), wearer(rolled=20), wearer(size=0.75), wearer(size=1.2)],
)  # fmt: skip
def test_what_people_do_is_not_odd(track):
    assert odd(track) == []


@pytest.mark.parametrize("turned", [-180, -90, -31, -20, -15, 14, 20, 31, 90, 170])
def test_a_turned_camera_is_named_with_its_angle(turned):
    side = "left" if turned > 0 else "right"
    (walking,) = odd(wearer(turned=turned, looks=5))
    degrees = [int(found) for found in re.findall(rf"(\d+) degrees {'(?:left|right)' if turned == -180 else side}", walking)]
    assert len(degrees) == 2 and "of the way that is walked" in walking
    assert max(abs(found - abs(turned)) for found in degrees) <= 2
    if abs(turned) > 18:
        (standing,) = odd(wearer(turned=turned, speed=0))
        assert "of where the shoulders face (median)" in standing


@pytest.mark.parametrize("rolled", [-90, 90, 180])
def test_a_camera_on_its_side_is_named(rolled):
    assert any(f"rolled by {abs(rolled)} degrees" in text for text in odd(wearer(rolled=rolled)))


@pytest.mark.parametrize("size", [0.0254, 0.3048, 0.5, 2.0, 2.54, 39.37, 100.0])
def test_a_body_of_another_scale_is_named(size):
    (height,) = [re.search(r"a person (\S+) m tall", text)[1] for text in odd(wearer(size=size, speed=0)) if "tall" in text]
    assert float(height) == pytest.approx(1.7 * size, rel=0.05)


def test_a_limb_of_another_body_is_named():
    track = wearer(speed=0)
    joints = track.joints.copy()
    joints[:, 9, 2] -= 0.25  # the tip of something held in the hand
    found = odd(PoseTrack(track.frames, joints, track.visible, track.camera_frames, track.world_from_camera))
    assert len(found) == 1 and found[0].startswith("left-elbow to left-wrist is 0.50 m long")


def test_poses_in_camera_coordinates_are_judged_alike():
    track = wearer(turned=25)
    inverse = np.linalg.inv(track.world_from_camera)
    joints = np.einsum("fij,fkj->fki", inverse[:, :3, :3], track.joints) + inverse[:, None, :3, 3]
    seen = PoseTrack(track.frames, joints.astype(np.float32), track.visible, track.camera_frames, track.world_from_camera)
    assert measure(seen, 30.0, "camera").odd == odd(track) != []


def test_the_check_of_a_store_says_so(tmp_path, capsys):
    for name, track in (("right", wearer()), ("turned", wearer(turned=-20)), ("twice", wearer(size=2))):
        StoreWriter(tmp_path / "s").add_take(TakeInfo(name, name, "train", 30.0, pose_space="world"), poses=track)
    assert data_command("check", tmp_path / "s") == 0 and data_command("check", tmp_path / "s", "--strict") == 1
    out = capsys.readouterr().out
    assert "looks 20 degrees right" in out and "a person 3.3" in out and out.count("2 odd") == 2


@pytest.mark.parametrize("name", ["02_01", "02_02", "02_03", "02_04"])
def test_real_walkers_look_ahead_and_would_be_named_if_they_did_not(shared_data, name):
    info, track = motion_take(read_motions(shared_data / "cmu_amc" / f"{name}.amc")[0])
    assert not any("camera looks" in text for text in odd(track))
    turn = yaw_pitch(np.radians([-20.9]), np.zeros(1))[0]
    cameras = track.world_from_camera.copy()
    cameras[:, :3, :3] = turn @ cameras[:, :3, :3]
    turned = PoseTrack(track.frames, track.joints, track.visible, track.camera_frames, cameras)
    assert sum("camera looks" in text and "degrees right" in text for text in odd(turned)) == 1
