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
train = dict(steps=30, accumulation=2, log_every=1, checkpoint_every=5, threads=1, validate_every=10)
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
    names = ("step", "loss", "squared_error", "grad_norm", "val/loss", "val/squared_error")
    return [{name: record[name] for name in names if name in record} for record in records]


@pytest.fixture(scope="module")
def whole(folder):
    """A run that nothing disturbed."""
    finish(start(folder, "whole"))
    return folder / "whole"


def test_it_learns_and_its_parts_are_in_the_checkpoint(whole):
    losses = [record["loss"] for record in figures(whole)]
    assert len(losses) == 30 and losses[-1] < 0.5 * losses[0]
    assert set(find_checkpoint(whole, ("continuation", "optimizer")).parts) == {"continuation", "optimizer"}


def test_it_learns_what_it_was_not_shown(whole):
    held_out = {record["step"]: record["val/loss"] for record in figures(whole) if "val/loss" in record}
    assert list(held_out) == [10, 20, 30] and held_out[10] > held_out[20] > held_out[30]


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


def evaluate(folder: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "internlm.cli", "eval", *words]
    environment = os.environ | {"PYTHONPATH": f"{HERE.parent}:{HERE.parent.parent}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_it_is_evaluated_by_a_task_of_its_own(folder, whole):
    done = evaluate(folder, "e2e.stranger", "--run", "whole", "--waves", "16", "--out", "result.json")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder / "result.json").read_text())
    assert found["model"]["step"] == 30 and found["protocol"]["waves"] == 16 and "next value" in done.stdout
    assert found["figures"][0]["value"] == found["error"] and found["floors"]["value before"] == pytest.approx(0.31, abs=0.01)
    assert found["error"] < 0.8, "a sine of a random network has an error near 1"
    other = evaluate(folder, "e2e.stranger", "--run", "whole", "--waves", "0")
    assert other.returncode == 2 and "is not a whole number of 1 or more" in other.stderr
    lacking = evaluate(folder, "knn", "--run", "whole", "--data", ".")
    assert lacking.returncode == 2 and "this needs a run of one that embeds images" in lacking.stderr


def test_what_it_costs_is_measured(folder):
    command = [sys.executable, "-m", "internlm.cli", "estimate", "run.py", "wave.layers=5", "--gpus=2", "--json"]
    environment = os.environ | {"PYTHONPATH": f"{HERE.parent}:{HERE.parent.parent}", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, "--dry-run"], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout)
    kinds = {(row["parallel"]["dp_shard"], row["parallel"]["tp"]): row for row in found["meshes"]}
    assert kinds.keys() == {(1, 1), (2, 1), (1, 2)} and all(row["reason"] is None for row in found["meshes"])
    # Embedding 2h, final norm h, reading h + 1; a block has two norms, QKV and its mix with biases, and the SwiGLU's three.
    h = 16
    parameters = 4 * h + 1 + 5 * (2 * h + 4 * h * h + 4 * h + 3 * h * 2 * h)
    whole, shards = kinds[1, 1], kinds[2, 1]
    assert whole["memory"]["parameters"] == 4 * parameters and whole["memory"]["optimizer"] == 8 * parameters
    assert shards["bytes_sent"]["dp_shard reduce-scatter"] == pytest.approx(4 * parameters / 2, rel=0.01)
    assert found["dry_runs"][0]["peak"] == pytest.approx(sum(found["meshes"][0]["memory"].values()), rel=0.02)


def test_it_is_described_without_words_of_its_own(folder):
    command = [sys.executable, "-m", "internlm.cli", "describe", "run.py", "--json"]
    environment = os.environ | {"PYTHONPATH": f"{HERE.parent}:{HERE.parent.parent}", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout)
    assert found["parameters"] == {"continuation": found["memory"]["parameters"] // 4} and found["tokens"] == {"wave": 12}


def test_an_unknown_system_is_named_with_the_nearest(folder):
    (folder / "wrong.py").write_text('system = "egoagnt"\n')
    command = [sys.executable, "-m", "internlm.cli", "describe", "wrong.py"]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent.parent)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and "did you mean egoagent?" in result.stderr
