"""``egoagent data show``: the skeleton lies where the stored camera sees it, and nowhere else."""

from pathlib import Path

import numpy as np
import pytest
from data_samples import data_command, jpeg, write_take
from PIL import Image

from dataset_preprocess import show_take as strip
from dataset_preprocess.show_take import show_take
from internlm.data.skeleton import BONES
from internlm.data.store import Camera, PoseTrack, StoreError, StoreWriter, TakeInfo
from internlm.egoworld.camera import default_camera
from internlm.eval.report import figures

SIZE = 112
PINHOLE = Camera("pinhole", SIZE, SIZE, (50, 50, 55.5, 55.5))
LEFT_WRIST, RIGHT_WRIST, LEFT_ELBOW = 9, 10, 7


def write(path: Path, camera: Camera, points: dict[int, tuple], pose_space="camera", world_from_camera=None) -> Path:
    """Black pictures of frames 0 and 5; ``points``: joint -> position in the camera."""
    joints, visible = np.zeros((2, 17, 3), np.float32), np.zeros((2, 17), bool)
    for joint, point in points.items():
        joints[:, joint], visible[:, joint] = point, True
    world = np.eye(4) if world_from_camera is None else world_from_camera
    if pose_space == "world":
        joints = np.where(visible[..., None], joints @ world[:3, :3].T + world[:3, 3], 0).astype(np.float32)
    frames = np.array([0, 5])
    track = PoseTrack(frames, joints, visible, frames, np.tile(world, (2, 1, 1)))
    black = jpeg(np.zeros((camera.height, camera.width, 3), np.uint8))
    info = TakeInfo("t", "t", "train", 30.0, camera, pose_space)
    StoreWriter(path).add_take(info, [(0, black), (5, black)], track)
    return path


def drawn(path: Path, height: int = SIZE, **options) -> np.ndarray:
    """Brightness [height, width] of the first picture of the strip."""
    show_take(path, "t", path.parent / "out.png", height=height, count=1, **options)
    return np.asarray(Image.open(path.parent / "out.png")).max(-1)


@pytest.mark.parametrize("height", [SIZE, 3 * SIZE])
def test_a_joint_is_drawn_where_the_pinhole_sees_it(tmp_path, height, capsys):
    picture = drawn(write(tmp_path / "s", PINHOLE, {LEFT_WRIST: (0.3, -0.2, 0.5)}), height)
    rows, columns = np.nonzero(picture > 100)
    scale = height / SIZE
    expected = (np.array([50 * 0.6 + 55.5, 50 * -0.4 + 55.5]) + 0.5) * scale - 0.5
    assert np.abs([columns.mean() - expected[0], rows.mean() - expected[1]]).max() < 1
    assert "1 joints drawn" in capsys.readouterr().out


def test_world_poses_go_through_the_camera_of_their_frame(tmp_path):
    turn = np.eye(4)
    turn[:3, :3], turn[:3, 3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], (3, -2, 1.6)
    points = {LEFT_WRIST: (0.3, -0.2, 0.5), LEFT_ELBOW: (-0.1, 0.3, 0.6)}
    one = drawn(write(tmp_path / "one" / "s", PINHOLE, points))
    two = drawn(write(tmp_path / "two" / "s", PINHOLE, points, "world", turn))
    np.testing.assert_array_equal(one, two)
    assert (one > 100).sum() > 20


def test_nothing_behind_outside_or_unseen_is_drawn(tmp_path, capsys):
    points = {LEFT_WRIST: (0.1, 0.1, -0.5), RIGHT_WRIST: (5, 0, 1)}
    assert drawn(write(tmp_path / "a" / "s", PINHOLE, points)).max() == 0
    assert "0 joints drawn" in capsys.readouterr().out
    assert drawn(write(tmp_path / "b" / "s", PINHOLE, {})).max() == 0


def test_bone_is_drawn_up_to_the_border_of_what_the_camera_sees(tmp_path, capsys):
    """A bone from the middle of the picture to behind the camera: the part in front is there, the rest is not."""
    picture = drawn(write(tmp_path / "s", PINHOLE, {LEFT_ELBOW: (0, 0, 0.5), LEFT_WRIST: (0.4, 0, -0.5)}))
    assert (picture[54:58, 60:90] > 60).any(0).all() and picture[:, :50].max() < 60
    assert "1 joints drawn" in capsys.readouterr().out


@pytest.mark.parametrize(("angle", "count"), [(0.5, 1), (0.95, 1), (1.02, 0), (1.3, 0)])
def test_fisheye_draws_only_inside_its_valid_circle(tmp_path, angle, count, capsys):
    camera = default_camera("fisheye624", SIZE)
    write(tmp_path / "s", camera, {LEFT_WRIST: (np.sin(angle) * 0.5, 0, np.cos(angle) * 0.5)})
    picture = drawn(tmp_path / "s")
    assert f"{count} joints drawn" in capsys.readouterr().out and (picture.max() > 100) == bool(count)


def test_frames_with_poses_are_chosen_and_the_skeleton_can_be_left_out(tmp_path, capsys):
    write_take(tmp_path / "s", images=range(0, 100), poses=range(40, 60), cameras=range(30, 50))
    assert data_command("show", tmp_path / "s", "take", tmp_path / "strip.png", "--frames", 3) == 0
    assert Image.open(tmp_path / "strip.png").size == (3 * 224, 224)
    assert "frames 40, 44, 49 of take" in capsys.readouterr().out
    assert data_command("show", tmp_path / "s", "take", tmp_path / "strip.png", "--frames", 2, "--no-skeleton") == 0
    assert "frames 0, 99 of take\n" in capsys.readouterr().out


def test_take_without_images_or_with_damaged_ones_is_an_error(tmp_path):
    write_take(tmp_path / "s", images=[])
    with pytest.raises(StoreError, match="has no images to show"):
        show_take(tmp_path / "s", "take", tmp_path / "out.png")
    StoreWriter(tmp_path / "s").add_take(TakeInfo("bad", "bad", "train", 30.0), [(0, b"\xff\xd8\xff" * 40)])
    with pytest.raises(StoreError, match="frame 0 cannot be decoded"):
        show_take(tmp_path / "s", "bad", tmp_path / "out.png")
    with pytest.raises(StoreError, match="no take named 'gone'"):
        show_take(tmp_path / "s", "gone", tmp_path / "out.png")


def test_bones_are_those_of_every_picture_in_the_colour_of_their_side():
    assert strip.BONES is figures.BONES is BONES
    colours = {bone: strip._colour(*bone) for bone in BONES}
    assert {bone for bone, colour in colours.items() if colour == strip.MIDDLE} == {(5, 6), (11, 12)}
    assert all(colour == strip.LEFT for bone, colour in colours.items() if bone[1] % 2 and bone not in {(5, 6), (11, 12)})
    assert sum(colour == strip.RIGHT for colour in colours.values()) == 7
