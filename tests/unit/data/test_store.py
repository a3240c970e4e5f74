"""The take store: round trip, what is refused, and that an unfinished take is never seen."""

import json
import multiprocessing
import os
import pickle
import signal
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from store_samples import info, jpeg, track

from internlm.data.store import StoreError, StoreWriter, TakeStore


@pytest.mark.parametrize("packed", [True, False])
def test_round_trip(tmp_path, packed):
    frames = [(number, jpeg(number)) for number in (0, 5, 10, 40)]
    labels = {"frames": np.arange(3), "action": np.array([2, 0, 1]), "gaze_target": np.ones((3, 3), np.float32)}
    written = track(range(20))
    StoreWriter(tmp_path / "s").add_take(info(extra={"note": [1]}), frames, written, labels, packed=packed)
    store = TakeStore(tmp_path / "s")
    take = store.take("take")
    assert store.infos == [info(extra={"note": [1]})]
    assert take.frame_numbers.tolist() == [0, 5, 10, 40]
    assert [take.read_frame(number) for number, _ in frames] == [data for _, data in frames]
    read = take.poses()
    for name in ("frames", "joints", "visible", "camera_frames", "world_from_camera"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    for name, values in labels.items():
        np.testing.assert_array_equal(take.labels()[name], values)


def test_packed_frames_are_a_plain_tar(tmp_path):
    folder = StoreWriter(tmp_path / "s").add_take(info(), [(3, jpeg(3)), (6, jpeg(6))])
    with tarfile.open(folder / "frames.tar") as tar:
        assert tar.getnames() == ["frame_0000003.jpg", "frame_0000006.jpg"]
        assert tar.extractfile("frame_0000006.jpg").read() == jpeg(6)


def test_loose_frames_need_no_padding(tmp_path):
    folder = StoreWriter(tmp_path / "s").add_take(info(), [(0, jpeg(0))], packed=False)
    (folder / "frames" / "frame_25.jpg").write_bytes(jpeg(25))
    take = TakeStore(tmp_path / "s").take("take")
    assert take.frame_numbers.tolist() == [0, 25] and take.read_frame(25) == jpeg(25)


def test_take_without_poses_or_labels(tmp_path):
    StoreWriter(tmp_path / "s").add_take(info(pose_space=None), [(0, jpeg(0))])
    take = TakeStore(tmp_path / "s").take("take")
    assert take.poses() is None and take.labels() == {}


def test_select_by_split_sorted_by_name(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    for name, split in (("c", "train"), ("a", "val"), ("b", "train")):
        writer.add_take(info(name, split), [(0, jpeg(0))])
    store = TakeStore(tmp_path / "s")
    assert [take.info.name for take in store.select("train")] == ["b", "c"]
    assert [take.info.name for take in store.select()] == ["a", "b", "c"]
    assert store.select("test") == []
    with pytest.raises(StoreError, match="'training' is not one of train, val, test"):
        store.select("training")


def test_only_folders_are_takes(tmp_path):
    StoreWriter(tmp_path / "s").add_take(info(), [(0, jpeg(0))])
    for stray in ("notes.txt", ".DS_Store", ".partial-", ".partial-other"):
        (tmp_path / "s" / "takes" / stray).write_text("")
    assert [found.name for found in TakeStore(tmp_path / "s").infos] == ["take"]


def test_joints_that_are_not_visible_are_stored_as_zero(tmp_path):
    poses = track(range(4))
    poses.visible[:, 3] = False
    poses.joints[:, 3] = -1.0
    StoreWriter(tmp_path / "s").add_take(info(), poses=poses)
    assert (TakeStore(tmp_path / "s").take("take").poses().joints[:, 3] == 0).all()


def _write_and_die(path):
    def frames():
        yield 0, jpeg(0)
        os.kill(os.getpid(), signal.SIGKILL)

    StoreWriter(path).add_take(info(), frames())


def test_killed_writer_leaves_nothing_visible(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_write_and_die, args=(tmp_path / "s",))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert any((tmp_path / "s" / "takes").iterdir()), "the kill came before anything was written"
    assert TakeStore(tmp_path / "s").infos == []
    StoreWriter(tmp_path / "s").add_take(info(), [(0, jpeg(1))])
    assert TakeStore(tmp_path / "s").take("take").read_frame(0) == jpeg(1)
    assert [entry.name for entry in (tmp_path / "s" / "takes").iterdir()] == ["take"]


def test_failed_take_leaves_nothing_and_keeps_the_old_one(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    writer.add_take(info(), [(0, jpeg(0))])

    def frames():
        yield 0, jpeg(9)
        raise RuntimeError("camera gone")

    with pytest.raises(RuntimeError, match="camera gone"):
        writer.add_take(info(), frames(), overwrite=True)
    assert [entry.name for entry in (tmp_path / "s" / "takes").iterdir()] == ["take"]
    assert TakeStore(tmp_path / "s").take("take").read_frame(0) == jpeg(0)


def test_existing_name_needs_overwrite(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    writer.add_take(info(), [(0, jpeg(0))])
    with pytest.raises(StoreError, match="'take' exists"):
        writer.add_take(info(), [(0, jpeg(1))])
    writer.add_take(info(), [(0, jpeg(1))], overwrite=True)
    assert TakeStore(tmp_path / "s").take("take").read_frame(0) == jpeg(1)


def test_foreign_folders_are_refused(tmp_path):
    with pytest.raises(StoreError, match="not a take store"):
        TakeStore(tmp_path)
    (tmp_path / "letter.txt").write_text("hello")
    with pytest.raises(StoreError, match="choose an empty or new folder"):
        StoreWriter(tmp_path)


def test_other_version_is_refused(tmp_path):
    StoreWriter(tmp_path / "s")
    header = json.loads((tmp_path / "s" / "store.json").read_text())
    (tmp_path / "s" / "store.json").write_text(json.dumps(header | {"version": 3}))
    with pytest.raises(StoreError, match="version 3 cannot be read, this code reads versions 1 and 2"):
        TakeStore(tmp_path / "s")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([(5, jpeg(0)), (5, jpeg(0))], "frame 5 comes after frame 5"),
        ([(-1, jpeg(0))], "numbers must rise from 0"),
        ([(0, b"text")], "frame 0 is neither JPEG nor PNG"),
        ([], "neither frames nor poses"),
    ],
)
def test_bad_frames_are_refused(tmp_path, frames, message):
    with pytest.raises(StoreError, match=message):
        StoreWriter(tmp_path / "s").add_take(info(), frames)


def _spoil(name, index, value):
    poses = track(range(5))
    getattr(poses, name)[index] = value
    return poses


@pytest.mark.parametrize(
    ("poses", "message"),
    [
        (_spoil("frames", 2, 1), "do not rise: 1 is followed by 1"),
        (_spoil("joints", (2, np.flatnonzero(track(range(5)).visible[2])[0], 0), np.nan), "joints are not finite at frame 2"),
        (_spoil("world_from_camera", (3, 0, 0), 2.0), "no rigid transform at frame 3"),
        (_spoil("world_from_camera", (3, 0, 0), -1.0), "no rigid transform at frame 3"),
        (_spoil("world_from_camera", (3, 0, 3), np.inf), "no rigid transform at frame 3"),
    ],
)
def test_bad_poses_are_refused(tmp_path, poses, message):
    with pytest.raises(StoreError, match=f"'take'.*{message}"):
        StoreWriter(tmp_path / "s").add_take(info(), poses=poses)


def test_poses_need_a_space(tmp_path):
    with pytest.raises(StoreError, match="pose_space is None"):
        StoreWriter(tmp_path / "s").add_take(info(pose_space=None), poses=track(range(3)))


def test_damaged_files_are_named(tmp_path):
    folder = StoreWriter(tmp_path / "s").add_take(info(), [(0, jpeg(0)), (5, jpeg(5))], track(range(5)))
    take = TakeStore(tmp_path / "s").take("take")
    with pytest.raises(StoreError, match="no image of frame 3"):
        take.read_frame(3)
    archive = (folder / "poses.npz").read_bytes()
    (folder / "poses.npz").write_bytes(archive[: len(archive) // 2])
    with pytest.raises(StoreError, match=r"poses\.npz: cannot be read"):
        take.poses()
    os.truncate(folder / "frames.tar", 600)
    with pytest.raises(StoreError, match=r"frames\.idx\.npy: points outside frames\.tar"):
        _ = TakeStore(tmp_path / "s").take("take").frame_numbers
    (folder / "take.json").write_text('{"name": "take"}')
    with pytest.raises(StoreError, match=r"take\.json"):
        TakeStore(tmp_path / "s")


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a\\b"])
def test_take_names_stay_inside_the_store(name):
    with pytest.raises(StoreError, match="cannot be a folder name"):
        info(name)


def test_threads_and_pickles_read_the_same(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    for take in range(80):  # more takes than files kept open
        writer.add_take(info(f"t{take}"), [(0, jpeg(take)), (1, jpeg(255 - take))])
    store = TakeStore(tmp_path / "s")
    jobs = [(f"t{take}", number, jpeg(255 - take if number else take)) for take in range(80) for number in (0, 1)] * 5
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda job: store.take(job[0]).read_frame(job[1]) == job[2], jobs))
    copy = pickle.loads(pickle.dumps(store))
    assert copy.take("t7").read_frame(1) == jpeg(248)
