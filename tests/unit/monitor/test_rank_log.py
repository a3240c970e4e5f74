"""What a process says ends in its own log; full disks and missing or broken displays end no run."""

import logging
import multiprocessing
import os
import pty
import resource
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from train_samples import batches, tiny_config

from internlm.monitor import profile
from internlm.monitor.boards import Boards, weights_and_biases
from internlm.monitor.metrics import MetricsWriter, read_metrics
from internlm.monitor.profile import StepProfiler
from internlm.monitor.progress import Progress
from internlm.monitor.rank_log import RankLog, rank_log_path
from internlm.monitor.watchdog import Watchdog
from internlm.train.loop import train

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


def test_the_log_has_the_packages_messages_every_librarys_warnings_and_the_end(tmp_path):
    path = rank_log_path(tmp_path, 3)
    level = logging.getLogger("internlm").level
    with pytest.raises(KeyError), RankLog(path, rank=3, world=8) as own:
        logging.getLogger("internlm.data").info("a message")
        logging.getLogger("internlm.data").debug("chatter")
        logging.getLogger("library").warning("a warning")
        logging.getLogger("library").info("small talk")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("an old way", DeprecationWarning, stacklevel=1)
        own.write("a note")
        raise KeyError("the end")
    logging.getLogger("internlm").warning("afterwards")
    text = path.read_text()
    for said in ("rank 3 of 8", "a message", "a warning", "an old way", "a note", "ended by KeyError", "Traceback"):
        assert said in text
    assert not [said for said in ("chatter", "small talk", "afterwards") if said in text]
    assert logging.getLogger("internlm").level == level


def test_a_run_leaves_a_log_and_a_second_start_adds_to_it(tmp_path):
    options = tiny_config().train.model_dump() | {"steps": 2}
    train(tiny_config(tmp_path, train=options), batches=batches)
    train(tiny_config(tmp_path, train=options | {"steps": 3}), batches=batches)
    text = (tmp_path / "logs" / "rank_0.log").read_text()
    assert text.count("rank 0 of 1") == 2 and "config changed" not in text.split("rank 0 of 1")[0]


@needs_full
def test_a_full_disk_under_the_log_is_said_once(tmp_path, capsys):
    path = tmp_path / "logs" / "rank_0.log"
    path.parent.mkdir()
    path.symlink_to(FULL)
    with RankLog(path, rank=0, world=1) as own:
        for _ in range(5):
            own.write("a note")
    error = capsys.readouterr().err
    assert error.count("No space left") == 1 and "Traceback" not in error


@needs_full
def test_a_full_disk_under_the_metrics_and_standard_error_ends_nothing(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").symlink_to(FULL)
    writer = MetricsWriter(tmp_path / "other")
    writer._file = FULL.open("wb", buffering=0)
    writer.write(1, {"loss": 1.0})
    writer._file = writer.path.open("ab", buffering=0)
    writer.write(2, {"loss": 2.0})
    writer.close()
    assert [record["step"] for record in read_metrics(tmp_path / "other")] == [2] and "No space left" in caplog.text
    progress = Progress(total=2, stream=FULL.open("w"))
    progress.note("nobody reads this")
    progress.report(1, {"loss": 1.0})


def test_a_disk_that_fills_up_during_a_run_costs_checkpoints_and_figures_but_not_the_run(tmp_path, samples):
    """A limit on the size of files stands for the full disk: writing above it fails as it does there."""
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[2]); from train_samples import *\n"
        "from internlm.train.loop import train\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))\n"
        "from internlm.checkpoint.manager import CheckpointError\n"
        "config = tiny_config(sys.argv[1], monitor={'tensorboard': True})\n"
        "try: train(config, batches=batches)\n"
        "except CheckpointError: print('the last save', end='')\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path), str(samples)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.stdout == "the last save", done.stderr
    assert "SAVE FAILED, training goes on" in done.stderr and "step 8/8" in done.stderr
    assert [record["step"] for record in read_metrics(tmp_path)][:3] == [1, 2, 3]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


class Failing:
    def __init__(self):
        self.calls = 0

    def write(self, step, numbers):
        self.calls += 1
        raise OSError("no route")

    def close(self):
        raise AssertionError("a board that failed is not asked again")


class Kept:
    def __init__(self):
        self.seen = []

    def write(self, step, numbers):
        self.seen.append((step, dict(numbers)))

    def close(self):
        self.seen.append("closed")


