"""Where rank 0 of a Slurm step listens, with a stand-in for scontrol."""

import socket

import pytest

from internlm.core.launch import MeshError
from internlm.core.rendezvous import step_rendezvous

SCONTROL = """#!/bin/sh
case "$2 $3" in
  "hostnames gpu[07-08,12]") printf 'gpu07\\ngpu08\\ngpu12\\n' ;;
  "hostnames local[1-2]") printf 'localhost\\nlocal2\\n' ;;
  "node gpu07") echo "NodeName=gpu07 Arch=x86_64 NodeAddr=10.1.2.3 NodeHostName=gpu07.cluster Port=6818" ;;
  "node lost") echo "NodeName=lost State=UNKNOWN" ;;
  *) echo "slurm_load_node error: Invalid node name specified" >&2; exit 1 ;;
esac
"""


@pytest.fixture(autouse=True)
def scontrol(tmp_path, monkeypatch):
    path = tmp_path / "scontrol"
    path.write_text(SCONTROL)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    def resolve(name, port):
        if name != "localhost":
            raise socket.gaierror(f"unknown: {name}")
        return [("127.0.0.1", port)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return path


def found(nodes: str, job: int = 7, step: int = 0) -> tuple[str, tuple[int, ...]]:
    return step_rendezvous({"SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu[07-08,12]", "10.1.2.3"),  # no host name: the address that Slurm uses
        ("gpu07,gpu12", "10.1.2.3"),
        ("local[1-2]", "localhost"),
        ("localhost", "localhost"),
    ],
)
def test_the_first_node(nodes, host):
    assert found(nodes)[0] == host


def test_jobs_and_steps_on_one_node_do_not_meet():
    ports = [found("localhost", job, step)[1][0] for job in range(1_000_000, 1_001_000) for step in range(3)]
    assert len(set(ports)) == len(ports) and min(ports) >= 20_000 and max(ports) < 32_768
    choices = found("localhost", 7, 1)[1]
    assert choices == found("localhost", 7, 1)[1] and len(set(choices)) == 4
    assert all(20_000 <= port < 32_768 for job in (0, 999, 4_000_000_000) for port in found("localhost", job, 9)[1])


@pytest.mark.parametrize(
    ("nodes", "named"), [("lost", "lost has no host name"), ("gpu[1-", "gpu\\[1-"), ("gone", "show node gone")]
)
def test_what_cannot_be_found_is_named(nodes, named):
    with pytest.raises(MeshError, match=f"{named}.*export MASTER_ADDR"):
        found(nodes)


def test_what_srun_did_not_set_is_named():
    with pytest.raises(MeshError, match="SLURM_STEP_NODELIST.*not set; export MASTER_ADDR"):
        step_rendezvous({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"})
    unnumbered = {"SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": "", "SLURM_STEP_ID": "interactive"}
    assert step_rendezvous(unnumbered)[1][0] == 20_000


def test_without_scontrol(scontrol):
    scontrol.unlink()
    assert found("localhost")[0] == "localhost"  # nothing to ask
    with pytest.raises(MeshError, match="scontrol show hostnames"):
        found("gpu[07-08,12]")
