"""Two processes in trouble: bad batches, a hang, a death, a slow process, one without data. None waits for ever, all is said."""

import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from processes import become, free_port
from train_samples import both, clip_batch, image_batch, tiny_config

from internlm.checkpoint.lock import RunLock, RunLockError
from internlm.checkpoint.manager import CheckpointManager
from internlm.monitor import spikes
from internlm.monitor.metrics import read_metrics
from internlm.monitor.watchdog import Watchdog
from internlm.train import loop
from internlm.train.bad_steps import BadStepsError
from internlm.train.loop import LostProcessError, train
from internlm.train.signals import EXIT_BAD_STEPS, EXIT_STUCK
from internlm.trunk.block import SwiGLU

pytestmark = pytest.mark.timeout(300)
CRASHED = 77


def stream(start: int, rank: int, spoilt=(), by=float("nan")):
    """Batches of one process; those of ``spoilt`` data steps have poses times ``by``."""
    step = start
    while True:
        clips = clip_batch(2 * step + rank, 2)
        if step in spoilt:
            clips = replace(clips, poses=(clips.poses + 1) * by, visible=torch.ones_like(clips.visible))
        yield both(image_batch(2 * step + rank, 2), clips)
        step += 1


def config(folder: Path, monitor=(), **options):
    options = {"image_batch": 2, "clip_batch": 2, "max_bad_steps": 3, **options}
    parallel = {"dp_shard": 2, "timeout_minutes": options.pop("timeout_minutes", 2)}
    return tiny_config(folder, train=options, parallel=parallel, monitor={"health_every": 100, **dict(monitor)})


def rewinding(rank: int, folder: Path) -> None:
    """Only rank 1's batches are spoilt."""
    spoilt = {4, 5, 6} if rank else ()
    result = train(config(folder / "rewound", on_bad="rewind"), batches=lambda start: stream(start, rank, spoilt))
    counters = result.state.counters
    assert (counters.rewinds, counters.skipped_batches, counters.bad_steps, counters.step) == (1, 4, 3, 8)

    def other(start):
        return (next(stream(step if step < 3 else step + 4, rank)) for step in range(start, 100))

    train(config(folder / "other"), batches=other)


def endless(rank: int, folder: Path) -> None:
    spoilt = range(4, 1000) if rank else ()
    train(config(folder / "endless", on_bad="rewind", max_rewinds=1), batches=lambda start: stream(start, rank, spoilt))


def spiking(rank: int, folder: Path) -> None:
    spikes.LEAST = 3
    spoilt = {5} if rank else ()
    result = train(config(folder / "spike", spike_factor=10.0), batches=lambda start: stream(start, rank, spoilt, 1e6))
    assert result.finished and result.bad_steps == 1


def hanging(rank: int, folder: Path) -> None:
    """The limit becomes short when rank 1 falls asleep: starting takes longer than that on a busy machine."""
    dogs = []

    class Patient(Watchdog):
        def __enter__(self):
            dogs.append(self)
            return super().__enter__()

    loop.Watchdog = Patient

    def source(start):
        for step, pair in enumerate(stream(start, rank), start):
            if step == 3:
                dogs[0].seconds = 4
                if rank:
                    asleep()
            yield pair

    train(config(folder / "hang"), batches=source)


def asleep():
    time.sleep(10_000)


def dying(rank: int, folder: Path) -> None:
    def source(start):
        for step, pair in enumerate(stream(start, rank), start):
            if rank and step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield pair

    train(config(folder / "death"), batches=source)


def lagging(rank: int, folder: Path) -> None:
    """Rank 1 computes slowly; rank 0 waits for its data."""
    plain = SwiGLU.forward

    def slow(self, x):
        time.sleep(0.1)
        return plain(self, x)

    if rank:
        SwiGLU.forward = slow

    def source(start):
        for pair in stream(start, rank):
            if not rank:
                time.sleep(0.5)
            yield pair

    train(config(folder / "lag", {"data_wait_share": 0.05, "profile_steps": (2, 3)}, steps=6), batches=source)


def refused(rank: int, folder: Path) -> None:
    """The folder is held by the process that started both."""
    with pytest.raises(RunLockError, match=f"held by process {os.getppid()} on"):
        train(config(folder / "held"), batches=lambda start: stream(start, rank))


def child(rank: int, port: int, task, folder: Path) -> None:
    become(rank, 2, port)
    errors = (folder / f"{task.__name__}_{rank}.err").open("w")
    os.dup2(errors.fileno(), 2)
    sys.stderr = errors
    code = 0
    try:
        # Once for all runs of a task: a second store under the same address could meet the first one's end.
        dist.init_process_group("gloo", rank=rank, world_size=2)
        task(rank, folder)
    except BadStepsError:
        code = EXIT_BAD_STEPS
    except LostProcessError as error:
        print(error, file=sys.stderr)
        code = EXIT_STUCK
    except BaseException as error:
        code = CRASHED
        sys.excepthook(type(error), error, error.__traceback__)
    errors.flush()
    os._exit(code)


