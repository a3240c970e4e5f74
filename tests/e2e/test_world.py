"""``egoagent world`` as a user types it."""

import sys

import pytest

from internlm.data.store import TakeStore

WORLD = [sys.executable, "-m", "internlm.cli", "world"]
SMALL = ["--takes", "1", "--val-takes", "0", "--test-takes", "1", "--seconds", "2", "--size", "32", "--jobs", "1"]


def test_world_writes_a_store_and_resumes(run_command, tmp_path):
    done = run_command([*WORLD, tmp_path / "store", *SMALL])
    assert done.returncode == 0, done.stderr
    assert "1 train, 1 test takes" in done.stdout
    assert [info.split for info in TakeStore(tmp_path / "store").infos] == ["test", "train"]
    assert run_command([*WORLD, tmp_path / "store", *SMALL]).returncode == 0


def test_world_driven_by_cmu_motion(run_command, tmp_path, shared_data):
    motion = shared_data / "cmu_mocap" / "cmu8_30hz.npz"
    done = run_command([*WORLD, tmp_path / "store", *SMALL, "--motion", motion])
    assert done.returncode == 0, done.stderr
    for take in TakeStore(tmp_path / "store").select():
        assert not take.poses().visible[:, :5].any() and take.poses().visible[:, 5:].mean() > 0.9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--places", "cave"], "known are kitchen"),
        (["--size", "0"], "must be positive"),
        (["--takes", "0", "--val-takes", "0", "--test-takes", "0"], "one must be positive"),
        (["--motion", "missing.npz"], "no such file"),
        (["--raw", "--size", "33"], "even number"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(run_command, tmp_path, words, message):
    done = run_command([*WORLD, tmp_path / "out", *words])
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
