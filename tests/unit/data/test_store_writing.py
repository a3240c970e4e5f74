"""Writing takes: two commands on one take, the same bytes twice, one writer at a time, a full disk."""

import multiprocessing
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from store_samples import FRAMES, STAMPS, info, jpeg, track, tree

from internlm.data.store import StoreError, StoreWriter, TakeStore


def frames_step(writer: StoreWriter, **options) -> None:
    writer.extend_take(info(pose_space=None, extra={"serial": "1"}), FRAMES, labels=STAMPS, **options)


def poses_step(writer: StoreWriter, frames=range(20)) -> None:
    writer.extend_take(replace(info(extra={"coordinates": "world"}), camera=None), poses=track(frames))


@pytest.mark.parametrize("packed", [True, False])
def test_frames_and_poses_may_come_from_two_commands_in_any_order(tmp_path, packed):
    one, two = StoreWriter(tmp_path / "one"), StoreWriter(tmp_path / "two")
    frames_step(one, packed=packed)
    poses_step(one)
    poses_step(two)
    frames_step(two, packed=packed)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    take = TakeStore(tmp_path / "one").take("take")
    assert take.info == info(extra={"coordinates": "world", "serial": "1"})
    assert len(take.frame_numbers) == 10 and len(take.poses().frames) == 20 and take.labels().keys() == STAMPS.keys()
    poses_step(one, range(7))
    take = TakeStore(tmp_path / "one").take("take")
    assert take.read_frame(45) == jpeg(45) and len(take.poses().frames) == 7


