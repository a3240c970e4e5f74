"""``egoagent data egoexo`` on a full disk and killed at 20 random moments: the same command again gives the same bytes."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DATA = [sys.executable, "-m", "internlm.cli", "data"]
WORLD = ["--raw", "--takes", "3", "--val-takes", "0", "--test-takes", "0", "--seconds", "2", "--size", "64", "--jobs", "1"]
KILLS = 20


def digests(path: Path) -> dict[str, str]:
    """Every file and folder of a store, hidden ones too."""
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
        for p in sorted(path.rglob("*"))
    }


@pytest.fixture(scope="module")
def raw(tmp_path_factory, run_command) -> Path:
    path = tmp_path_factory.mktemp("raw") / "raw"
    made = run_command([sys.executable, "-m", "internlm.cli", "world", path, *WORLD], timeout=240)
    assert made.returncode == 0, made.stderr
    return path


@pytest.mark.slow
def test_full_disk_is_named_and_the_run_goes_on_when_there_is_room(raw, tmp_path, run_command):
    """A limit on file sizes stands for the full disk: writing fails in the same place, with an error of the same family."""
    convert = f"{' '.join(map(str, DATA))} egoexo {raw} {{}} --size 48 --stride 1 --workers 2"
    limited = run_command(["bash", "-c", f"ulimit -f 24; {convert.format(tmp_path / 's')}"])
    assert limited.returncode == 1 and "Traceback" not in limited.stderr
    assert "cannot be written: File too large; free some space" in limited.stdout
    assert "not begun: the disk is full" in limited.stdout
    takes = tmp_path / "s" / "takes"
    assert not list(takes.rglob("frames*")) and not list(takes.glob(".*"))
    for out in ("s", "whole"):
        done = run_command(["bash", "-c", convert.format(tmp_path / out)])
        assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "s") == digests(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_moments_and_run_again(raw, tmp_path, run_command):
    """Half the kills hit the command alone (its processes must end by themselves), half its whole process group."""
    convert = [*DATA, "egoexo", raw]
    options = ["--size", "48", "--stride", "2", "--workers", "2"]
    whole = tmp_path / "whole"
    start = time.monotonic()
    done = run_command([*convert, whole, *options])
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    expected, rng, attempts, killed, unfinished = digests(whole), random.Random(0), 0, 0, 0
    while killed < KILLS:
        attempts += 1
        out = tmp_path / str(attempts)
        process = subprocess.Popen(
            [*map(str, convert), str(out), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(rng.uniform(0.3, 1) * seconds)
        os.killpg(process.pid, signal.SIGKILL) if attempts % 2 else process.kill()
        if process.wait() == -signal.SIGKILL:
            killed += 1
            unfinished += not out.exists() or digests(out) != expected
            again = run_command([*convert, out, *options])
            assert again.returncode == 0, again.stderr
            assert digests(out) == expected, f"kill {killed} of {KILLS}"
        shutil.rmtree(out, ignore_errors=True)
        assert attempts < 4 * KILLS, "the kills come too late"
    assert unfinished > KILLS / 2, "the kills came too late to prove anything"
    print(f"{KILLS} runs killed, {unfinished} of them left an unfinished store; {attempts - KILLS} had ended before")
