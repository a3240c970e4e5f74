"""A process that stands still is ended with its stacks; one that goes on, or is stopped as a whole, is left alone."""

import multiprocessing
import os
import signal
import time

from internlm.monitor.watchdog import Watchdog

CODE = 44


def work(path, seconds, beats):
    with Watchdog(seconds, path, rank=0, exit_code=CODE, grace=0) as dog:
        for _ in range(beats):
            time.sleep(0.1)
            dog.beat("counting")
        if not beats:
            time.sleep(1000)


def start(path, seconds, beats):
    process = multiprocessing.get_context("fork").Process(target=work, args=(path, seconds, beats))
    process.start()
    return process


def test_standing_still_ends_the_process_with_its_stacks(tmp_path, capfd):
    process = start(tmp_path / "logs" / "rank_0.log", 1, 0)
    process.join(60)
    text = (tmp_path / "logs" / "rank_0.log").read_text()
    assert process.exitcode == CODE
    for said in (text, capfd.readouterr().err):
        assert "STANDING STILL: rank 0" in said and "in work" in said and f"exit code {CODE}" in said


def test_beats_keep_it_alive_for_longer_than_the_limit(tmp_path):
    process = start(tmp_path / "log", 3, 50)
    process.join(60)
    assert process.exitcode == 0 and not (tmp_path / "log").exists()


def test_a_log_that_cannot_be_written_does_not_keep_it_alive(tmp_path, capfd):
    (tmp_path / "in the way").write_text("")
    process = start(tmp_path / "in the way" / "log", 1, 0)
    process.join(60)
    assert process.exitcode == CODE and "STANDING STILL" in capfd.readouterr().err


def test_time_in_which_the_process_is_stopped_does_not_count(tmp_path):
    process = start(tmp_path / "log", 4, 10)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(5)
    os.kill(process.pid, signal.SIGCONT)
    process.join(60)
    assert process.exitcode == 0 and not (tmp_path / "log").exists()
