"""A command runs to its end whatever becomes of its standard streams."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from internlm.core import streams

# Prints more than a pipe holds, then does its work.
LONG = """
import sys
from internlm.core.streams import keep_going
keep_going()
for line in range(20_000):
    print("line", line)
print("to stderr", file=sys.stderr)
open("done", "w").write("done")
"""


def shell(text: str, cwd, **env: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PY": sys.executable} | env
    return subprocess.run(["bash", "-c", text], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("buffering", ["", "1"])
@pytest.mark.parametrize("pipe", ["| head -1", "2>&1 | head -1", "2>&1 | true", "> /dev/null 2>&1 | true"])
def test_a_reader_that_leaves_costs_nothing(tmp_path, pipe, buffering):
    (tmp_path / "long.py").write_text(LONG)
    done = shell(f"$PY long.py {pipe}; exit ${{PIPESTATUS[0]}}", tmp_path, PYTHONUNBUFFERED=buffering)
    assert (tmp_path / "done").exists() and done.returncode == 0 and "Error" not in done.stderr, done.stderr
    if "head" in pipe:
        assert done.stdout == "line 0\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_from_the_start(tmp_path, closed):
    (tmp_path / "long.py").write_text(LONG)
    done = shell(f"$PY long.py {closed}", tmp_path)
    assert done.returncode == 0 and (tmp_path / "done").read_text() == "done", "no message goes into a file of the command's"
    if closed == "2>&-":
        assert "to stderr" not in done.stdout


@pytest.mark.parametrize("words", ["--version", "--help", "nonsense", "describe --help", "describe gone.py"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "| true", "2>&1 | true", "> /dev/full", "2> /dev/full"])
def test_no_command_breaks_on_its_streams(tmp_path, words, closed):
    done = shell(f"$PY -m internlm.cli {words} {closed}; exit ${{PIPESTATUS[0]}}", tmp_path)
    full = closed == "> /dev/full" and words != "describe --help"  # argparse swallows what its help cannot be written to
    wrong = words in ("nonsense", "describe gone.py") or full
    assert done.returncode == (2 if wrong else 0), done.stderr
    assert "Traceback" not in done.stderr


def test_a_terminal_that_is_gone(tmp_path):
    """As after a lost connection: the command goes on, and so does what it has still to say."""
    import pty

    (tmp_path / "long.py").write_text("import time\nwhile not __import__('os').path.exists('closed'): time.sleep(0.05)\n" + LONG)
    ours, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, "long.py"], cwd=tmp_path, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.close(ours)
    (tmp_path / "closed").touch()
    assert child.wait(60) == 0 and (tmp_path / "done").exists()


def test_a_full_disk_is_told(tmp_path):
    done = shell("$PY -m internlm.cli --help > /dev/full", tmp_path)
    assert done.returncode == 2 and "No space left on device: 'standard output'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_result_is_written_whoever_reads_the_table(tmp_path):
    features = {"train_features": np.eye(4, dtype="f4"), "test_features": np.eye(4, dtype="f4")}
    np.savez(tmp_path / "f.npz", **features, train_labels=np.arange(4), test_labels=np.arange(4))
    command = "$PY -m internlm.cli eval knn --features f.npz --k 1 --out k.json"
    done = shell(f"{command} | head -1; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr and len(done.stdout.splitlines()) == 1
    assert json.loads((tmp_path / "k.json").read_text())["task"] == "knn"


def test_the_result_is_written_before_it_is_printed(tmp_path, monkeypatch):
    from internlm.eval import task
    from internlm.eval.report import summary
    from internlm.eval.tasks.knn import task as knn
    from internlm.eval.tasks.knn.options import KnnOptions

    def fails(*args):
        raise RuntimeError("no terminal")

    monkeypatch.setattr(summary, "print_table", fails)
    found = task.Result({"source": "x", "step": 1}, {"floors": {}, "protocol": {}}, [])
    monkeypatch.setattr(knn, "evaluate", lambda options: found)
    with pytest.raises(RuntimeError, match="no terminal"):
        task.run("knn", KnnOptions(out=tmp_path / "k.json"))
    assert (tmp_path / "k.json").is_file()


def test_a_character_that_the_terminal_lacks(tmp_path):
    code = "from internlm.core.streams import keep_going; keep_going(); print('3 \\u00d7 \\u2192', flush=True)"
    done = shell(f'$PY -c "{code}"', tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stdout) == (0, "3 \\xd7 \\u2192\n")


def test_replaced_streams_stay(monkeypatch):
    """Those of pytest, of a notebook and of whoever calls the command from Python."""
    before = sys.stdout, sys.stderr
    streams.keep_going()
    assert (sys.stdout, sys.stderr) == before
