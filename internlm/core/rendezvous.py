"""Where rank 0 of a Slurm job step can be found: every process works it out by itself, from srun's variables."""

import re
import socket
import subprocess
from collections.abc import Mapping

from .launch import MeshError

FIRST_PORT, PORTS = 20_000, 12_000  # below the ports that Linux gives to outgoing connections (32,768 on)
STEPS, NEXT = 10, 4001
CHOICES = 4  # ports of a step, should other programs have some


def step_rendezvous(environment: Mapping[str, str]) -> tuple[str, tuple[int, ...]]:
    """Host of rank 0 of the step that srun described in ``environment``, and the ports that it tries in turn.

    The ports are the same on all processes, and others for each job and step, since two of them may share a node.
    Raises MeshError.
    """
    job, step = (_digits(environment.get(name, "")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    nodes = environment.get("SLURM_STEP_NODELIST", "").strip()
    if not nodes:
        raise MeshError(f"SLURM_STEP_NODELIST, which srun sets, is not set; {_WAY_OUT}")
    ports = (FIRST_PORT + (STEPS * job + step + choice * NEXT) % PORTS for choice in range(CHOICES))
    return _address(_first_node(nodes)), tuple(ports)


def _digits(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _first_node(nodes: str) -> str:
    if "[" not in nodes:
        return nodes.split(",")[0]
    names = _scontrol("hostnames", nodes).split()
    if not names:
        raise MeshError(f"scontrol names no node of {nodes}; {_WAY_OUT}")
    return names[0]


def _address(node: str) -> str:
    """The node's name where it is a host name, which it need not be; else its address as Slurm knows it."""
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError:
        found = re.search(r"\bNodeAddr=(\S+)", _scontrol("node", node))
    if not found:
        raise MeshError(f"node {node} has no host name and no address that scontrol knows; {_WAY_OUT}")
    return found[1]


def _scontrol(*words: str) -> str:
    command = ["scontrol", "show", *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise MeshError(f"{' '.join(command)} does not answer: {error}; {_WAY_OUT}") from None


_WAY_OUT = "export MASTER_ADDR and MASTER_PORT (a host name of the first node, a free port of it) before srun"
