"""A real Slurm of two nodes on this machine, for the tests of this folder; skipped where its programs are not installed."""

import os
import shutil
import socket
import subprocess

import pytest


@pytest.fixture(scope="session")
def cluster(root, tmp_path_factory):
    """SLURM_CONF of a running two-node cluster (tools/slurm_two_nodes.sh); its folder holds the logs."""
    missing = [name for name in ("slurmctld", "slurmd", "munged") if not shutil.which(name)]
    if missing or os.geteuid():
        why = f"{', '.join(missing)} not installed" if missing else "slurmd wants root"
        pytest.skip(f"no Slurm can be started here: {why} (tools/slurm_two_nodes.sh install)")
    folder, script = tmp_path_factory.mktemp("slurm"), root / "tools" / "slurm_two_nodes.sh"
    environment = os.environ | {"FIRST_PORT": str(_free_ports())}
    command = [script, "start", folder]
    begun = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    if begun.returncode:
        pytest.skip(f"no Slurm can be started here: {begun.stderr[-2000:]}")
    try:
        yield folder / "slurm.conf"
    finally:
        subprocess.run(["scancel", "--user=root"], env=os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}, check=False)
        subprocess.run([script, "stop", folder], timeout=120, check=False)


def _free_ports() -> int:
    """The first of three ports in a row that nobody listens on."""
    for first in range(17000, 19000, 10):
        try:
            for port in range(first, first + 3):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
    raise RuntimeError("no three free ports between 17000 and 19000")
