import os
import subprocess
import sys
import types

import pytest

from internlm import cli, commands
from internlm.config.errors import ConfigError


@pytest.fixture
def command(monkeypatch):
    """Install a command ``probe`` whose ``run`` is given; returns ``main``."""

    def install(run, add_arguments=lambda parser: None):
        module = types.ModuleType("probe_command")
        module.run, module.add_arguments = run, add_arguments
        monkeypatch.setitem(sys.modules, "probe_command", module)
        monkeypatch.setitem(commands.COMMANDS, "probe", ("probe_command", "for the test"))
        return cli.main

    return install


def test_help_imports_nothing_heavy(run_command):
    check = (
        "import sys; from internlm.cli import main; main(['--help'])\n"
        "heavy = {'torch', 'numpy', 'cv2', 'pydantic', 'rich', 'ruamel.yaml', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = run_command([sys.executable, "-c", check])
    assert result.returncode == 0, result.stderr
    assert all(word in result.stdout for word in commands.COMMANDS)


@pytest.mark.parametrize("word", sorted(commands.COMMANDS))
def test_every_command_explains_itself(word, run_command):
    result = run_command([sys.executable, "-m", "internlm.cli", word, "--help"])
    assert result.returncode == 0 and f"usage: egoagent {word}" in result.stdout, result.stderr


def test_unknown_command_names_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err


def test_no_command_prints_help_and_fails(capsys):
    assert cli.main([]) == 2
    assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize("error", [ConfigError("file: key"), FileNotFoundError("nothing there"), ModuleNotFoundError("get x")])
def test_what_the_user_can_mend_is_one_line(command, capsys, error):
    def run(args):
        raise error

    assert command(run)(["probe"]) == 2
    assert capsys.readouterr().err == f"egoagent probe: {error}\n"


@pytest.mark.parametrize("error", [RuntimeError("bug"), ModuleNotFoundError("gone", name="internlm.gone")])
def test_a_defect_keeps_its_traceback(command, error):
    def run(args):
        raise error

    with pytest.raises(type(error)):
        command(run)(["probe"])


def test_interrupt_has_its_own_code(command):
    def run(args):
        raise KeyboardInterrupt

    assert command(run)(["probe"]) == 130


def test_the_commands_code_is_passed_on_and_none_is_success(command):
    assert command(lambda args: 7)(["probe"]) == 7
    assert command(lambda args: None)(["probe"]) == 0


def test_options_may_stand_between_overrides(command):
    seen = {}

    def add_arguments(parser):
        parser.add_argument("config")
        parser.add_argument("overrides", nargs="*")
        parser.add_argument("--run-dir")

    main = command(lambda args: seen.update(vars(args)), add_arguments)
    assert main(["probe", "c.py", "--run-dir", "d", "a=1", "b=2"]) == 0
    assert seen == {"config": "c.py", "run_dir": "d", "overrides": ["a=1", "b=2"]}


def test_a_wrong_config_ends_a_real_command_without_a_traceback(run_command):
    result = run_command([sys.executable, "-m", "internlm.cli", "describe", "configs/dino_pretrain/demo.py", "optm.lr=1"])
    assert result.returncode == 2
    assert result.stderr.splitlines() == ["egoagent describe: command line: unknown key optm.lr; did you mean optim.lr?"]


def test_openmp_threads_do_not_spin_unless_the_user_says_so():
    probe = "import os; from internlm.cli import main; main(['describe', 'nothing.py']); print(os.environ['OMP_WAIT_POLICY'])"
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        environment |= {"OMP_WAIT_POLICY": given} if given else {}
        done = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, text=True, timeout=60)
        assert done.stdout.split()[-1] == expected, done.stderr
