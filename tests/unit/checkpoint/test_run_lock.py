"""One training a run folder: refused with the holder's name, taken over from the dead of any machine, never by two at once."""

import json
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from train_samples import batches, tiny_config

from internlm import cli
from internlm.checkpoint import lock
from internlm.checkpoint.lock import RunLock, RunLockError, new_folder
from internlm.checkpoint.manager import CheckpointError, CheckpointManager
from internlm.config.load import save_config
from internlm.train.loop import train

QUICK = {"beat": 0.05, "patience": 0.5}
HOLD = """
import sys, time
from internlm.checkpoint.lock import RunLock
with RunLock(sys.argv[1], beat=0.05):
    print("held", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def hold(tmp_path):
    """Starts a process that holds a folder; all of them are ended."""
    processes = []

    def start(folder=tmp_path, **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, env=os.environ | environment
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def locks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".lock"))


def rewrite(path: Path, **changes) -> None:
    """Change what a lock says, as another machine or a later boot would have written it; heartbeats go on."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def elsewhere(folder: Path, **changes) -> dict:
    """The lock of a holder on another machine, of which nothing but the file is seen."""
    rewrite(folder / "training-1.lock", host="node7", machine="another boot", **changes)
    return json.loads((folder / "training-1.lock").read_text())


def test_a_second_one_is_refused_with_the_holders_name(tmp_path, hold):
    process = hold(SLURM_JOB_ID="123", SLURM_CLUSTER_NAME="alpha")
    began = time.monotonic()
    named = rf"held by process {process.pid} on \S+ since \d{{4}}-\d\d-\d\d .*, Slurm job 123, .*run_dir"
    with pytest.raises(RunLockError, match=named):
        RunLock(tmp_path).__enter__()
    assert time.monotonic() - began < 5 and locks(tmp_path) == ["training-1.lock"]


def test_it_is_given_back_at_the_end_and_after_an_error(tmp_path):
    with RunLock(tmp_path), pytest.raises(RunLockError):
        RunLock(tmp_path).__enter__()
    with pytest.raises(KeyError), RunLock(tmp_path):
        raise KeyError
    assert locks(tmp_path) == [] and [path.name for path in tmp_path.iterdir()] == []
    with RunLock(tmp_path / "new" / "folder"):
        pass


def test_a_killed_holder_of_this_machine_has_lost_it_at_once(tmp_path, hold, caplog):
    process = hold()
    os.kill(process.pid, signal.SIGKILL)
    time.sleep(0.2)  # dead, but nobody has asked for its exit code: its number is still taken
    began = time.monotonic()
    with RunLock(tmp_path) as mine:
        mine.check()
        assert time.monotonic() - began < 5 and locks(tmp_path) == ["training-2.lock"]
    assert f"took over {tmp_path} from process {process.pid}" in caplog.text and locks(tmp_path) == []


def test_a_reused_process_number_is_not_the_holder(tmp_path, hold):
    hold()
    rewrite(tmp_path / "training-1.lock", started="7")
    with RunLock(tmp_path):
        assert locks(tmp_path) == ["training-2.lock"]


def test_a_living_holder_on_another_machine_is_seen_by_its_heartbeat(tmp_path, hold):
    hold()
    elsewhere(tmp_path)
    with pytest.raises(RunLockError, match="held by process .* on node7"):
        RunLock(tmp_path, patience=20).__enter__()


def test_a_dead_holder_on_another_machine_is_watched_and_then_replaced(tmp_path, hold, caplog):
    process = hold()
    elsewhere(tmp_path, pid=1)  # a number that this machine has too
    process.kill()
    with RunLock(tmp_path, **QUICK):
        assert locks(tmp_path) == ["training-2.lock"]
    assert "watching for up to 0.5 s" in caplog.text and "took over" in caplog.text


@pytest.mark.parametrize("before", [0, 2])
def test_slurm_queues_a_job_again_only_when_its_processes_are_gone(tmp_path, hold, monkeypatch, before):
    restarts = {"SLURM_RESTART_COUNT": str(before)} if before else {}
    hold(SLURM_JOB_ID="9", **restarts).kill()
    elsewhere(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(before + 1))
    began = time.monotonic()
    with RunLock(tmp_path):
        assert time.monotonic() - began < 5
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(before))


def test_two_steps_of_one_job_are_two(tmp_path, hold, monkeypatch):
    hold(SLURM_JOB_ID="9", SLURM_RESTART_COUNT="1")
    elsewhere(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(RunLockError, match="on node7"):
        RunLock(tmp_path, patience=20).__enter__()


def test_a_holder_that_stood_still_for_too_long_finds_out_before_it_writes(tmp_path):
    with RunLock(tmp_path, beat=1000) as sleeper:
        manager = CheckpointManager(tmp_path / "checkpoints", guard=sleeper.check)
        manager.save(1, {"loss": {}}, {})
        elsewhere(tmp_path)
        with RunLock(tmp_path, **QUICK) as taker:
            with pytest.raises(RunLockError, match="was taken over by process"):
                manager.save(2, {"loss": {}}, {})
            taker.check()
        assert manager.list() == [1] and not list(manager.folder.glob(".*"))
    assert locks(tmp_path) == []


def test_a_copy_of_a_run_folder_is_not_held_by_the_trainer_of_the_original(tmp_path, hold):
    hold(tmp_path / "run")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "training-1.lock").write_bytes((tmp_path / "run" / "training-1.lock").read_bytes())
    with RunLock(tmp_path / "copy", **QUICK), pytest.raises(RunLockError):
        RunLock(tmp_path / "run").__enter__()


