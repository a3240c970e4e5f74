"""The processes of a small world on this machine, announced to each other as a launcher does it."""

import os
import socket
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def become(rank: int, world: int, port: int) -> None:
    """Make this process one of a world, with one thread: torchrun's variables, no process group yet."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def start(work: Callable, world: int, *arguments, group: bool | None = None) -> None:
    """Run ``work(rank, world, *arguments)`` in so many forked processes and wait for them; the first failure is raised.

    ``group``: whether they are in a gloo group then; None = where there is more than one; False leaves it to ``work``.
    """
    together = world > 1 if group is None else group
    mp.start_processes(_member, (world, free_port(), together, work, arguments), nprocs=world, start_method="fork")


def _member(rank: int, world: int, port: int, together: bool, work: Callable, arguments: tuple) -> None:
    become(rank, world, port)
    if together:
        dist.init_process_group("gloo", rank=rank, world_size=world)
    work(rank, world, *arguments)
    if together:
        dist.destroy_process_group()
