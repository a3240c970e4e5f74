"""Killed anywhere, or given for takes that lack depth, ``egoagent world --depth`` ends with all depth and loses nothing."""

import multiprocessing
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from column_samples import gaze
from store_samples import tree, version

from internlm import cli
from internlm.data.store import StoreError, StoreWriter, TakeStore
from internlm.egoworld.simulate import generate_store

SMALL = ("--takes", "1", "--val-takes", "0", "--test-takes", "0", "--seconds", "0.2", "--size", "16", "--jobs", "1")


OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link")


def world_until(store: Path, words: tuple[str, ...], kill_at: int, operations: tuple[str, ...], told) -> None:
    """``egoagent world``, killed at the file operation of that number; sends how many there were when it comes to the end."""
    sys.stdout = sys.stderr = open(os.devnull, "w")
    count = 0

    def watch(event: str, _) -> None:
        nonlocal count
        if event in operations:
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    assert cli.main(["world", str(store), *SMALL, *words]) == 0
    told.send(count)


def world(store: Path, *words: str, kill_at: int = 0, operations: tuple[str, ...] = OPERATIONS) -> int:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=world_until, args=(store, words, kill_at, operations, theirs))
    process.start()
    theirs.close()
    process.join(60)
    assert process.exitcode == (-signal.SIGKILL if kill_at else 0)
    return 0 if kill_at else ours.recv()


@pytest.mark.parametrize("existing", [False, True])
def test_a_world_killed_anywhere_has_all_its_depth_when_it_is_given_again(tmp_path, existing):
    world(tmp_path / "plain")
    if existing:
        shutil.copytree(tmp_path / "plain", tmp_path / "whole")
    again = shutil.copytree(tmp_path / "plain", tmp_path / "again") if existing else tmp_path / "again"
    renames = world(again, "--depth", operations=("os.rename",))
    count = world(tmp_path / "whole", "--depth")
    expected = tree(tmp_path / "whole")
    plain = tree(tmp_path / "plain")
    assert version(tmp_path / "plain") == 1 and all(expected[name] == plain[name] for name in plain if name != "store.json")
    assert [take.columns for take in TakeStore(tmp_path / "whole").select()] == [["depth"]]
    kills = [(OPERATIONS, place) for place in np.linspace(count // 3, count, 4).astype(int).tolist()]
    kills += [(("os.rename",), place) for place in range(1, renames + 1)]  # also between the two that exchange a take
    assert renames == 3
    for number, (operations, kill_at) in enumerate(kills):
        store = tmp_path / str(number)
        if existing:
            shutil.copytree(tmp_path / "plain", store)
        world(store, "--depth", kill_at=kill_at, operations=operations)
        world(store, "--depth")
        # an empty lock file of a killed writer may stay; the next writer uses it
        found = {name: digest for name, digest in tree(store).items() if "/.lock-" not in name}
        assert found == expected, f"killed at number {kill_at} of {operations}"


def test_depth_comes_to_old_takes_and_what_others_wrote_stays(tmp_path):
    options = dict(size=16, seconds=0.2)
    generate_store(tmp_path / "s", {"train": 1}, **options)
    take = TakeStore(tmp_path / "s").select()[0]
    np.savez(take.path / "depth.npz", frames=np.array([0, 5]), depth_mm=np.ones((2, 16, 16), np.uint16))
    row = replace(take.info, source="eyes", labels={}, extra={})
    StoreWriter(tmp_path / "s").extend_take(row, columns={"gaze": gaze([0, 5])})
    generate_store(tmp_path / "s", {"train": 1}, depth=True, **options)
    take = TakeStore(tmp_path / "s").select()[0]
    assert take.columns == ["depth", "gaze"] and take.column("depth").about == {"kind": "z"}
    assert take.column("depth").read(5).min() > 1 and not (take.path / "depth.npz").exists()
    before = tree(tmp_path / "s")
    generate_store(tmp_path / "s", {"train": 1}, depth=True, **options)
    generate_store(tmp_path / "s", {"train": 1}, **options)
    assert tree(tmp_path / "s") == before


def test_depth_is_not_put_to_pictures_of_another_world(tmp_path):
    generate_store(tmp_path / "s", {"train": 1}, size=16, seconds=0.2)
    path = TakeStore(tmp_path / "s").select()[0].path / "poses.npz"
    with np.load(path) as poses:
        moved = dict(poses)
    moved["world_from_camera"][:, 0, 3] += 0.1
    np.savez(path, **moved)
    before = tree(tmp_path / "s")
    with pytest.raises(StoreError, match="was made by another version of EgoWorld; choose a new folder"):
        generate_store(tmp_path / "s", {"train": 1}, size=16, seconds=0.2, depth=True)
    assert tree(tmp_path / "s") == before


def test_depth_of_the_raw_layout_is_refused(tmp_path, capsys):
    assert cli.main(["world", str(tmp_path / "r"), "--raw", "--depth"]) == 2
    assert "--depth: recordings in the layout of Ego-Exo4D (--raw) have no depth" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