def test_takes_that_disagree_are_not_mixed(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    frames_step(writer)
    before = tree(tmp_path / "s")
    for other, message in (
        ({"uid": "x"}, "has uid 'uid-take' in the store, now 'x'"),
        ({"split": "val"}, "has split"),
        ({"frame_rate": 10.0}, "frame_rate 30.0 in the store, now 10.0"),
        ({"source": "bvh"}, "images end at frame 45 and its poses at frame 2"),
    ):
        with pytest.raises(StoreError, match=message):
            writer.extend_take(replace(info(), **other), poses=track(range(3)))
    with pytest.raises(StoreError, match="labels timestamp_ns would be lost"):
        writer.extend_take(info(), poses=track(range(3)), labels={"frames": np.arange(2), "views": np.arange(2)})
    with pytest.raises(StoreError, match="neither frames nor poses"):
        writer.extend_take(info("empty"))
    assert tree(tmp_path / "s") == before


def test_the_same_takes_are_the_same_bytes_at_another_time(tmp_path, monkeypatch):
    for name, year in (("one", 2001), ("two", 2031)):
        monkeypatch.setattr(time, "time", lambda year=year: (year - 1970) * 3.15e7)
        monkeypatch.setattr(time, "localtime", lambda *_, year=year: time.struct_time((year, 1, 1, 0, 0, 0, 0, 1, 0)))
        writer = StoreWriter(tmp_path / name)
        writer.add_take(info(), FRAMES, track(range(9)), STAMPS)
        writer.add_take(info("loose"), FRAMES, packed=False)
    monkeypatch.undo()
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_one_writer_a_take_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("internlm.data.store.unfinished._LOCK_SECONDS", 0.1)
    writer = StoreWriter(tmp_path / "s")

    def frames():
        yield FRAMES[0]
        writer.discard("take")  # must not touch the folder of a live writer
        with pytest.raises(StoreError, match="takes/take: is being written by another process"):
            StoreWriter(tmp_path / "s").add_take(info(), FRAMES)
        yield FRAMES[1]

    writer.add_take(info(), frames())
    assert TakeStore(tmp_path / "s").take("take").frame_numbers.tolist() == [0, 5]


def test_take_of_a_writer_killed_between_its_two_renames_comes_back(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    frames_step(writer)
    poses_step(writer)
    before = tree(tmp_path / "s")
    takes = tmp_path / "s" / "takes"
    (takes / "take").rename(takes / ".replaced-take")
    (takes / ".partial-take").mkdir()
    frames_step(writer)
    assert tree(tmp_path / "s") == before


def test_reader_says_which_take_a_killed_replacement_took_away(tmp_path, monkeypatch):
    monkeypatch.setattr("internlm.data.store.unfinished._REPLACING_SECONDS", 0.1)
    frames_step(StoreWriter(tmp_path / "s"))
    (tmp_path / "s" / "takes" / "take").rename(tmp_path / "s" / "takes" / ".replaced-take")
    with pytest.raises(StoreError, match="take: its writer was killed while replacing it; give the writer's command again"):
        TakeStore(tmp_path / "s")
    broken = []
    assert TakeStore(tmp_path / "s", broken=broken).infos == [] and [name for name, _ in broken] == ["take"]


def _replace_for_ever(path, name, count):
    while True:
        StoreWriter(path).add_take(info(name), FRAMES[:1], overwrite=True)
        count.value += 1


def test_readers_and_other_writers_never_miss_a_take_that_is_being_replaced(tmp_path):
    """Between the two renames of a replacement the take's name is gone: whoever lists the store then must look again."""
    store, names = tmp_path / "s", ["a", "b"]
    for name in names:
        StoreWriter(store).add_take(info(name), FRAMES[:1])
    context = multiprocessing.get_context("spawn")
    count = context.Value("i", 0)
    process = context.Process(target=_replace_for_ever, args=(store, "b", count), daemon=True)
    process.start()
    try:
        while count.value < 1000:
            assert process.is_alive()
            assert [found.name for found in TakeStore(store).infos] == names
            StoreWriter(store).extend_take(info("a"), FRAMES[:1], labels=STAMPS)
    finally:
        process.kill()
        process.join()


def test_a_broken_neighbour_does_not_hinder_a_writer(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    frames_step(writer)
    (tmp_path / "s" / "takes" / "broken").mkdir()
    frames_step(writer)
    poses_step(writer)


def test_remains_of_a_killed_writer_are_discarded(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    partial = tmp_path / "s" / "takes" / ".partial-take"
    (partial / "frames").mkdir(parents=True)
    writer.discard("take")
    assert not partial.exists()


def test_store_can_be_begun_again_after_a_kill_but_not_in_somebody_elses_folder(tmp_path):
    (tmp_path / "s" / "takes").mkdir(parents=True)
    (tmp_path / "s" / ".store.json.tmp").write_text("{")
    StoreWriter(tmp_path / "s")
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["store.json", "takes"]
    (tmp_path / "download" / "takes" / "cmu_bike01_5").mkdir(parents=True)
    with pytest.raises(StoreError, match="not a take store"):
        StoreWriter(tmp_path / "download")


LIMITED = """
import resource, sys
sys.path.insert(0, {samples!r})
from store_samples import info, jpeg, track
from internlm.data.store import DiskFullError, StoreWriter
writer = StoreWriter({path!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    {call}
except DiskFullError as error:
    sys.exit(f"disk full: {{error}}")
"""


@pytest.mark.parametrize(
    "call",
    [
        "writer.add_take(info(), ((n, jpeg(n % 256)) for n in range(100)))",
        "writer.add_take(info(), [(0, jpeg(0) + bytes(9000))], packed=False)",
        "writer.add_take(info(), poses=track(range(100)))",
        "writer.add_take(info(), ((n, b'\\xff\\xd8\\xff' * 1000) for n in range(3)))",
        "writer.extend_take(info('old'), poses=track(range(100)))",
    ],
)
def test_full_disk_is_named_and_leaves_nothing(tmp_path, samples, call):
    writer = StoreWriter(tmp_path / "s")
    writer.add_take(info("old"), FRAMES[:2])
    before = tree(tmp_path / "s")
    code = LIMITED.format(samples=str(samples), path=str(tmp_path / "s"), call=call)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "disk full: " in done.stderr and "free some space" in done.stderr, done.stderr
    assert tree(tmp_path / "s") == before
    assert [p.name for p in (tmp_path / "s" / "takes").iterdir()] == ["old"]


def test_a_rest_that_cannot_be_removed_does_not_hinder_later_writers(tmp_path, monkeypatch):
    """On NFS a file that somebody still reads stays as .nfs...; the folder it is in cannot go."""
    import shutil

    from internlm.data.store import unfinished

    remove = shutil.rmtree

    def leaves_open_files(folder, **options):
        if Path(folder).is_dir() and (".replaced-" in Path(folder).name or ".leftover." in Path(folder).name):
            for entry in Path(folder).iterdir():
                if not entry.name.startswith(".nfs"):
                    remove(entry) if entry.is_dir() else entry.rename(entry.with_name(f".nfs{entry.name}"))
        else:
            remove(folder, **options)

    writer = StoreWriter(tmp_path / "s")
    frames_step(writer)
    monkeypatch.setattr(unfinished.shutil, "rmtree", leaves_open_files)
    for count in (3, 4, 5):
        poses_step(writer, range(count))
        take = TakeStore(tmp_path / "s").take("take")
        assert len(take.poses().frames) == count and len(take.frame_numbers) == 10
    assert all(name.startswith(".leftover.") for name in unfinished.remains(tmp_path / "s" / "takes"))
    assert [found.name for found in unfinished.finished(tmp_path / "s" / "takes")] == ["take"]
    monkeypatch.undo()
    frames_step(writer)
    assert not any(".nfs" in str(path) for path in (tmp_path / "s" / "takes" / "take").rglob("*"))


def test_takes_that_are_links_to_another_disk_are_replaced_and_the_other_disk_is_left_alone(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    frames_step(writer)
    final, other = tmp_path / "s" / "takes" / "take", tmp_path / "disk" / "take"
    other.parent.mkdir()
    final.rename(other)
    final.symlink_to(other)
    before = tree(other)
    poses_step(writer)
    assert tree(other) == before and len(TakeStore(tmp_path / "s").take("take").poses().frames) == 20
    assert [path.name for path in final.parent.iterdir()] == ["take"]


def test_what_a_writer_left_that_was_killed_after_the_exchange_is_cleared_away(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    frames_step(writer)
    before = tree(tmp_path / "s")
    old = tmp_path / "s" / "takes" / ".replaced-take"
    old.mkdir()
    (old / "take.json").write_text("{}")
    assert writer.info("take") is not None
    assert {name: digest for name, digest in tree(tmp_path / "s").items() if "/.lock-" not in name} == before
