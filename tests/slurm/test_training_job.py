"""A training run of two nodes through a real Slurm: submitted as a user does, disturbed in every way, finished bit for bit."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from run_samples import working_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
STAGE1 = "source_slurm_train_stage1_contrastive_w_tokenizer.sh"
STAGE2 = "slurm_train_stage2_contrastive_joint.sh"
TOTAL = 16
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
VALUES = (
    *("train.device=cpu", f"train.steps={TOTAL}", "train.accumulation=1", "train.checkpoint_every=3", "train.log_every=1"),
    *("seed=5", "monitor.tensorboard=false", "monitor.health_every=1000"),
)


@pytest.fixture(scope="module")
def work(cluster, tmp_path_factory, root):
    """The environment that jobs are submitted in is that of this process; Slurm programs find the cluster through it."""
    folder = working_folder(tmp_path_factory.mktemp("work"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SLURM_CONF": cluster, "OMP_NUM_THREADS": "1", "PATH": path, "GPUS_PER_NODE": "1"}.items():
            patch.setenv(name, str(value))
        patch.chdir(folder)
        yield folder


@pytest.fixture(autouse=True)
def nothing_left(work):
    yield
    ask("scancel", "--user=root")


def ask(*words) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Job:
    """A submitted job and its run folder."""

    def __init__(self, run_dir: Path, *command):
        said = ask(*command, "--run-dir", run_dir, "--signal-ahead", "60", "--time", "30")
        self.number, self.run_dir = re.match(r"job (\d+);", said)[1], run_dir

    def field(self, name: str) -> str:
        words = ask("scontrol", "show", "job", self.number, "-o").split()
        return dict(word.split("=", 1) for word in words if "=" in word)[name]

    @property
    def restarts(self) -> int:
        return int(self.field("Restarts"))

    @property
    def steps(self) -> list[int]:
        return [record["step"] for record in self.records()]

    def records(self) -> list[dict]:
        path = self.run_dir / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def logs(self) -> str:
        return "".join(path.read_text() for path in sorted((self.run_dir / "launch").glob("*.out")))

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in self.run_dir.glob("checkpoints/step_*"))

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
        """Wait; fails at once when the job has ended and ``condition`` does not hold."""
        deadline = time.monotonic() + seconds
        while True:
            ended = (state := self.field("JobState")) in ENDED  # before the condition, so that its last word counts
            if condition():
                return
            if ended or time.monotonic() > deadline:
                pytest.fail(f"job is {state}, not {what}, after {seconds - deadline + time.monotonic():.0f} s:\n{self.logs()}")
            time.sleep(0.2)

    def until_started(self, times: int) -> None:
        """Wait for the first steps after so many restarts."""

        def goes_on() -> bool:
            resumed = [int(step) for step in re.findall(r"resumed from .*step_(\d+)", self.logs())]
            return len(resumed) == times and len(self.steps) > 0 and self.steps[-1] >= [0, *resumed][-1] + 2

        self.until(goes_on, f"training after {times} restarts")

    def processes(self) -> dict[int, int]:
        """Process ids on this machine, which is all nodes, by rank."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                variables = (path / "environ").read_bytes().split(b"\0")
                words = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            rank = [int(value[len(b"SLURM_PROCID=") :]) for value in variables if value.startswith(b"SLURM_PROCID=")]
            ours = {f"SLURM_JOB_ID={self.number}".encode(), f"SLURM_CONF={os.environ['SLURM_CONF']}".encode()} <= {*variables}
            if ours and rank and b"submitit.core._submit" in words:
                found[rank[0]] = int(path.name)
        return found


def final_sums(job: Job) -> dict[str, str]:
    """SHA-256 of every tensor file of the last checkpoint."""
    tensors = (job.run_dir / "checkpoints" / f"step_{TOTAL:09d}").glob("*.safetensors")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tensors}


def losses(job: Job) -> list[list]:
    names = ("step", "loss", "rep", "pred", "act", "visibility", "grad_norm", "lr")
    return [[record.get(name) for name in names] for record in job.records()]


@pytest.fixture(scope="module")
def undisturbed(work, root, tmp_path_factory):
    """The stage 2 script: two "GPUs", one a node."""
    job = Job(tmp_path_factory.mktemp("undisturbed") / "run", root / "scripts_train" / STAGE2, "run.py", "2", "5", *VALUES)
    job.until(lambda: job.field("JobState") == "COMPLETED", "complete")
    return job


def test_two_nodes_train_together_to_the_end(undisturbed):
    assert undisturbed.steps == list(range(1, TOTAL + 1)) and undisturbed.restarts == 0
    assert undisturbed.field("NumNodes") == "2" and undisturbed.field("NumTasks") == "2"
    code = json.loads((undisturbed.run_dir / "launch" / "code.json").read_text())
    assert code["version"] and code["command"][1] == "launch"


def test_preempted_and_killed_it_ends_with_the_same_bits(undisturbed, tmp_path):
    """Queued again under the same number each time; being stopped is no crash, of which one is allowed."""
    launch = (sys.executable, "-m", "internlm.cli", "launch", "run.py", "--slurm", "--nodes", "2", "--max-restarts", "1")
    job = Job(tmp_path / "run", *launch, *VALUES)

    job.until_started(0)
    for process in job.processes().values():
        os.kill(process, signal.SIGSTOP)  # however fast the machine, it is not done before Slurm decides; Slurm wakes them
    ask("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    job.until(lambda: job.restarts == 1, "queued again after the preemption")
    stopped_at = job.steps[-1]
    assert stopped_at < TOTAL and job.checkpoints()[-1] == f"step_{stopped_at:09d}", "what was trained is saved"

    job.until_started(1)
    os.kill(job.processes()[1], signal.SIGKILL)
    job.until(lambda: job.restarts == 2, "queued again after the loss of a process")
    assert (job.run_dir / "launch" / "restarts.log").read_text().count("\n") == 1

    job.until(lambda: job.field("JobState") == "COMPLETED", "complete")
    assert final_sums(job) == final_sums(undisturbed) and len(final_sums(job)) >= 5
    assert losses(job) == losses(undisturbed)


def test_warned_run_goes_on_and_a_cancelled_one_stays_cancelled(work, root, tmp_path):
    """The stage 1 script, on one node."""
    values = ("stage=pretrain", *VALUES, "train.clip_batch=0", "train.steps=100000", "train.checkpoint_every=1000000")
    job = Job(tmp_path / "run", root / "scripts_train" / STAGE1, "1", "run.py", "0", *values)
    job.until_started(0)
    ask("scancel", "--signal=USR2", job.number)  # what Slurm sends ahead of the time limit
    job.until(lambda: job.restarts == 1, "queued again after the warning")
    assert job.checkpoints() == [f"step_{job.steps[-1]:09d}"]

    job.until_started(1)
    assert job.processes().keys() == {0}
    ask("scancel", job.number)
    job.until(lambda: job.field("JobState") == "CANCELLED" and not job.processes(), "cancelled")
    assert job.restarts == 1
