"""SIGKILL at random moments, most of them inside a save, to one or both of two processes: nothing that was complete is lost.

``EGOAGENT_KILLS=100 python -m pytest -s tests/dist/test_kills.py`` kills so often (default 6) and says what happened.
"""

import multiprocessing
import os
import random
import signal
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import torch._dynamo  # fully_shard needs it: imported once here and not in every forked process
from processes import become, free_port
from train_samples import both, clip_batch, image_batch, tiny_config

from internlm.checkpoint.manager import CheckpointManager, read_checkpoint
from internlm.train import loop

KILLS = int(os.environ.get("EGOAGENT_KILLS", "6"))
STEPS = 10
TRAIN = {"steps": STEPS, "image_batch": 2, "clip_batch": 2, "checkpoint_every": 1, "threads": 1}
STARTED = "started"  # file of a run folder: the step that the last start began with
pytestmark = pytest.mark.timeout(300 + 60 * KILLS)


def process(rank: int, port: int, run_dir: Path, asynchronous: bool) -> None:
    """One of two processes of a run that saves after every step."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    become(rank, 2, port)

    def source(start: int):
        if rank == 0:
            (run_dir / STARTED).write_text(str(start))
        for step in range(start, STEPS):
            batches = both(image_batch(step, 4), clip_batch(step, 4))
            yield {n: type(b)(**{f.name: getattr(b, f.name)[rank::2] for f in fields(b)}) for n, b in batches.items()}

    train = TRAIN | {"async_save": asynchronous}
    loop.train(tiny_config(run_dir, train=train, parallel={"dp_shard": 2}), batches=source)


def start(run_dir: Path, asynchronous: bool) -> list[multiprocessing.Process]:
    port = free_port()
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=process, args=(rank, port, run_dir, asynchronous)) for rank in range(2)]
    for one in both:
        one.start()
    return both


def is_saving(run_dir: Path) -> bool:
    return any((run_dir / "checkpoints").glob(".writing_step_*"))


def stop_inside_a_save(both: list[multiprocessing.Process], run_dir: Path) -> None:
    """Return with both processes stopped while a save is under way, or with one of them at its end."""
    while all(one.is_alive() for one in both):
        for one in both:
            os.kill(one.pid, signal.SIGSTOP)
        if is_saving(run_dir):
            return
        for one in both:
            os.kill(one.pid, signal.SIGCONT)
        while not is_saving(run_dir) and all(one.is_alive() for one in both):
            time.sleep(0.001)


def kill(both: list[multiprocessing.Process], run_dir: Path, rng: random.Random, number: int) -> str | None:
    """Kill at a random moment; says where it struck, or None where the run had ended before.

    Of three kills one comes whenever, one within a save's length after a save is seen, and one inside a save for certain.
    """
    if number % 3 == 0:
        time.sleep(rng.uniform(0, 4))
    else:
        passed = rng.randrange(4)  # saves to let pass
        while passed >= 0 and any(one.is_alive() for one in both):
            while not is_saving(run_dir) and any(one.is_alive() for one in both):
                time.sleep(0.001)
            passed -= 1
            while passed >= 0 and is_saving(run_dir) and any(one.is_alive() for one in both):
                time.sleep(0.001)
        if number % 3 == 1:
            time.sleep(rng.uniform(0, 0.05))
        else:
            stop_inside_a_save(both, run_dir)
    if not all(one.is_alive() for one in both):
        return None
    struck = rng.choice([(0,), (1,), (0, 1)])
    where = "saving" if is_saving(run_dir) else "elsewhere"
    for rank in struck:
        os.kill(both[rank].pid, signal.SIGKILL)
    for rank in {0, 1} - set(struck):
        os.kill(both[rank].pid, signal.SIGCONT)
    return where


def end(both: list[multiprocessing.Process]) -> list[int]:
    """What a launcher does: give the others some time after the first end, then kill them. Exit codes."""
    deadline, ended = time.monotonic() + 180, False
    while any(one.is_alive() for one in both) and time.monotonic() < deadline:
        if not ended and any(one.exitcode for one in both):
            deadline, ended = time.monotonic() + 20, True
        time.sleep(0.02)
    for one in both:
        if one.exitcode is None:
            one.kill()
        one.join()
    return [one.exitcode for one in both]


def test_what_was_complete_survives_and_the_end_is_bitwise_the_same(tmp_path):
    assert end(start(tmp_path / "undisturbed", False)) == [0, 0]
    expected = read_checkpoint(tmp_path / "undisturbed" / "checkpoints" / f"step_{STEPS:09d}")
    rng, struck, finished = random.Random(os.environ.get("EGOAGENT_SEED", "0")), [], {False: 0, True: 0}
    run, newest = 0, 0
    while len(struck) < KILLS or not all(finished.values()):
        run_dir, asynchronous = tmp_path / str(run), run % 2 == 0
        (run_dir / STARTED).unlink(missing_ok=True)
        both = start(run_dir, asynchronous)
        where = kill(both, run_dir, rng, len(struck)) if len(struck) < KILLS else None
        codes = end(both)
        if (run_dir / STARTED).exists():  # it came as far as the first batch: from the newest checkpoint, not from an older one
            assert int((run_dir / STARTED).read_text()) == newest
        manager = CheckpointManager(run_dir / "checkpoints")
        steps = manager.list()
        for step in steps:
            assert read_checkpoint(manager.path(step)).meta["counters"]["step"] == step
        assert (steps or [0])[-1] >= newest
        newest = (steps or [0])[-1]
        if where and codes != [0, 0]:  # a process may end by itself in the moment in which it is struck
            struck.append(where)
        else:
            assert codes == [0, 0]
        if codes == [0, 0]:
            found = manager.load(STEPS)
            assert found.meta["counters"] == expected.meta["counters"]
            for part, tensors in expected.parts.items():
                other = found.parts[part]
                assert tensors.keys() == other.keys() and all(torch.equal(other[name], t) for name, t in tensors.items()), part
            finished[asynchronous] += 1
            run, newest = run + 1, 0
    inside = struck.count("saving")
    print(f"{len(struck)} kills, {inside} inside a save; {finished[True]} async and {finished[False]} sync runs ended bitwise")
    assert inside >= len(struck) // 3
