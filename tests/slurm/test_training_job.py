"""A training run through a real two-node Slurm: submit, preempt, queue again, finish; cancel; warn ahead of the limit."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

E2E = Path(__file__).resolve().parent.parent / "e2e"
sys.path.insert(0, str(E2E))

from test_resume import folder  # noqa: E402, F401 - a fixture

from internlm.launch.slurm import JobOptions, TrainTask, submit  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
LONG = ["train.steps=100000", "train.checkpoint_every=1000000", "train.log_every=20", "monitor.tensorboard=false"]


@pytest.fixture
def slurm(cluster, folder, monkeypatch):  # noqa: F811
    """Call a Slurm program; the working folder holds the store and run.py."""
    monkeypatch.setenv("SLURM_CONF", str(cluster))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")  # tasks unpickle
    monkeypatch.chdir(folder)

    def call(*words: str) -> str:
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout

    yield call
    call("scancel", "--user=root")


def launch(*words) -> str:
    """``egoagent launch`` as a user types it; returns the job's number."""
    command = [sys.executable, "-m", "internlm.cli", "launch", "run.py", "--slurm", "train.device=cpu", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[1].rstrip(";")


def until(condition, what: str, seconds: float = 600):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.3)
    return found


def job_field(slurm, job: str, name: str) -> str:
    fields = dict(word.split("=", 1) for word in slurm("scontrol", "show", "job", job, "-o").split() if "=" in word)
    return fields[name]


def steps(run_dir: Path) -> list[int]:
    path = run_dir / "metrics.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


def checkpoints(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").glob("*") if any(c.isdigit() for c in path.name))


class OneRunPerNode:
    """Each task of the job trains a run of its own, in the folder of its node."""

    def __init__(self, config: str, run_dir: Path, *overrides: str):
        self.config, self.run_dir, self.overrides = config, run_dir, overrides

    def __call__(self) -> None:
        for name in ("MASTER_ADDR", "MASTER_PORT", "SLURM_NTASKS"):
            assert os.environ[name]
        assert os.environ["MASTER_ADDR"] == "127.0.0.1" and os.environ["SLURM_NTASKS"] == "2"
        run = f"run_dir={self.run_dir / os.environ['SLURM_NODEID']}"
        for name in ("SLURM_NTASKS", "SLURM_NPROCS", "WORLD_SIZE"):
            os.environ.pop(name, None)  # a world of one on each node
        TrainTask(("train", self.config, run, *self.overrides))()


def test_job_runs_to_the_end(slurm, tmp_path):
    job = launch("--run-dir", tmp_path / "run", "--time", "10", "--signal-ahead", "60")
    until(lambda: job_field(slurm, job, "JobState") not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"), "the job's end")
    log = "".join(path.read_text() for path in (tmp_path / "run" / "launch").glob("*.out"))
    assert job_field(slurm, job, "JobState") == "COMPLETED", log
    assert steps(tmp_path / "run")[-1] == 12
    code = json.loads((tmp_path / "run" / "launch" / "code.json").read_text())
    assert code["version"] and code["command"][1] == "launch"


def test_preempted_on_two_nodes_queued_again_and_finished(slurm, tmp_path):
    """A job of an urgent partition takes both nodes: SIGTERM, save, exit 75, queued again, resumed, finished."""
    total = 60
    values = ("train.device=cpu", f"train.steps={total}", "train.checkpoint_every=100000", "train.log_every=5")
    task = OneRunPerNode("run.py", tmp_path, *values)
    options = JobOptions(tmp_path / "logs", nodes=2, gpus=False, minutes=20, partition="train", signal_ahead=60)
    job = str(submit(task, options).job_id)
    runs = [tmp_path / "0", tmp_path / "1"]
    until(lambda: all(steps(run) and steps(run)[-1] >= 10 for run in runs), "both nodes to train")
    before = int(job_field(slurm, job, "Restarts"))
    slurm("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 3")
    until(lambda: int(job_field(slurm, job, "Restarts")) > before, "the preempted job to be queued again")
    stopped_at = [steps(run)[-1] for run in runs]
    assert all(checkpoints(run) for run in runs) and all(step < total for step in stopped_at)
    # Slurm lets a job that was queued again wait for up to two minutes.
    slurm("scontrol", "update", f"jobid={job}", "starttime=now")
    until(lambda: job_field(slurm, job, "JobState") == "COMPLETED", "the job's end")
    logs = "".join(path.read_text() for path in (tmp_path / "logs").glob("*.out"))
    assert "resumed from" in logs
    assert all(steps(run) == sorted(set(steps(run))) and steps(run)[-1] == total for run in runs)
    # Stopped at steps of their own and resumed, both end with the same bits.
    first, second = (sorted((run / "checkpoints" / checkpoints(run)[-1]).glob("*.safetensors")) for run in runs)
    assert [path.name for path in first] == [path.name for path in second] and first
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second))


def test_cancelled_job_stays_cancelled(slurm, tmp_path):
    job = launch("--run-dir", tmp_path / "run", "--signal-ahead", "60", *LONG)
    until(lambda: steps(tmp_path / "run"), "training")
    slurm("scancel", job)
    until(lambda: job_field(slurm, job, "JobState") == "CANCELLED", "the end")
    assert int(job_field(slurm, job, "Restarts")) == 0


def test_warned_run_saves_and_goes_on(slurm, tmp_path):
    """SIGUSR2 is what Slurm sends ahead of the limit."""
    job, run = launch("--run-dir", tmp_path / "run", "--signal-ahead", "60", *LONG), tmp_path / "run"
    until(lambda: steps(run), "training")
    slurm("scancel", "--signal=USR2", job)
    until(lambda: int(job_field(slurm, job, "Restarts")) == 1, "the job to be queued again")
    assert checkpoints(run)


def test_crash_starts_again_a_limited_number_of_times(slurm, tmp_path):
    job, run = launch("--run-dir", tmp_path / "run", "--max-restarts", "1", *LONG), tmp_path / "run"
    until(lambda: steps(run), "training")
    slurm("scancel", "--signal=KILL", f"{job}.0")
    until(lambda: int(job_field(slurm, job, "Restarts")) == 1, "the second start")
    slurm("scontrol", "update", f"jobid={job}", "starttime=now")
    until(lambda: job_field(slurm, job, "JobState") == "RUNNING", "the second start")
    time.sleep(5)
    slurm("scancel", "--signal=KILL", f"{job}.0")
    until(lambda: job_field(slurm, job, "JobState") == "FAILED", "the end")
