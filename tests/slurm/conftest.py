"""A real Slurm of two nodes on this machine, for the tests of this folder; skipped where its programs are not installed."""

import os
import random
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

ATTEMPTS = 3  # another program may take a port between our look and Slurm's


@pytest.fixture(scope="session")
def cluster(root, tmp_path_factory):
    """SLURM_CONF of a running two-node cluster (tools/slurm_two_nodes.sh); its folder holds the logs."""
    missing = [name for name in ("slurmctld", "slurmd", "munged") if not shutil.which(name)]
    if missing or os.geteuid():
        why = f"{', '.join(missing)} not installed" if missing else "slurmd wants root"
        pytest.skip(f"no Slurm can be started here: {why} (tools/slurm_two_nodes.sh install)")
    script = root / "tools" / "slurm_two_nodes.sh"
    for _ in range(ATTEMPTS):
        folder = tmp_path_factory.mktemp("slurm")
        begun = _run([script, "start", folder], FIRST_PORT=str(_free_ports()))
        if begun.returncode == 0:
            break
    else:
        pytest.skip(f"no Slurm can be started here: {begun.stderr[-3000:]}")
    guard = _stop_with_us(script, folder)
    try:
        yield folder / "slurm.conf"
    finally:
        guard.stdin.close()
        guard.wait(timeout=120)


def _run(command: list, **environment: str) -> subprocess.CompletedProcess:
    # Daemons keep the pipe of stdout open, files do not mind.
    with open(Path(command[-1]) / "start.log", "w+") as said:
        done = subprocess.run(command, env=os.environ | environment, stdout=said, stderr=said, timeout=180, check=False)
        said.seek(0)
        done.stderr = said.read()
    return done


def _stop_with_us(script: Path, folder: Path) -> subprocess.Popen:
    """A process that stops the cluster when its stdin ends: also when pytest is killed, the cluster does not stay behind."""
    command = ["bash", "-c", 'cat; exec "$0" stop "$1"', script, folder]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **quiet)


def _free_ports() -> int:
    """The first of three ports in a row that nobody listens on; below those that Linux gives to outgoing connections."""
    for first in random.sample(range(17000, 19000, 10), 200):
        try:
            for port in range(first, first + 3):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
    raise RuntimeError("no three free ports between 17000 and 19000")
