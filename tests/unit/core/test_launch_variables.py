"""Variables of a launcher that did not start this process: one process, or at once the name of the variable that is meant."""

import os
import pty
import sys

import pytest

from internlm.core.launch import ALL_VARIABLES, Launch, MeshError, read_launch
from internlm.launch import local

STEP = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0"}
TORCH = {"RANK": "1", "WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "", "WORLD_SIZE": ""},
        {"RANK": " ", "WORLD_SIZE": "2"},
        {"RANK": "1"},
        {"WORLD_SIZE": "8", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"},
        {"LOCAL_RANK": "3"},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": ""},
        {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"},  # a batch script's own process
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"},  # the shell of salloc on a login node
        STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"},  # the shell of salloc on a node of the job
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
        {"PMI_RANK": "0", "PMI_SIZE": "1"},
        {"PMI_RANK": "3"},
        {"PMIX_RANK": "3"},
    ],
)
def test_one_process(environment):
    launch = read_launch(environment)
    assert (launch.rank, launch.world, launch.local_rank) == (0, 1, 0)


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        (TORCH | {"LOCAL_RANK": "1"}, (1, 2, 1, "torchrun")),
        (TORCH | STEP, (1, 2, 0, "torchrun")),  # torchrun in a step of one task a node
        (STEP | {"SLURM_PROCID": "3", "SLURM_LOCALID": "1"}, (3, 4, 1, "srun")),
        (STEP | {"WORLD_SIZE": "4", "RANK": ""}, (0, 4, 0, "srun")),
        (STEP | {"PMI_RANK": "0", "PMI_SIZE": "4"}, (0, 4, 0, "srun")),  # srun --mpi=pmi2
        (TORCH | {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, (1, 2, 0, "torchrun")),  # by a script
    ],
)
def test_several_processes(environment, place):
    launch = read_launch(environment)
    assert (launch.rank, launch.world, launch.local_rank, launch.by) == place
    assert "unset" in launch.reason and launch.by in launch.reason


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"RANK": "zero", "WORLD_SIZE": "2"}, "RANK=zero is not a number; torchrun sets it.*unset RANK WORLD_SIZE LOCAL_RANK"),
        ({"RANK": "0", "WORLD_SIZE": "-2"}, "WORLD_SIZE=-2 is not a number"),
        ({"RANK": "0", "WORLD_SIZE": "2.0"}, "WORLD_SIZE=2.0 is not a number"),
        ({"RANK": "0", "WORLD_SIZE": "٢"}, "is not a number"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "RANK=0 of WORLD_SIZE=0 is no process"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 of WORLD_SIZE=2 is no process.*unset RANK WORLD_SIZE"),
        (TORCH | {"LOCAL_RANK": "gpu0"}, "LOCAL_RANK=gpu0 is not a number"),
        (STEP | {"SLURM_PROCID": "7"}, "SLURM_PROCID=7 of SLURM_STEP_NUM_TASKS=4 is no process; srun"),
        (STEP | {"SLURM_STEP_NUM_TASKS": "4(x2)"}, r"SLURM_STEP_NUM_TASKS=4\(x2\) is not a number; srun"),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE=4 are mpirun's.*srun.*unset"),
        ({"PMI_RANK": "1", "PMI_SIZE": "4"}, "PMI_RANK=1 and PMI_SIZE=4 are mpirun's"),
        # mpirun starts its helpers, one a node, by srun
        (STEP | {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8"}, "OMPI_COMM_WORLD_SIZE=8 are mpirun's"),
    ],
)
def test_what_is_no_place_among_processes_is_named(environment, named):
    with pytest.raises(MeshError, match=named):
        read_launch(environment)


def in_terminal(environment: dict, *, task_pid: str = "1") -> str:
    """What ``read_launch`` finds in a process that has a terminal of its own."""
    pid, terminal = pty.fork()
    if not pid:
        try:
            launch = read_launch(environment | {"SLURM_TASK_PID": str(os.getpid()) if task_pid == "own" else task_pid})
            os.write(1, f"{launch.rank} of {launch.world}\n".encode())
        finally:
            os._exit(0)
    said = b""
    try:
        while chunk := os.read(terminal, 1000):
            said += chunk
    except OSError:  # how a terminal ends
        pass
    os.waitpid(pid, 0)
    os.close(terminal)
    return said.decode().strip()


@pytest.mark.skipif(sys.platform != "linux", reason="Slurm's terminals")
def test_the_interactive_shell_of_a_step_is_one_process():
    shell = STEP | {"SLURM_PTY_PORT": "40000", "SLURM_PTY_WIN_COL": "80"}
    assert in_terminal(shell) == "0 of 1"
    assert in_terminal(shell | {"PMI_RANK": "0", "PMI_SIZE": "4"}) == "0 of 1"
    assert in_terminal(shell | TORCH) == "1 of 2"  # torchrun in that shell
    assert in_terminal(shell, task_pid="own") == "0 of 4"  # srun --pty egoagent …: the task itself
    assert in_terminal(STEP) == "0 of 4"


def test_a_launch_of_one_process_takes_no_notice_of_others(monkeypatch):
    seen = []
    monkeypatch.setattr(local, "run_command", lambda words: seen.append(read_launch()) or 0)
    for name, value in (TORCH | STEP | {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "x"}).items():
        monkeypatch.setenv(name, value)
    assert local.run_local(["train"], processes=1, max_restarts=0, grace=1) == 0
    assert seen == [Launch()] and os.environ["RANK"] == "1" and os.environ["SLURM_STEP_NUM_TASKS"] == "4"
    assert set(TORCH) <= set(ALL_VARIABLES)
