"""How the processes of a launch without torchrun's agent find each other: process 0 listens, the others come, then all go on.

A port that another program has is no obstacle where there is a choice, and neither is a program that answers there: a process
says who it is, and process 0 says which launch it is, before anything of torch is opened. Torch's own store then listens on a
port that is free. Whoever waits says for whom, and on whose word.
"""

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

import torch.distributed as dist

from .launch import Launch, MeshError
from .rendezvous import step_rendezvous

NOTICE = 5.0  # seconds of waiting after which it is said
_ANSWER = 3.0  # seconds that a listener has to say who it is

log = logging.getLogger(__name__)


class AbsentProcessError(MeshError):
    """A process of the launch did not come."""


def meet(launch: Launch, patience: timedelta, timeout: timedelta, environment: Mapping[str, str] | None = None) -> dist.Store:
    """Wait for all processes of a launch, at most ``patience``; returns the store they share, with ``timeout`` for its calls.

    Raises MeshError where the address is missing or taken, AbsentProcessError where processes did not come.
    """
    env = os.environ if environment is None else environment
    host, ports = _address(launch, env)
    name = json.dumps(["egoagent", launch.world, *(env.get(key, "") for key in ("SLURM_JOB_ID", "SLURM_STEP_ID"))])
    wait = _Wait(launch, patience.total_seconds())
    if launch.rank:
        port = _come(host, ports, name, wait)
        return dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    with _listen(host, ports, env) as server:
        return _receive(server, name, wait, timeout)


class _Wait:
    """The time that a process waits, and what it says meanwhile."""

    def __init__(self, launch: Launch, seconds: float) -> None:
        self.launch, self.seconds, self._began, self._said = launch, seconds, time.monotonic(), False

    def go_on(self, what: str) -> None:
        """Return while there is time left."""
        waited = time.monotonic() - self._began
        if waited > self.seconds:
            raise AbsentProcessError(f"{what} for {self.seconds:g} s, in vain. {self.launch.reason}")
        if waited > NOTICE and not self._said:
            self._said = True
            log.warning("%s, for up to %g s. %s", what, self.seconds, self.launch.reason)


def _address(launch: Launch, env: Mapping[str, str]) -> tuple[str, Sequence[int]]:
    """Where process 0 listens: the host, and the ports of which it takes the first that is free."""
    given = {name: env.get(name, "").strip() for name in ("MASTER_ADDR", "MASTER_PORT")}
    if launch.by == "srun" and not all(given.values()):
        host, ports = step_rendezvous(env)
    elif missing := [name for name, value in given.items() if not value]:
        raise MeshError(f"{' and '.join(missing)} not set, although {launch.reason}")
    else:
        host, ports = "", ()
    port = given["MASTER_PORT"]
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise MeshError(f"MASTER_PORT={port} is not a port (1 to 65535); give a free one of process 0's machine")
    return given["MASTER_ADDR"] or host, (int(port),) if port else ports


def _listen(host: str, ports: Sequence[int], env: Mapping[str, str]) -> socket.socket:
    for port in ports:
        try:
            if socket.has_dualstack_ipv6():
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
            return socket.create_server(("", port), backlog=4096)
        except OSError as error:
            log.warning("port %d of %s cannot be listened on: %s", port, socket.gethostname(), error.strerror or error)
    whose = "MASTER_PORT" if env.get("MASTER_PORT", "").strip() else "what follows from the Slurm job's number"
    taken = f"another program has port {', '.join(map(str, ports))} of {socket.gethostname()} ({whose})"
    raise MeshError(f"{taken}; export MASTER_ADDR={host} and MASTER_PORT with a port that is free there")


def _receive(server: socket.socket, name: str, wait: _Wait, timeout: timedelta) -> dist.Store:
    """Process 0's part: answer who comes; when all have, tell them where the store is."""
    present: dict[int, socket.socket] = {}
    try:
        while len(present) < wait.launch.world - 1:
            absent = [str(rank) for rank in range(1, wait.launch.world) if rank not in present]
            shown = ", ".join(absent[:8]) + (f" and {len(absent) - 8} more" if len(absent) > 8 else "")
            port = server.getsockname()[1]
            wait.go_on(f"process 0 of {wait.launch.world} waits on port {port} of {socket.gethostname()} for process {shown}")
            server.settimeout(1.0)
            try:
                visitor, _ = server.accept()
            except OSError:
                continue
            try:
                visitor.settimeout(_ANSWER)
                visitor.sendall(name.encode() + b"\n")
                rank = int(_line(visitor))
                if not 0 < rank < wait.launch.world:
                    raise ValueError(rank)
                if rank in present:  # it has lost patience and comes again
                    present[rank].close()
                present[rank] = visitor
            except (OSError, ValueError):  # somebody else's
                visitor.close()
        store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timeout)
        for visitor in present.values():
            with contextlib.suppress(OSError):  # it has ended; whoever needs it will notice
                visitor.sendall(f"{store.port}\n".encode())
        return store
    finally:
        for visitor in present.values():
            visitor.close()


def _come(host: str, ports: Sequence[int], name: str, wait: _Wait) -> int:
    """The other processes' part: find process 0 and wait for its word; returns the store's port."""
    rank, problem = wait.launch.rank, ""
    while True:
        for port in ports:
            wait.go_on(f"process {rank} of {wait.launch.world} looks for process 0 at {host}:{port} ({problem or 'connecting'})")
            try:
                with socket.create_connection((host, port), timeout=_ANSWER) as first:
                    if _line(first) != name:
                        problem = "another program answers there"
                        continue
                    first.sendall(f"{rank}\n".encode())
                    first.settimeout(wait.seconds + NOTICE)  # until all are there, or process 0 has given up
                    return int(_line(first))
            except TimeoutError:
                problem = "no answer"
            except (OSError, ValueError) as error:
                problem = getattr(error, "strerror", None) or str(error)
        time.sleep(0.2)


def _line(connection: socket.socket) -> str:
    """What the other side says until the end of the line, at most 1000 bytes. ValueError where it ends before."""
    said = b""
    while not said.endswith(b"\n") and len(said) < 1000:
        byte = connection.recv(1)
        if not byte:
            raise ValueError("it hung up")
        said += byte
    return said.decode(errors="replace").rstrip("\n")
