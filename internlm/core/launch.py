"""What the launch environment says about this process: one of how many, by whose word, and how to take that word back."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from internlm.core.errors import UserError

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
MPI = (  # Open MPI; MPICH, Intel MPI and srun --mpi=pmi2; MVAPICH
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
)
ALL_VARIABLES = (*TORCHRUN, "MASTER_ADDR", "MASTER_PORT", *SRUN, *(name for pair in MPI for name in pair))


class MeshError(UserError):
    """The processes that were started are not those that the configuration asks for, or do not find each other."""


@dataclass(frozen=True)
class Launch:
    """What the launcher says about this process."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    by: str = "python"
    variables: tuple[str, ...] = ()  # that say so, with their values: ``WORLD_SIZE=2``

    @property
    def reason(self) -> str:
        """Where the number of processes comes from, and how to be one process."""
        names = " ".join(variable.partition("=")[0] for variable in self.variables)
        return (
            f"{' and '.join(self.variables)}, which {self.by} sets, say that there are {self.world} processes; "
            f"if {self.by} did not start this one, run: unset {names}"
        )


def read_launch(environment: Mapping[str, str] | None = None) -> Launch:
    """This process's place according to torchrun (RANK, …) or else srun (SLURM_PROCID, … of a job step).

    Empty variables count as unset. Raises MeshError where a value is no place among processes, and under mpirun, whose processes
    would each train alone.
    """
    env = {name: value.strip() for name, value in (os.environ if environment is None else environment).items() if value.strip()}
    launch = _said_by("torchrun", env, TORCHRUN)
    if launch:
        return launch
    # Of the step, not of the job: a batch script's own process sees the job's task count although it runs alone.
    launch = _said_by("srun", env, SRUN)
    if launch and launch.world > 1 and _in_interactive_shell(env):
        return Launch()
    launch = launch or Launch()
    for names in MPI:
        other = _said_by("mpirun", env, names)
        if other and other.world not in (1, launch.world):
            found = f"{' and '.join(other.variables)} are mpirun's, which does not start this project's processes"
            way_out = "use torchrun or srun, or export RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for each"
            raise MeshError(f"{found}; {way_out}. For one process: unset {' '.join(names)}")
    return launch


def _said_by(launcher: str, env: Mapping[str, str], names: tuple[str, ...]) -> Launch | None:
    if not {*names[:2]} <= env.keys():
        return None
    rank, world = (_number(env, name, names, launcher) for name in names[:2])
    said = tuple(f"{name}={env[name]}" for name in names[:2])
    if not 0 <= rank < world:
        raise MeshError(f"{' of '.join(said)} is no process; {launcher} sets both. For one process: unset {' '.join(names[:2])}")
    local = _number(env, names[2], names, launcher) if names[2:] and names[2] in env else 0
    return Launch(rank, world, local, launcher, said)


def _number(env: Mapping[str, str], name: str, names: tuple[str, ...], launcher: str) -> int:
    if not (env[name].isascii() and env[name].isdigit()):
        raise MeshError(f"{name}={env[name]} is not a number; {launcher} sets it. For one process: unset {' '.join(names)}")
    return int(env[name])


def _in_interactive_shell(env: Mapping[str, str]) -> bool:
    """Whether this was started by hand in the shell of ``srun --pty bash``, which is the only process of its step by then.

    A command that such a shell starts with srun has no terminal, and ``srun --pty`` of this program itself is the task.
    """
    if not {"SLURM_PTY_PORT", "SLURM_PTY_WIN_COL"} & env.keys() or env.get("SLURM_TASK_PID") == str(os.getpid()):
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
