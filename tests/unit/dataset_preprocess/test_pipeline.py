"""Runs over many takes: what is done, kept, skipped and failed; processes that die; full disks; job arrays."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_samples import GOOD, Recording, run
from store_samples import tree

from dataset_preprocess import slurm
from dataset_preprocess.manifest import Entry, Manifest, parse_entry
from dataset_preprocess.slurm import SlurmOptions, _queued
from internlm.core.errors import UserError
from internlm.data.store import TakeStore


@pytest.mark.parametrize("workers", [0, 2])
def test_every_take_gets_its_status_and_a_rerun_does_only_what_is_missing(tmp_path, capsys, workers):
    out = tmp_path / "s"
    jobs = [*GOOD, Recording("d", "skip"), Recording("e", "bad"), Recording("f", "bug"), Recording("g", "greedy")]
    first = run(out, *jobs, workers=workers)
    assert first.exit_code == 1 and sorted(first.done) == ["a", "b", "c"] and first.done["a"] == {"frames": 4}
    assert first.skipped == {"d": "has no wearer"} and first.failed["e"] == "e.mp4: is cut off"
    assert first.failed["f"].startswith("unexpected KeyError: 'aria01' (pipeline_samples.py:")
    assert first.failed["g"].startswith("ran out of memory: use fewer --workers")
    told = capsys.readouterr()
    assert "frames: 3 done, 1 skipped, 3 failed; 12 frames" in told.out and "failed  e: e.mp4: is cut off" in told.out
    assert "e: failed: e.mp4: is cut off" in told.err
    stamps = {path: path.stat().st_mtime_ns for path in (out / "takes").rglob("*")}
    second = run(out, *GOOD, Recording("d"), Recording("e"), Recording("f", "skip"), workers=workers)
    assert second.exit_code == 0 and second.kept == ["a", "b", "c"] and sorted(second.done) == ["d", "e"]
    assert stamps.items() <= {path: path.stat().st_mtime_ns for path in (out / "takes").rglob("*") if path in stamps}.items()
    statuses = {name: Manifest(out, "frames").read(name).status for name in Manifest(out, "frames").names()}
    assert statuses == {"a": "done", "b": "done", "c": "done", "d": "done", "e": "done", "f": "skipped", "g": "failed"}


def test_a_take_that_vanished_is_made_again(tmp_path):
    run(tmp_path, *GOOD)
    before = tree(tmp_path)
    (tmp_path / "takes" / "b" / "take.json").unlink()
    (tmp_path / "manifest" / "frames" / "c.json").write_text('{"status": "do')
    again = run(tmp_path, *GOOD)
    assert sorted(again.done) == ["b", "c"] and again.kept == ["a"] and tree(tmp_path) == before


def test_other_settings_are_not_taken_for_done(tmp_path):
    run(tmp_path, *GOOD)
    other = run(tmp_path, *GOOD, frames=5)
    assert other.failed.keys() == {"a", "b", "c"}
    assert other.failed["a"] == "was made with other settings (frames 4, now 5); --force makes it again"
    assert run(tmp_path, *GOOD).kept == ["a", "b", "c"], "what was done must stay done"
    assert sorted(run(tmp_path, *GOOD, frames=5, force=True).done) == ["a", "b", "c"]
    assert len(TakeStore(tmp_path).take("a").frame_numbers) == 5


def test_failed_repetition_is_not_taken_for_the_first_success(tmp_path):
    run(tmp_path, *GOOD)
    assert run(tmp_path, Recording("a", "bad"), force=True).exit_code == 1
    assert Manifest(tmp_path, "frames").read("a").status == "failed"
    assert sorted(run(tmp_path, *GOOD).done) == ["a"]


@pytest.mark.timeout(60)
def test_a_process_that_dies_is_named_and_replaced(tmp_path, capfd):
    jobs = [Recording("k", "killed"), *GOOD, Recording("x", "exit")]
    summary = run(tmp_path, *jobs, workers=2)
    assert sorted(summary.done) == ["a", "b", "c"] and summary.exit_code == 1
    assert "killed (SIGKILL), usually for lack of memory" in summary.failed["k"]
    assert "exit code 3" in summary.failed["x"]
    assert Manifest(tmp_path, "frames").read("k").status == "failed"
    assert sorted(run(tmp_path, Recording("k"), *GOOD, Recording("x"), workers=1).done) == ["k", "x"]


def test_a_run_whose_only_job_died_can_be_given_again(tmp_path):
    assert not run(tmp_path, Recording("k", "killed"), workers=1).done
    assert [path.name for path in tmp_path.iterdir()] == ["manifest"]
    assert sorted(run(tmp_path, Recording("k"), *GOOD).done) == ["a", "b", "c", "k"]


def test_signals_meant_for_the_parent_do_not_end_its_processes(tmp_path):
    assert sorted(run(tmp_path, Recording("a", "warned"), workers=1).done) == ["a"]


@pytest.mark.parametrize("workers", [0, 1])
def test_full_disk_ends_the_run(tmp_path, workers):
    summary = run(tmp_path, Recording("a"), Recording("b", "full"), Recording("c"), workers=workers)
    assert sorted(summary.done) == ["a"] and summary.failed == {"b": "no room", "c": "not begun: the disk is full"}
    assert sorted(Manifest(tmp_path, "frames").names()) == ["a", "b"]


def test_manifest_on_a_full_disk_leaves_the_take_missing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    run(tmp_path, Recording("a"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        summary = run(tmp_path, Recording("a"), Recording("z", "bad"))
    assert summary.kept == ["a"] and summary.failed == {"z": "z.mp4: is cut off"}
    assert list(Manifest(tmp_path, "frames").names()) == ["a"]


def test_two_recordings_of_one_name_and_bad_names_are_refused(tmp_path):
    with pytest.raises(UserError, match="2 recordings would become the take 'a'"):
        run(tmp_path, Recording("a"), Recording("a"))
    with pytest.raises(UserError, match="cannot be a file name"):
        run(tmp_path, Recording("../a"))


def test_remains_of_a_killed_run_vanish_also_where_the_take_is_not_made_again(tmp_path):
    run(tmp_path, Recording("a"))
    (tmp_path / "takes" / ".partial-b").mkdir()
    run(tmp_path, Recording("b", "skip"))
    assert [path.name for path in (tmp_path / "takes").iterdir()] == ["a"]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"status": "maybe"}', b'{"status": "done", "facts": 3}', b"\xff", b"null"])
def test_damaged_entries_are_no_entries(data):
    with pytest.raises(ValueError):
        parse_entry(data)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["done", "failed"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["status", "reason", "settings", "facts", "takes"]), inner, max_size=5)
    ),
)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60) | ANY_JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_an_entry_holds_it_is_an_entry_or_none(data):
    try:
        entry = parse_entry(data)
    except ValueError:
        return
    assert entry.status in ("done", "skipped", "failed") and isinstance(entry.facts, dict) and isinstance(entry.reason, str)


def test_entries_hold_no_time(tmp_path, monkeypatch):
    for name, now in (("one", 1e9), ("two", 2e9)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        Manifest(tmp_path / name, "frames").write("a", Entry("done", "", {"size": 4}, {"frames": 2}))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background may have been told to ignore it
sys.path.insert(0, {samples!r})
from pipeline_samples import Recording, run
from pathlib import Path
if __name__ == "__main__":
    run(Path({out!r}), Recording("a", "sleep"), Recording("b", "sleep"), workers=2)
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_processes_end_with_their_parent(tmp_path, samples, name):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(samples=str(samples), out=str(tmp_path / "s")))
    process = subprocess.Popen([sys.executable, str(script)])
    children: list[int] = []
    while len(children) < 3:  # two workers and multiprocessing's resource tracker
        time.sleep(0.1)
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.send_signal(getattr(signal, name))
    process.wait()
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children):
        time.sleep(0.1)


@pytest.fixture
def array(tmp_path, samples, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(samples))
    return partial(SlurmOptions, tmp_path / "logs", tasks=2)


def test_job_array_in_this_process(tmp_path, array):
    jobs = [*GOOD, Recording("d", "skip"), Recording("e", "bad")]
    summary = run(tmp_path / "s", *jobs, slurm=array(cluster="debug"))
    assert sorted(summary.done) == ["a", "b", "c"] and summary.done["c"] == {"frames": 4}
    assert summary.skipped.keys() == {"d"} and summary.failed.keys() == {"e"} and summary.exit_code == 1
    assert run(tmp_path / "s", *GOOD, slurm=array(cluster="debug")).kept == ["a", "b", "c"]


@pytest.mark.timeout(120)
def test_job_array_in_processes_names_the_take_whose_task_was_killed(tmp_path, array):
    jobs = [Recording("a"), Recording("k", "killed"), Recording("b")]
    summary = run(tmp_path / "s", *jobs, slurm=array(cluster="local"))
    assert sorted(summary.done) == ["a", "b"]
    assert "its array task ended before it" in summary.failed["k"] and str(tmp_path / "logs") in summary.failed["k"]


def test_array_is_left_alone_when_nobody_waits(tmp_path, array, capsys):
    summary = run(tmp_path / "s", *GOOD, slurm=array(cluster="debug", wait=False))
    assert summary.submitted == ["a", "b", "c"] and summary.exit_code == 0 and "3 submitted" in capsys.readouterr().out


def test_without_slurm_the_array_is_refused_in_words(tmp_path, array, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="could not be submitted"):
        run(tmp_path / "s", *GOOD, slurm=array())


@pytest.mark.parametrize(
    ("answer", "code", "still"),
    [
        ("7_0\n7_1\n", 0, {"7_0", "7_1"}),
        ("", 0, set()),
        ("slurm_load_jobs error: Invalid job id specified", 1, set()),
        ("slurm_load_jobs error: Unable to contact slurm controller", 1, {"7_0", "7_1"}),
    ],
)
def test_what_slurm_still_knows(monkeypatch, answer, code, still):
    def answered(command, **_):
        assert command[-1] == "--jobs=7"
        return subprocess.CompletedProcess(command, code, "" if code else answer, answer)

    monkeypatch.setattr(subprocess, "run", answered)
    assert _queued(["7_0", "7_1"]) == still


def test_a_controller_that_never_answers_is_asked_again(monkeypatch, tmp_path):
    (tmp_path / "squeue").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(slurm, "ANSWER_SECONDS", 0.2)
    assert _queued(["7_0", "7_1"]) == {"7_0", "7_1"}


def test_manifest_is_plain_json(tmp_path):
    run(tmp_path, Recording("a"))
    content = json.loads((tmp_path / "manifest" / "frames" / "a.json").read_text())
    assert content == {"status": "done", "reason": "", "settings": {"frames": 4, "size": [8, 8]}, "facts": {"frames": 4}}
