"""The seam, proved by a stranger: a system wholly inside the tests trains, is killed and goes on, and is divided."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from internlm.checkpoint.manager import find_checkpoint

CONFIG = """
system = "stranger"
optim = dict(lr=3e-3, warmup_share=0.0)
data = dict(workers=0)
train = dict(steps=30, accumulation=2, log_every=1, checkpoint_every=5, threads=1)
monitor = dict(progress=False, tensorboard=False)
"""
HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "run.py").write_text(CONFIG.replace('"stranger"', '"e2e.stranger"'))
    return folder


def start(folder: Path, run: str, *overrides: str, processes: int = 1) -> subprocess.Popen:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "internlm.cli", "train", "run.py", f"--run-dir={run}", *overrides]
    environment = os.environ | {"PYTHONPATH": f"{HERE.parent}:{HERE.parent.parent}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    error = process.communicate(timeout=240)[1]
    assert process.returncode == 0, error[-3000:]


def figures(run: Path) -> list[dict]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: record[name] for name in ("step", "loss", "squared_error", "grad_norm")} for record in records]


@pytest.fixture(scope="module")
def whole(folder):
    """A run that nothing disturbed."""
    finish(start(folder, "whole"))
    return folder / "whole"


def test_it_learns_and_its_parts_are_in_the_checkpoint(whole):
    losses = [record["loss"] for record in figures(whole)]
    assert len(losses) == 30 and losses[-1] < 0.5 * losses[0]
    assert set(find_checkpoint(whole, ("continuation", "optimizer")).parts) == {"continuation", "optimizer"}


def test_killed_it_goes_on_bit_for_bit(folder, whole):
    process = start(folder, "killed")
    while not list(folder.glob("killed/checkpoints/step_*")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finish(start(folder, "killed"))
    assert figures(folder / "killed") == figures(whole)
    parts = [find_checkpoint(run, ("continuation", "optimizer")).parts for run in (folder / "killed", whole)]
    for part, tensors in parts[0].items():
        assert all(tensor.equal(parts[1][part][name]) for name, tensor in tensors.items())


@pytest.mark.parametrize("mesh", ["dp_shard", "tp"])
def test_divided_over_two_processes_it_has_the_same_losses(folder, whole, mesh):
    batch = 2 if mesh == "dp_shard" else 4
    finish(start(folder, mesh, f"parallel.{mesh}=2", f"wave.batch={batch}", processes=2))
    for divided, alone in zip(figures(folder / mesh), figures(whole), strict=True):
        assert divided == pytest.approx(alone, rel=1e-4)


def test_an_unknown_system_is_named_with_the_nearest(folder):
    (folder / "wrong.py").write_text('system = "egoagnt"\n')
    command = [sys.executable, "-m", "internlm.cli", "describe", "wrong.py"]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent.parent)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and "did you mean egoagent?" in result.stderr
