"""Under a real torchrun a process that is killed is started again with the others, and the run goes on to its end."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from run_samples import working_folder

from internlm.launch.local import torchrun_words
from internlm.monitor.metrics import read_metrics

MESH = ["parallel.dp_shard=2", "train.image_batch=2", "train.clip_batch=2"]


def pid(run_dir: Path, rank: int) -> int:
    """The process that a rank's log names last."""
    return int(re.findall(rf"process (\d+) on \S+, rank {rank} of 2", (run_dir / "logs" / f"rank_{rank}.log").read_text())[-1])


@pytest.mark.timeout(300)
def test_a_killed_worker_is_restarted_and_the_run_finishes(tmp_path):
    folder = working_folder(tmp_path)
    run_dir = folder / "restarted"
    words = torchrun_words(["train", "run.py", "--run-dir", str(run_dir), *MESH], processes=2, max_restarts=1, grace=30)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--monitor-interval=0.2", *words]
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    said, killed = [], None
    for line in process.stderr:
        said.append(line)
        if killed is None and line.startswith("step 5/"):
            killed = pid(run_dir, 1)
            os.kill(killed, signal.SIGKILL)
    text = "".join(said)
    assert process.wait(timeout=60) == 0, text
    assert text.count("step 5/") == 2 and "resumed from" in text and "step 12/12" in text, text
    assert pid(run_dir, 1) != killed
    assert [record["step"] for record in read_metrics(run_dir)] == list(range(1, 13))
    assert (run_dir / "checkpoints" / "step_000000012").is_dir()
