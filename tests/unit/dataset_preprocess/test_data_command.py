"""``egoagent data``: every action explains itself, imports nothing heavy until it works, and ends with documented codes."""

import subprocess
import sys

import pytest
from data_samples import data_command

from internlm import cli
from internlm.commands import data as command

# Optional, or slow to import: only the work itself may import them. The store needs numpy.
HEAVY = ("torch", "cv2", "av", "PIL", "projectaria_tools", "submitit", "simplejpeg", "scipy", "smplx", "rich")
MAKE_TAKES = ("egoexo", "undistort", "vrs", "videos", "poses", "mocap")


@pytest.mark.parametrize("action", command.ACTIONS)
def test_every_action_explains_itself(action, capsys):
    with pytest.raises(SystemExit) as ended:
        data_command(action, "--help")
    told = capsys.readouterr().out
    assert ended.value.code == 0 and command.ACTIONS[action][1].split()[0] in told
    assert all(option in told for option in ("--workers", "--force", "--slurm")) == (action in MAKE_TAKES)


def test_actions_import_nothing_heavy():
    modules = [module for module, _ in command.ACTIONS.values()]
    code = (
        "import argparse, importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({HEAVY!r}))\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name).add_arguments(argparse.ArgumentParser())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("action", MAKE_TAKES)
@pytest.mark.parametrize(("option", "value"), [("--workers", "-1"), ("--slurm-tasks", "0"), ("--slurm-minutes", "-5")])
def test_run_options_that_make_no_sense_are_refused(action, option, value, tmp_path, capsys):
    assert cli.main(["data", action, str(tmp_path / "in"), str(tmp_path / "out"), option, value]) == 2
    told = capsys.readouterr().err
    assert told.startswith("egoagent data: ") and len(told.splitlines()) == 1


@pytest.mark.parametrize("action", MAKE_TAKES)
def test_input_that_is_not_there_is_said_in_words(action, tmp_path, capsys):
    """Either the command cannot run (2) or the take failed (1); never a traceback, and the name is told."""
    gone = tmp_path / "gone.vrs"
    first, second = (gone, tmp_path / "out") if action in ("egoexo", "undistort", "poses") else (tmp_path / "out", gone)
    assert cli.main(["data", action, str(first), str(second)]) in (1, 2)
    assert "gone.vrs" in capsys.readouterr().err