def run(task, folder: Path, limit: float = 120) -> tuple[list[int], list[str]]:
    """Exit codes and standard errors of two processes that do ``task``."""
    port = free_port()
    context = mp.get_context("fork")
    processes = [context.Process(target=child, args=(rank, port, task, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    end = time.monotonic() + limit
    for process in processes:
        process.join(max(end - time.monotonic(), 0))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes, [(folder / f"{task.__name__}_{rank}.err").read_text() for rank in range(2)]


def logs(folder: Path, rank: int) -> str:
    return (folder / "logs" / f"rank_{rank}.log").read_text()


def test_processes_go_back_together_and_on_with_other_batches(tmp_path):
    codes, errors = run(rewinding, tmp_path)
    assert codes == [0, 0], errors
    rewound, other = (CheckpointManager(tmp_path / name / "checkpoints").load() for name in ("rewound", "other"))
    for part in ("predictor", "observer", "optimizer", "loss"):
        expected = other.parts[part]
        for name, tensor in rewound.parts[part].items():
            assert torch.equal(tensor, expected[name]), name
    bad = (tmp_path / "rewound" / "bad_steps.jsonl").read_text().splitlines()
    assert len(bad) == 3 and '"clip_samples": [16, 17, 18, 19]' in bad[0]  # of both processes
    assert all("REWIND 1" in logs(tmp_path / "rewound", rank) for rank in range(2))
    assert "REWIND 1" in errors[0] and "REWIND" not in errors[1]


def test_processes_stop_together_after_the_last_rewind(tmp_path):
    assert run(endless, tmp_path)[0] == [EXIT_BAD_STEPS, EXIT_BAD_STEPS]
    assert len((tmp_path / "endless" / "bad_steps.jsonl").read_text().splitlines()) == 6


def test_a_spike_of_one_process_is_skipped_by_both(tmp_path):
    codes, errors = run(spiking, tmp_path)
    assert codes == [0, 0], errors
    assert len((tmp_path / "spike" / "bad_steps.jsonl").read_text().splitlines()) == 1


def test_a_hang_ends_with_the_stacks_of_all_processes(tmp_path):
    codes, errors = run(hanging, tmp_path)
    assert codes == [EXIT_STUCK, EXIT_STUCK], errors
    for rank in range(2):
        for text in (errors[rank], logs(tmp_path / "hang", rank)):
            assert f"STANDING STILL: rank {rank} on {socket.gethostname()}" in text and "since: saved step 3" in text
    assert "in asleep" in logs(tmp_path / "hang", 1) and "in asleep" in errors[1]
    waiting = logs(tmp_path / "hang", 0)
    assert "in asleep" not in waiting and "distributed_c10d.py" in waiting  # which of them the others wait for is plain


def test_a_process_that_dies_ends_the_other_with_a_plain_message(tmp_path):
    codes, errors = run(dying, tmp_path)
    assert codes == [EXIT_STUCK, -signal.SIGKILL], errors
    assert "rank 0 lost the others" in errors[0] and "ended by" in logs(tmp_path / "death", 0)


def test_all_processes_of_a_second_run_are_refused(tmp_path):
    with RunLock(tmp_path / "held"):
        codes, errors = run(refused, tmp_path)
        assert codes == [0, 0], errors
        assert [path.name for path in (tmp_path / "held").iterdir()] == ["training-1.lock"]


def test_a_slow_process_and_one_without_data_are_named_once(tmp_path):
    codes, errors = run(lagging, tmp_path)
    assert codes == [0, 0], errors
    host = socket.gethostname()
    assert errors[0].count("STRAGGLER") == 1 and f"STRAGGLER: rank 1 on {host}" in errors[0]
    assert errors[0].count("WAITING FOR DATA") == 1 and f"WAITING FOR DATA: rank 0 on {host}" in errors[0]
    records = read_metrics(tmp_path / "lag")
    last = records[-1]
    assert last["ranks/probe_seconds_max_rank"] == 1 and last["ranks/data_seconds_max_rank"] == 0
    assert last["ranks/probe_seconds_max"] > 0.1 > last["ranks/probe_seconds_min"]
    assert last["ranks/data_seconds_max"] > 0.5 > last["ranks/data_seconds_min"]
    # In the profiled steps rank 0 waits in collectives for rank 1, whose three calls take 0.1 s longer each.
    communication = [record["step"] for record in records if "time/communication" in record]
    assert communication == [4] and records[3]["time/communication"] > 0.2
    assert {path.name for path in (tmp_path / "lag" / "profile").iterdir()} == {"rank_0.json", "rank_1.json"}
    assert last["time/data"] > 0.5 and last["ranks/host_gib_max"] >= last["ranks/host_gib_min"] > 0