@pytest.mark.parametrize("content", [b"", b"not json", b"[]", b"\xff\xfe", b'{"pid": "x", "host": 3}', b"0" * 9999])
def test_a_damaged_lock_is_watched_and_replaced(tmp_path, content):
    (tmp_path / "training-4.lock").write_bytes(content)
    (tmp_path / "training-x.lock").write_bytes(b"a user's own")
    with RunLock(tmp_path, **QUICK):
        assert locks(tmp_path) == ["training-5.lock", "training-x.lock"]


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(lock.errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    with RunLock(tmp_path), pytest.raises(RunLockError, match=f"process {os.getpid()}"):
        RunLock(tmp_path).__enter__()
    assert locks(tmp_path) == []


def test_systems_that_tell_nothing_of_processes(tmp_path, monkeypatch, hold):
    """Without /proc only a process number that is free proves that the holder is gone; the rest is told by heartbeats."""
    monkeypatch.setattr(lock, "_machine", lambda: "")
    monkeypatch.setattr(lock, "_state", lambda pid: None)
    process = hold()
    rewrite(tmp_path / "training-1.lock", machine="", started="")
    with pytest.raises(RunLockError):
        RunLock(tmp_path, patience=20).__enter__()
    process.kill()
    process.wait()
    began = time.monotonic()
    with RunLock(tmp_path):
        assert time.monotonic() - began < 5


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunLockError, match=r"file/run cannot be locked for writing"):
        RunLock(tmp_path / "file" / "run").__enter__()


def contend(folder: Path, number: int, inside: Path, told) -> None:
    """Take and give back a folder again and again; sometimes die with it. Reports every moment with two holders."""
    rng, overlaps, turns = random.Random(number), 0, 0
    logging.disable()
    while turns < 15:
        try:
            with RunLock(folder, beat=0.05, patience=1):
                descriptor = os.open(inside, os.O_CREAT | os.O_RDWR)
                owner = os.read(descriptor, 20)
                overlaps += owner not in (b"", b"dead")
                os.pwrite(descriptor, b"%-4d" % number, 0)
                time.sleep(rng.random() * 0.01)
                overlaps += os.pread(descriptor, 4, 0) != b"%-4d" % number
                dies = turns == 14 and number % 2
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, b"dead" if dies else b"", 0)
                turns += 1
                if dies:
                    told.send(overlaps)
                    os.kill(os.getpid(), signal.SIGKILL)
        except RunLockError:
            time.sleep(rng.random() * 0.01)
    told.send(overlaps)


def test_never_two_holders_among_many_that_also_die(tmp_path):
    folder, context = tmp_path / "run", multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(8)]
    inside = tmp_path / "inside"
    processes = [context.Process(target=contend, args=(folder, n, inside, theirs)) for n, (_, theirs) in enumerate(pipes)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [ours.recv() for ours, _ in pipes] == [0] * 8
    assert [process.exitcode for process in processes] == [0, -signal.SIGKILL] * 4
    with RunLock(folder):
        pass
    assert list(folder.iterdir()) == []


def test_training_is_refused_and_reading_is_not(tmp_path, hold, capsys):
    run = tmp_path / "run"
    train(tiny_config(run, train={"steps": 2}), batches=batches)
    assert locks(run) == []
    hold(run)
    before = sorted(run.rglob("*"))
    for resume in (True, False):
        with pytest.raises(RunLockError, match="held by process"):
            train(tiny_config(run, train={"steps": 3}), resume=resume, batches=batches)
    save_config(tiny_config(run), tmp_path / "config.yaml")
    assert cli.main(["train", str(tmp_path / "config.yaml")]) == 2
    assert "egoagent train: " in (said := capsys.readouterr().err) and "held by process" in said
    assert sorted(run.rglob("*")) == before
    for words in (["verify"], ["inspect"]):
        assert cli.main(["ckpt", *words, str(run)]) == 0
    assert cli.main(["ckpt", "convert", str(run), str(tmp_path / "whole")]) == 0
    assert locks(tmp_path / "whole") == []


def test_a_run_folder_that_somebody_took_ends_the_run(tmp_path):
    """Its saves, ordinary or in the background, do not overwrite those of the run that has the folder now."""

    def source(start):
        for step, pair in enumerate(batches(start), start):
            if step == 4:
                while not CheckpointManager(tmp_path / str(asynchronous) / "checkpoints").list():
                    time.sleep(0.01)  # a save in the background may still be writing
                (tmp_path / str(asynchronous) / "training-2.lock").write_text("{}")
            yield pair

    for asynchronous in (False, True):
        run = tmp_path / str(asynchronous)
        with pytest.raises(RunLockError, match="was taken over by process 0 on an unknown host"):
            train(tiny_config(run, train={"async_save": asynchronous}), batches=source)
        assert CheckpointManager(run / "checkpoints").list() == [3]
        assert locks(run) == ["training-2.lock"]


def test_a_new_folder_is_filled_by_one(tmp_path, hold):
    hold(tmp_path / "held")
    with pytest.raises(RunLockError), new_folder(tmp_path / "held"):
        pass
    (tmp_path / "full" / "x").mkdir(parents=True)
    with pytest.raises(FileExistsError), new_folder(tmp_path / "full"):
        pass
    assert os.listdir(tmp_path / "full") == ["x"]
    with pytest.raises(CheckpointError), new_folder(tmp_path / "fresh"):
        raise CheckpointError
    assert os.listdir(tmp_path / "fresh") == []
