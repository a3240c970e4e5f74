"""``egoagent data egoexo`` on a full disk and killed at 20 random moments: the same command again gives the same bytes."""

import hashlib
import json
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
def test_damaged_download_is_named_and_mended(raw, tmp_path, run_command):
    """Every kind of damage is a failure of its take alone; when the files are fetched again, only those takes are made."""
    broken = tmp_path / "raw"
    shutil.copytree(raw, broken)
    names = sorted(folder.name for folder in (broken / "takes").iterdir())
    video = next((broken / "takes" / names[0]).rglob("*.mp4"))
    os.truncate(video, video.stat().st_size // 2)
    next((broken / "takes" / names[1]).glob("*.calib.json")).unlink()
    uid = json.loads((broken / "takes.json").read_text())[2]["take_uid"]
    annotation = next((broken / "annotations").rglob(f"automatic/{uid}.json"))
    os.truncate(annotation, 5000)
    convert, options = [*DATA, "egoexo", broken], ["--size", "48", "--workers", "2"]
    done = run_command([*convert, tmp_path / "s", *options])
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{names[0]}: " in done.stdout and str(video) in done.stdout
    assert f"{names[1]}: " in done.stdout and "nor a calibration JSON of aria01; fetch the part" in done.stdout
    assert f"{annotation}: is not valid JSON" in done.stdout
    takes = tmp_path / "s" / "takes"
    made = {name: (takes / name / "frames.tar").exists() for name in names}
    assert made == {names[0]: False, names[1]: False, names[2]: True} and not list(takes.glob(".*"))
    checked = run_command([*DATA, "check", tmp_path / "s"])
    assert checked.returncode == 1 and ", 3 with faults" in checked.stdout
    shutil.copytree(raw, broken, dirs_exist_ok=True)
    again = run_command([*convert, tmp_path / "s", *options])
    assert again.returncode == 0 and "frames: 2 done, 1 kept" in again.stdout and "poses: 1 done, 2 kept" in again.stdout
    assert run_command([*DATA, "egoexo", raw, tmp_path / "whole", *options]).returncode == 0
    assert digests(tmp_path / "s") == digests(tmp_path / "whole")
    assert run_command([*DATA, "check", tmp_path / "s", "--takes-json", raw / "takes.json"]).returncode == 0


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
        else:
            seconds *= 0.9  # the run that was timed had a busier machine
        shutil.rmtree(out, ignore_errors=True)
        assert attempts < 4 * KILLS, "the kills come too late"
    assert unfinished > KILLS / 2, "the kills came too late to prove anything"
    print(f"{KILLS} runs killed, {unfinished} of them left an unfinished store; {attempts - KILLS} had ended before")
