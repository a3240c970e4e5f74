"""A run killed at any file operation and given again yields the bytes of an uninterrupted one."""

import multiprocessing
import os
import random
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pipeline_samples import Recording
from store_samples import info, jpeg, track, tree

from dataset_preprocess.pipeline import SkipTake, run_jobs
from internlm.data.store import StoreError, StoreWriter, TakeStore

OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.scandir", "shutil.rmtree")
JOBS = [Recording("a"), Recording("b", "skip"), Recording("c")]
STAMPS = {"frames": np.arange(3), "timestamp_ns": np.arange(3)}


def frames(job: Recording, *, out: Path) -> dict:
    if job.what == "skip":
        raise SkipTake("has no wearer")
    StoreWriter(out).extend_take(info(job.name, pose_space=None), ((n, jpeg(n)) for n in range(3)), labels=STAMPS)
    return {"frames": 3}


def poses(job: Recording, *, out: Path) -> dict:
    StoreWriter(out).extend_take(info(job.name), poses=track(range(4)))
    return {"poses": 4}


def both(out: Path, **options) -> None:
    run_jobs(JOBS, partial(frames, out=out), out=out, step="frames", workers=0, **options)
    run_jobs(JOBS, partial(poses, out=out), out=out, step="poses", workers=0, **options)


def run_until(out: Path, kill_at: int, force: bool, told) -> None:
    """Both steps, killed at the file operation of that number; sends the number of operations when it comes to the end."""
    sys.stdout = sys.stderr = open(os.devnull, "w")
    count = 0

    def watch(event: str, _) -> None:
        nonlocal count
        if event in OPERATIONS:
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    both(out, force=force)
    told.send(count)


def killed_run(out: Path, kill_at: int, *, force: bool = False) -> tuple[int | None, int]:
    """(operations or None, exit code) of a run in a forked process: forked, so that 200 of them take seconds."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=run_until, args=(out, kill_at, force, theirs))
    process.start()
    theirs.close()
    process.join(60)
    return (ours.recv() if process.exitcode == 0 else None), process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, int]:
    """A store made at once, and the number of file operations that it took."""
    out = tmp_path_factory.mktemp("whole") / "s"
    count, _ = killed_run(out, 0)
    assert count > 60 and len(TakeStore(out)) == 3
    return out, count


@pytest.mark.parametrize("part", range(4))
def test_killed_at_any_file_operation_and_run_again(tmp_path, whole, part, monkeypatch):
    monkeypatch.setattr("internlm.data.store.unfinished._REPLACING_SECONDS", 0.05)
    expected, count, named = tree(whole[0]), whole[1], 0
    for kill_at in range(1 + part, count, 4):
        out = tmp_path / str(kill_at)
        assert killed_run(out, kill_at) == (None, -signal.SIGKILL)
        if (out / "store.json").is_file():
            broken: list[tuple[str, StoreError]] = []
            for take in TakeStore(out, broken=broken).select():  # what is visible is complete
                assert len(take.frame_numbers) in (0, 3) and len(take.labels()) in (0, 2)
                assert all(take.read_frame(number) for number in take.frame_numbers.tolist())
            for name, error in broken:  # killed between the two renames that exchange a take
                assert not (out / "takes" / name).exists() and "killed while replacing it" in str(error)
            named += len(broken)
        both(out)
        assert tree(out) == expected, f"killed at operation {kill_at} of {count}"
        shutil.rmtree(out)
    assert named <= 2, "two takes are exchanged, and each is away at one operation only"


def test_killed_repetition_loses_nothing(tmp_path, whole):
    """With --force, also in the moment in which a take is exchanged for its new self."""
    expected, rng = tree(whole[0]), random.Random(0)
    out = tmp_path / "s"
    shutil.copytree(whole[0], out)
    count, _ = killed_run(out, 0, force=True)
    for kill_at in rng.sample(range(1, count), 30):
        assert killed_run(out, kill_at, force=True) == (None, -signal.SIGKILL)
        both(out)
        assert tree(out) == expected, f"killed at operation {kill_at} of {count}"


def test_killed_again_and_again(tmp_path, whole):
    out, rng, kills = tmp_path / "s", random.Random(1), 0
    while killed_run(out, rng.randint(1, 90))[1] == -signal.SIGKILL:
        kills += 1
        assert kills < 200
    assert kills > 2 and tree(out) == tree(whole[0])


def test_two_runs_at_a_time_do_not_mix(tmp_path, whole):
    """Both work on the same takes: each take is made by one of them at a time, and the bytes are those of one run."""
    for number in range(5):
        out = tmp_path / str(number)
        context = multiprocessing.get_context("fork")
        pipes = [multiprocessing.Pipe() for _ in range(3)]
        runs = [context.Process(target=run_until, args=(out, 0, False, theirs)) for _, theirs in pipes]
        for process in runs:
            process.start()
        for process in runs:
            process.join(60)
        assert [process.exitcode for process in runs] == [0, 0, 0]
        both(out)
        assert tree(out) == tree(whole[0])