def test_a_board_that_fails_is_left_out_and_the_others_get_numbers_only(tmp_path, caplog):
    failing, kept = Failing(), Kept()
    writer = MetricsWriter(tmp_path, boards=Boards([failing, kept]))
    for step in (1, 2):
        writer.write(step, {"loss": 0.5, "bad": float("nan"), "health/verdict": "uniform"})
    writer.close()
    assert failing.calls == 1 and caplog.text.count("Failing failed") == 1
    assert kept.seen == [(1, {"loss": 0.5}), (2, {"loss": 0.5}), "closed"]


def test_without_weights_and_biases_a_run_goes_on_and_says_what_to_install(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = tiny_config(tmp_path, monitor={"wandb": "a-project", "health_every": 100})
    assert train(config, batches=batches).finished
    assert "pip install egoagent[wandb]" in caplog.text and len(read_metrics(tmp_path)) == 8


def test_weights_and_biases_that_does_not_start_is_left_out(tmp_path, monkeypatch, caplog):
    class Wandb:
        @staticmethod
        def init(**options):
            raise RuntimeError("api_key not configured")

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    assert weights_and_biases(tmp_path, "project", "name", {}) == []
    assert "WANDB_MODE=offline" in caplog.text


def test_weights_and_biases_continues_one_run_of_a_folder(tmp_path, monkeypatch):
    started, logged = [], []

    class Wandb:
        @staticmethod
        def init(**options):
            started.append(options)
            return Wandb

        define_metric = staticmethod(lambda *names, step_metric: None)
        log = staticmethod(logged.append)
        finish = staticmethod(lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    for step in (5, 3):
        (board,) = weights_and_biases(tmp_path, "project", "name", {"seed": 1})
        board.write(step, {"loss": 1.0})
    assert started[0]["id"] == started[1]["id"] and started[0]["resume"] == "allow" and started[0]["dir"] == str(tmp_path)
    assert logged == [{"step": 5, "loss": 1.0}, {"step": 3, "loss": 1.0}]


def test_the_profiler_leaves_one_trace_of_its_steps(tmp_path):
    config = tiny_config(tmp_path, monitor={"profile_steps": (3, 4), "health_every": 100})
    seen = []

    def counted(start):
        for step, pair in enumerate(batches(start), start + 1):
            seen.append((step, (tmp_path / "profile" / "rank_0.json").exists()))
            yield pair

    assert train(config, batches=counted).finished
    assert seen == [(step, step > 4) for step in range(1, 9)]
    trace = (tmp_path / "profile" / "rank_0.json").read_text()
    assert "aten::addmm" in trace and "traceEvents" in trace and not list(tmp_path.glob("profile/*.tmp"))


def test_the_time_of_collectives_is_what_they_cover_together():
    assert profile._union([(5e6, 6e6), (0.0, 2e6), (1e6, 3e6), (1.5e6, 2e6)]) == 4
    assert profile._union([]) == 0


def test_a_profile_that_cannot_be_written_is_said(tmp_path, caplog):
    (tmp_path / "profile").write_text("in the way")
    profiler = StepProfiler(tmp_path, 0, (1, 1), torch.device("cpu"))
    profiler.step(1)
    profiler.step(2)
    assert "could not be written" in caplog.text


@pytest.mark.parametrize("kind", ["none", "closed", "a terminal that goes"])
def test_training_goes_on_without_standard_error(tmp_path, monkeypatch, kind):
    """Also with a bar: a terminal whose window is closed refuses every write."""
    ours, theirs = pty.openpty()
    stream = None if kind == "none" else os.fdopen(theirs, "w")

    def source(start):
        for step, pair in enumerate(batches(start), start):
            if step == 2 and kind == "a terminal that goes":
                os.close(ours)
            yield pair

    if kind == "closed":
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    monitor = {"tensorboard": False, "progress": True, "health_every": 100}
    assert train(tiny_config(tmp_path, monitor=monitor), batches=source).finished
    assert len(read_metrics(tmp_path)) == 8
    with suppress(OSError, AttributeError):
        stream.close()


def test_a_hang_without_standard_error_ends_all_the_same(tmp_path):
    def work():
        sys.stderr = None
        with Watchdog(0.5, tmp_path / "log", rank=0, exit_code=44, grace=0):
            time.sleep(1000)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(30)
    assert process.exitcode == 44 and "STANDING STILL" in (tmp_path / "log").read_text()
