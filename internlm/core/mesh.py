"""Which processes train together and how: the mesh dp_replicate × dp_shard × tp, from the launch environment.

``torchrun`` and ``srun`` both say how many processes there are. A world of one opens no process group at all.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from .collectives import ALONE, Group
from .rendezvous import step_rendezvous

AXES = ("dp_replicate", "dp_shard", "tp")


class MeshError(ValueError):
    """The processes that were started are not those that the configuration asks for."""


@dataclass(frozen=True)
class Mesh:
    """The processes of a run. ``data``: those that see different samples; ``tp``: those that share each layer; ``world``: all.

    ``shards`` is the mesh that ``fully_shard`` takes; None where a process trains alone. ``saves``: all processes, for what
    travels through main memory while training goes on: a background save must not share a group with it.
    """

    world: Group = ALONE
    data: Group = ALONE
    tp: Group = ALONE
    shards: DeviceMesh | None = None
    saves: Group = ALONE

    @property
    def alone(self) -> bool:
        """True for a world of one."""
        return self.shards is None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sizes of dp_replicate, dp_shard and tp."""
        replicas = self.shards.size(0) if self.shards is not None and self.shards.ndim == 2 else 1
        return replicas, self.data.size // replicas, self.tp.size

    @property
    def writes(self) -> bool:
        """True on the process that writes the run's files."""
        return self.world.rank == 0


@dataclass(frozen=True)
class Launch:
    """What the launcher says about this process."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    by: str = "python"


def read_launch(environment: dict[str, str] | None = None) -> Launch:
    """This process's place according to torchrun (RANK, …) or else srun (SLURM_PROCID, … of a job step)."""
    env = os.environ if environment is None else environment
    if "RANK" in env and "WORLD_SIZE" in env:
        return Launch(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", "0")), "torchrun")
    # Of the step, not of the job: a batch script's own process sees the job's task count although it runs alone.
    if "SLURM_STEP_NUM_TASKS" in env and "SLURM_PROCID" in env:
        rank, local = int(env["SLURM_PROCID"]), int(env.get("SLURM_LOCALID", "0"))
        return Launch(rank, int(env["SLURM_STEP_NUM_TASKS"]), local, "srun")
    return Launch()


@contextmanager
def open_mesh(
    shape: tuple[int, int, int], device: torch.device, timeout_minutes: float = 10, *, always: bool = False
) -> Iterator[Mesh]:
    """Join the other processes of the launch and lay them out; leaves the process group when done.

    ``shape``: sizes of dp_replicate, dp_shard and tp. A process group that exists already is used and kept. Backend: NCCL on
    CUDA (gloo beside it for what lies in main memory), gloo on the CPU. Raises MeshError when the product of the sizes is not
    the number of started processes. ``always``: a world of one opens a process group too, for a library that asks for one.
    """
    launch = read_launch()
    world = dist.get_world_size() if dist.is_initialized() else launch.world
    _check(shape, world)
    if world == 1 and not always:
        yield Mesh()
        return
    own = not dist.is_initialized()
    if own:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if world > 1:
            join(launch, backend, timedelta(minutes=timeout_minutes))
        else:
            dist.init_process_group(backend, rank=0, world_size=1, store=dist.HashStore())
    try:
        yield _mesh(shape, device) if world > 1 else Mesh()
    finally:
        if own:
            dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """The device of this process among those of its machine: ``cuda`` → ``cuda:<local rank>``, made current."""
    if device.type != "cuda" or device.index is not None:
        return device
    own = torch.device("cuda", read_launch().local_rank % torch.cuda.device_count())
    torch.cuda.set_device(own)
    return own


def _check(shape: tuple[int, int, int], world: int) -> None:
    asked = shape[0] * shape[1] * shape[2]
    if asked == world:
        return
    text = " × ".join(f"{axis} {size}" for axis, size in zip(AXES, shape, strict=True))
    hint = f"start it with torchrun --nproc_per_node {asked}, or " if world == 1 else ""
    raise MeshError(
        f"parallel asks for {text} = {asked} processes and {world} {'was' if world == 1 else 'were'} started; "
        f"{hint}set parallel.dp_shard (or dp_replicate, tp) so that the product is {world}"
    )


def join(launch: Launch, backend: str, timeout: timedelta) -> None:
    """Open the process group of a launch of several processes."""
    if launch.by == "srun" and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        host, port = step_rendezvous(os.environ)
        os.environ.setdefault("MASTER_ADDR", host)
        os.environ.setdefault("MASTER_PORT", str(port))
    dist.init_process_group(backend, store=_store(timeout), rank=launch.rank, world_size=launch.world, timeout=timeout)


def _store(timeout: timedelta) -> "dist.Store | None":
    """Where the processes of one torchrun find each other; None leaves it to torch.

    torchrun keeps its store when it starts the processes again, and torch would find the addresses of the dead there
    (pytorch#135712). The number of the attempt tells them apart; agents of several machines count differently, though.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or os.environ.get("GROUP_WORLD_SIZE") != "1":
        return None
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)
    return dist.PrefixStore(f"attempt_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def _mesh(shape: tuple[int, int, int], device: torch.device) -> Mesh:
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=AXES)
    data = mesh["dp_replicate", "dp_shard"]._flatten("dp")
    shards = mesh["dp_replicate", "dp_shard"] if shape[0] > 1 else mesh["dp_shard"]
    world = Group(dist.group.WORLD, dist.get_world_size(), dist.get_rank())
    saves = Group(dist.new_group(backend="fake" if dist.get_backend() == "fake" else "gloo"), world.size, world.rank)
    return Mesh(world, _group(data), _group(mesh["tp"]), shards, saves)


def _group(axis: DeviceMesh) -> Group:
    return Group(axis.get_group(), axis.size(), axis.get_local_rank())
