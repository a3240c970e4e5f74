"""``egoagent train`` killed without warning and started again ends as if nothing had happened, bit for bit."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from run_samples import working_folder

TRAIN = [sys.executable, "-m", "internlm.cli", "train"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return working_folder(tmp_path_factory.mktemp("work"))


def command(folder, config, run_dir):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    arguments = [*TRAIN, f"{config}.py", f"--run-dir={run_dir}"]
    return subprocess.Popen(arguments, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def finish(folder, config, run_dir):
    process = command(folder, config, run_dir)
    error = process.communicate(timeout=120)[1]
    return process.returncode, error


def interrupt(folder, config, run_dir, number, *, after):
    """Start a run and send it a signal as soon as it has logged a step; returns its exit code and what it said."""
    process = command(folder, config, run_dir)
    said = []
    for line in process.stderr:
        said.append(line)
        if re.match(rf"step {after}/", line):
            process.send_signal(number)
            break
    said.append(process.communicate(timeout=120)[1])
    return process.returncode, "".join(said)


def stop_with_stopped_workers(folder, run_dir, *, after):
    """A run whose data workers are stopped as soon as it has logged a step, and which then gets SIGTERM."""
    process = command(folder, "workers", run_dir)
    said = []
    for line in process.stderr:
        said.append(line)
        if re.match(rf"step {after}/", line):
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGSTOP)
            process.send_signal(signal.SIGTERM)
            break
    said.append(process.communicate(timeout=60)[1])
    return process.returncode, "".join(said)


def sums(folder, run_dir):
    """SHA-256 of every tensor file of the final checkpoint; the meta data differ in the run folder's name."""
    lines = (folder / run_dir / "checkpoints" / "step_000000012" / "checksums.sha256").read_text().splitlines()
    return {line for line in lines if not line.endswith("meta.json")}


def losses(folder, run_dir):
    records = map(json.loads, (folder / run_dir / "metrics.jsonl").read_text().splitlines())
    names = ("step", "loss", "rep", "pred", "act", "visibility", "grad_norm", "lr")
    return [[record.get(name) for name in names] for record in records]


@pytest.fixture(scope="module")
def undisturbed(folder):
    code, error = finish(folder, "run", "undisturbed")
    assert code == 0, error
    assert len(losses(folder, "undisturbed")) == 12 and len(sums(folder, "undisturbed")) == 5
    return sums(folder, "undisturbed"), losses(folder, "undisturbed")


def test_a_killed_and_resumed_run_is_bitwise_the_undisturbed_one(folder, undisturbed):
    code, _ = interrupt(folder, "run", "killed", signal.SIGKILL, after=5)
    assert code == -signal.SIGKILL and not (folder / "killed" / "checkpoints" / "step_000000012").exists()
    code, error = interrupt(folder, "run", "killed", signal.SIGKILL, after=8)
    assert code == -signal.SIGKILL and "resumed from" in error
    code, error = finish(folder, "run", "killed")
    assert code == 0 and "resumed from" in error, error
    assert (sums(folder, "killed"), losses(folder, "killed")) == undisturbed


def test_a_terminated_run_saves_leaves_with_75_and_continues_bitwise(folder, undisturbed):
    code, error = interrupt(folder, "run", "stopped", signal.SIGTERM, after=4)
    assert code == 75 and re.search(r"stopped by SIGTERM at step \d+, saved in stopped", error), error
    code, error = finish(folder, "run", "stopped")
    assert code == 0, error
    assert (sums(folder, "stopped"), losses(folder, "stopped")) == undisturbed


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_a_terminated_run_whose_data_do_not_come_saves_and_continues_bitwise(folder, undisturbed):
    code, error = stop_with_stopped_workers(folder, "starved", after=2)
    assert code == 75 and re.search(r"stopped by SIGTERM at step [2-9], saved in starved", error), error
    code, error = finish(folder, "workers", "starved")
    assert code == 0, error
    assert (sums(folder, "starved"), losses(folder, "starved")) == undisturbed


def test_the_number_of_workers_changes_nothing(folder, undisturbed):
    code, error = finish(folder, "workers", "workers")
    assert code == 0, error
    assert (sums(folder, "workers"), losses(folder, "workers")) == undisturbed


def test_the_resolved_config_alone_reproduces_the_run(folder, undisturbed):
    (folder / "resolved.py").write_text('base = "undisturbed/config.yaml"\n')
    code, error = finish(folder, "resolved", "again")
    assert code == 0, error
    assert (sums(folder, "again"), losses(folder, "again")) == undisturbed


def test_help_and_wrong_keys_need_no_run_folder(folder):
    process = subprocess.run([*TRAIN, "run.py", "optim.learning_rate=1"], cwd=folder, capture_output=True, text=True)
    assert process.returncode == 2 and "optim.learning_rate" in process.stderr
    process = subprocess.run([*TRAIN, "--help"], cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0 and "exit codes" in process.stdout and "75" in process.stdout
    assert not (folder / "runs").exists()
