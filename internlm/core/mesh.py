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
from .launch import Launch, MeshError, read_launch
from .meeting import meet

AXES = ("dp_replicate", "dp_shard", "tp")


@dataclass(frozen=True)
class Mesh:
    """The processes of a run. ``data``: those that see different samples; ``tp``: those that share each layer; ``world``: all.

    ``shards`` is the mesh that ``fully_shard`` takes; None where a process trains alone. ``saves``: all processes, for what
    travels through main memory while training goes on: a background save must not share a group with it. ``whole``: parameters
    are copies on every process of ``data``, whose gradients are averaged once a step, in place of ``fully_shard``. So it is where
    nothing is divided and gloo, which takes its time from the cores that compute, could hide nothing behind them.
    """

    world: Group = ALONE
    data: Group = ALONE
    tp: Group = ALONE
    shards: DeviceMesh | None = None
    saves: Group = ALONE
    whole: bool = False

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


@contextmanager
def open_mesh(
    shape: tuple[int, int, int],
    device: torch.device,
    timeout_minutes: float = 10,
    *,
    patience_minutes: float | None = None,
    always: bool = False,
) -> Iterator[Mesh]:
    """Join the other processes of the launch and lay them out; leaves the process group when done.

    ``shape``: sizes of dp_replicate, dp_shard and tp. A process group that exists already is used and kept. Backend: NCCL on
    CUDA (gloo beside it for what lies in main memory), gloo on the CPU. Raises MeshError when the product of the sizes is not
    the number of started processes, AbsentProcessError when one has not come after ``patience_minutes`` (None: the timeout of
    collectives). ``always``: a world of one opens a process group too, for a library that asks for one.
    """
    launch = read_launch()
    world = dist.get_world_size() if dist.is_initialized() else launch.world
    _check(shape, world, launch)
    if world == 1 and not always:
        yield Mesh()
        return
    own = not dist.is_initialized()
    if own:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if world > 1:
            patience = timeout_minutes if patience_minutes is None else patience_minutes
            join(launch, backend, timedelta(minutes=timeout_minutes), patience=timedelta(minutes=patience))
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


def _check(shape: tuple[int, int, int], world: int, launch: Launch) -> None:
    asked = shape[0] * shape[1] * shape[2]
    if asked == world:
        return
    text = " × ".join(f"{axis} {size}" for axis, size in zip(AXES, shape, strict=True))
    hint = f"start it with torchrun --nproc_per_node {asked}, or " if world == 1 else ""
    why = f". {launch.reason}" if launch.world == world > 1 else ""
    raise MeshError(
        f"parallel asks for {text} = {asked} processes and {world} {'was' if world == 1 else 'were'} started; "
        f"{hint}set parallel.dp_shard (or dp_replicate, tp) so that the product is {world}{why}"
    )


def join(launch: Launch, backend: str, timeout: timedelta, *, patience: timedelta) -> None:
    """Open the process group of a launch of several processes. ``patience``: how long a process that is absent is waited for."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store = _agent_store(timeout, patience)
    else:
        store = meet(launch, patience, timeout)
    dist.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.world, timeout=timeout)


def _agent_store(timeout: timedelta, patience: timedelta) -> "dist.Store | None":
    """Where the processes of one torchrun find each other; None leaves it to torch.

    torchrun keeps its store when it starts the processes again, and torch would find the addresses of the dead there
    (pytorch#135712). The number of the attempt tells them apart; agents of several machines count differently, though.
    """
    if os.environ.get("GROUP_WORLD_SIZE") != "1":
        return None
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=patience)
    store.set_timeout(timeout)
    return dist.PrefixStore(f"attempt_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def _mesh(shape: tuple[int, int, int], device: torch.device) -> Mesh:
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=AXES)
    data = mesh["dp_replicate", "dp_shard"]._flatten("dp")
    shards = mesh["dp_replicate", "dp_shard"] if shape[0] > 1 else mesh["dp_shard"]
    world = Group(dist.group.WORLD, dist.get_world_size(), dist.get_rank())
    saves = Group(dist.new_group(backend="fake" if dist.get_backend() == "fake" else "gloo"), world.size, world.rank)
    return Mesh(world, _group(data), _group(mesh["tp"]), shards, saves, whole=shape[1] == 1 and dist.get_backend() == "gloo")


def _group(axis: DeviceMesh) -> Group:
    return Group(axis.get_group(), axis.size(), axis.get_local_rank())
