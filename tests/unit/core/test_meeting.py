"""Processes find each other although ports are taken, and say for whom they wait."""

import logging
import multiprocessing
import os
import re
import socket
import threading
import time
from datetime import timedelta

import pytest

from internlm.core import meeting
from internlm.core.launch import Launch, MeshError
from internlm.core.meeting import AbsentProcessError, meet
from internlm.core.rendezvous import step_rendezvous

pytestmark = pytest.mark.timeout(120)
STEP = {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_ID": "0"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def by_srun(rank: int, world: int) -> Launch:
    return Launch(rank, world, 0, "srun", (f"SLURM_PROCID={rank}", f"SLURM_STEP_NUM_TASKS={world}"))


def by_torchrun(rank: int, world: int) -> Launch:
    return Launch(rank, world, 0, "torchrun", (f"RANK={rank}", f"WORLD_SIZE={world}"))


def process(launch: Launch, environment: dict, delay: float, told) -> None:
    logging.disable()
    time.sleep(delay)
    store = meet(launch, timedelta(seconds=30), timedelta(seconds=30), environment)
    store.set(f"from {launch.rank}", str(os.getpid()))
    found = [store.get(f"from {rank}").decode() for rank in range(launch.world)]
    store.add("done", 1)
    while launch.rank == 0 and store.add("done", 0) < launch.world:
        time.sleep(0.05)
    told.send(found)


def all_meet(launches: list[Launch], environment: dict, delays=(0, 0, 0)) -> None:
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in launches]
    processes = [
        context.Process(target=process, args=(launch, environment, delay, theirs))
        for launch, delay, (_, theirs) in zip(launches, delays, pipes)
    ]
    for started in processes:
        started.start()
    for started in processes:
        started.join(60)
    assert [started.exitcode for started in processes] == [0] * len(launches)
    assert [ours.recv() for ours, _ in pipes] == [[str(started.pid) for started in processes]] * len(launches)


class Squatter:
    """Another program on a port: it says nothing, hangs up, or answers in its own words."""

    def __init__(self, port: int, answer: bytes | None):
        self.answer, self.socket = answer, socket.create_server(("", port))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        self.visitors = []
        while True:
            try:
                visitor, _ = self.socket.accept()
                self.visitors.append(visitor)
                if self.answer is not None:
                    visitor.sendall(self.answer)
                    visitor.close()
            except OSError:
                return

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.socket.shutdown(socket.SHUT_RDWR)  # or the thread would keep it open
        self.socket.close()


@pytest.mark.parametrize("delays", [(0, 0, 0), (1, 0, 0.5)])
def test_all_meet_in_whatever_order_they_come(delays):
    all_meet([by_srun(rank, 3) for rank in range(3)], STEP | {"SLURM_JOB_ID": str(os.getpid())}, delays)
    given = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    all_meet([by_torchrun(rank, 3) for rank in range(3)], given, delays)


@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 5000])
def test_a_port_of_slurms_that_another_program_has_is_passed_over(answer, monkeypatch):
    monkeypatch.setattr(meeting, "_ANSWER", 0.5)
    environment = STEP | {"SLURM_JOB_ID": str(os.getpid() + 7)}
    ports = step_rendezvous(environment)[1]
    with Squatter(ports[0], answer), Squatter(ports[1], answer):
        all_meet([by_srun(rank, 2) for rank in range(2)], environment)


def test_two_jobs_with_one_port_do_not_mix(monkeypatch):
    """The numbers of these jobs give the same ports: whichever is first has the first, and each process finds its own job."""
    monkeypatch.setattr(meeting, "_ANSWER", 0.5)
    failed = []

    def job(number: int) -> None:
        try:
            all_meet([by_srun(rank, 2) for rank in range(2)], STEP | {"SLURM_JOB_ID": str(number)}, (0.2, 0))
        except AssertionError as error:
            failed.append(error)

    numbers = [os.getpid() + 11, os.getpid() + 11 + 1200]
    assert len({step_rendezvous(STEP | {"SLURM_JOB_ID": str(number)})[1] for number in numbers}) == 1
    threads = [threading.Thread(target=job, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_port_that_was_asked_for_and_is_taken_is_named():
    port = free_port()
    given = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    with Squatter(port, None), pytest.raises(MeshError, match=rf"another program has port {port} of .*MASTER_PORT"):
        meet(by_torchrun(0, 2), timedelta(seconds=5), timedelta(seconds=5), given)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "MASTER_ADDR and MASTER_PORT not set, although RANK=0 and WORLD_SIZE=2, which torchrun sets, .*unset RANK"),
        ({"MASTER_ADDR": "localhost", "MASTER_PORT": " "}, "MASTER_PORT not set, although RANK=0"),
        ({"MASTER_ADDR": "localhost", "MASTER_PORT": "http"}, r"MASTER_PORT=http is not a port \(1 to 65535\)"),
        ({"MASTER_ADDR": "localhost", "MASTER_PORT": "70000"}, "MASTER_PORT=70000 is not a port"),
    ],
)
def test_an_address_that_is_none_is_named_at_once(given, named):
    with pytest.raises(MeshError, match=named):
        meet(by_torchrun(0, 2), timedelta(seconds=60), timedelta(seconds=60), given)


@pytest.mark.parametrize("rank", [0, 1])
def test_waiting_is_said_and_ends(rank, monkeypatch, caplog):
    monkeypatch.setattr(meeting, "NOTICE", 0.1)
    given = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    with pytest.raises(AbsentProcessError, match=f"RANK={rank} and WORLD_SIZE=3, which torchrun sets, .*: unset RANK WORLD_SIZE"):
        meet(by_torchrun(rank, 3), timedelta(seconds=1.5), timedelta(seconds=60), given)
    said = "process 0 of 3 waits on port .* for process 1, 2" if rank == 0 else "process 1 of 3 looks for process 0 at localhost"
    assert len(caplog.records) == 1 and re.search(said, caplog.text) and "WORLD_SIZE=3" in caplog.text
