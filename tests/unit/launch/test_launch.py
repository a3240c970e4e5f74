"""egoagent launch and scripts_train: what would run is what was asked for; refusals name the way out. No Slurm needed."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from internlm.cli import main
from internlm.commands.launch import fit_mesh
from internlm.config.errors import ConfigError
from internlm.config.load import load_config
from internlm.config.schema import ParallelConfig
from internlm.core.errors import UserError
from internlm.launch import slurm
from internlm.launch.local import run_local, torchrun_words
from internlm.launch.snapshot import write_snapshot
from internlm.train.signals import STOPPING

DEMO = "configs/dino_pretrain/demo.py"
STAGE1 = "scripts_train/source_slurm_train_stage1_contrastive_w_tokenizer.sh"
STAGE2 = "scripts_train/slurm_train_stage2_contrastive_joint.sh"


@pytest.fixture(autouse=True)
def in_the_checkout(root, monkeypatch):
    monkeypatch.chdir(root)


def flags(script: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH --")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_dry_run_is_the_job_that_was_asked_for(tmp_path, capsys):
    words = ["--slurm", "--nodes", "2", "--gpus", "4", "--time", "1-02", "--partition", "gpu", "--memory", "100", "--cpus", "6"]
    run_dir = tmp_path / "run"
    assert main(["launch", DEMO, *words, "--signal-ahead", "120", "--run-dir", str(run_dir), "--dry-run"]) == 0
    script = capsys.readouterr().out
    asked = dict(nodes="2", time="1560", partition="gpu", mem="100GB", signal="USR2@120", requeue="")
    asked |= {"ntasks-per-node": "4", "gpus-per-node": "4", "cpus-per-task": "6"}
    assert asked.items() <= flags(script).items()
    assert f"egoagent train {run_dir}/launch/config.yaml" in script
    assert not run_dir.exists(), "a dry run writes nothing"


@pytest.mark.parametrize(("words", "flag"), [(["--no-requeue"], "no-requeue"), (["train.device=cpu"], None)])
def test_no_requeue_and_no_gpus(words, flag, tmp_path, capsys):
    assert main(["launch", DEMO, "--slurm", *words, "--run-dir", str(tmp_path), "--dry-run"]) == 0
    found = flags(capsys.readouterr().out)
    assert (flag is None or flag in found) and ("gpus-per-node" in found) == ("train.device=cpu" not in words)


def run_teardown(tmp_path, code: int, state: str, restarts: int = 0) -> tuple[int, str]:
    """The lines after srun, run by bash with stand-ins for Slurm's programs; returns the exit code and what was queued again."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    for name, body in {"squeue": f"echo {state}", "scontrol": f'echo "$@" >> {tmp_path}/calls', "sleep": ":"}.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    (tmp_path / slurm.RESTARTS_NAME).write_text("line\n" * restarts)
    (tmp_path / "calls").unlink(missing_ok=True)
    lines = slurm.teardown(slurm.JobOptions(tmp_path, max_restarts=2))
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", "-c", "\n".join([f"(exit {code})", *lines])], env=environment, timeout=60, check=False)
    return done.returncode, (tmp_path / "calls").read_text().strip() if (tmp_path / "calls").exists() else ""


@pytest.mark.parametrize(
    ("code", "state", "restarts", "queued"),
    [
        (0, "RUNNING", 0, False),
        (2, "RUNNING", 0, False),
        (3, "RUNNING", 0, False),
        (75, "RUNNING", 0, True),
        (75, "RUNNING", 9, True),  # being stopped is no crash
        (75, "CANCELLED", 0, False),
        (75, "PENDING", 0, False),  # Slurm has queued it again by itself
        (1, "RUNNING", 1, True),
        (137, "RUNNING", 2, False),
        (1, "CANCELLED", 0, False),
    ],
)
def test_which_ends_queue_the_job_again(tmp_path, code, state, restarts, queued):
    assert run_teardown(tmp_path, code, state, restarts) == (code, "requeue 7" if queued else "")


def test_final_codes_are_those_of_training():
    from internlm.train import signals

    assert slurm.EXIT_STOPPED == signals.EXIT_STOPPED == 75 and signals.EXIT_BAD_STEPS in slurm.FINAL_CODES
    assert signals.EXIT_STUCK not in slurm.FINAL_CODES  # starting again helps


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("10:30", 11), ("02:00:00", 120), ("1-00", 1440), ("1-02:30", 1590), ("2-00:00:01", 2881), ("0:30", 1)],
)
def test_slurms_times(text, minutes):
    assert slurm.minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "soon", "0", "1h", "-5", "1:2:3:4"])
def test_no_time(text):
    with pytest.raises(UserError, match="--time"):
        slurm.minutes_of(text)


def test_mesh_fits_the_processes():
    assert fit_mesh(ParallelConfig(), 1) == ParallelConfig()
    assert fit_mesh(ParallelConfig(), 8).dp_shard == 8
    two = ParallelConfig(dp_shard=4, tp=2)
    assert fit_mesh(two, 8) is two
    with pytest.raises(ConfigError, match="dp_shard 4 x tp 2 = 8 processes, and nodes x gpus are 6"):
        fit_mesh(two, 6)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--nodes", "2"], "--slurm"),
        (["--slurm", "--gpus", "2", "parallel.tp=4"], "tp 4"),
        (["--slurm", "--time", "2", "--signal-ahead", "60"], "--signal-ahead 60"),
        (["--slurm"], "sbatch is missing"),
    ],
)
def test_refusals_name_the_way_out(words, named, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main(["launch", DEMO, "--run-dir", str(tmp_path / "run"), *words]) == 2
    assert named in capsys.readouterr().err


def test_snapshot_reproduces_the_run(tmp_path, root):
    config = load_config(DEMO, ["seed=7"])
    path = write_snapshot(config, tmp_path, ["egoagent", "launch"])
    assert load_config(path) == config.model_copy(update={"run_dir": str(tmp_path)})
    code = json.loads((path.parent / "code.json").read_text())
    assert code["command"] == ["egoagent", "launch"] and code["version"]
    if (root / ".git").exists():
        changed = (path.parent / "code.patch").exists() or "untracked" in code
        assert len(code["commit"]) == 40 and code["clean"] == (not changed)
    assert not list(path.parent.glob("*.part"))


def test_task_hands_on_the_code_and_only_rank_0_says_stopped(monkeypatch):
    keep = {number: signal.getsignal(number) for number in (*STOPPING, signal.SIGUSR2)}
    try:
        monkeypatch.setattr(slurm, "run_command", lambda words: {"train": 75, "bad": 2}[words[0]])
        for rank, words, code in [("0", "train", 75), ("1", "train", None), ("1", "bad", 2)]:
            monkeypatch.setenv("SLURM_PROCID", rank)
            try:
                slurm.TrainTask((words,))()
                ended = None
            except SystemExit as end:
                ended = end.code
            assert ended == code
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN  # a late signal leaves the code alone

        def warned(words):  # Slurm's warning before the run has its own handlers
            os.kill(os.getpid(), signal.SIGUSR2)
            return 0

        monkeypatch.setattr(slurm, "run_command", warned)
        monkeypatch.setenv("SLURM_PROCID", "0")
        with pytest.raises(SystemExit, match="75"):
            slurm.TrainTask(("train",))()
    finally:
        for number, handler in keep.items():
            signal.signal(number, handler)


def test_torchruns_own_parser_takes_the_words():
    from torch.distributed.run import config_from_args, parse_args

    words = torchrun_words(["train", "c.yaml"], processes=2, max_restarts=1, grace=9)
    config, _, command = config_from_args(parse_args(words))
    assert (config.max_nodes, config.nproc_per_node, config.max_restarts, config.shutdown_timeout) == (1, 2, 1, 9)
    assert config.signals_to_handle == "SIGTERM,SIGINT,SIGUSR1" and command[-4:] == ["-m", "internlm.cli", "train", "c.yaml"]


@pytest.mark.filterwarnings("error")
def test_one_process_runs_here_and_keeps_its_code(capsys):
    before = list(sys.argv)
    assert run_local(["train", "nothing.py"], processes=1, max_restarts=0, grace=1) == 2
    assert "nothing.py does not exist" in capsys.readouterr().err and sys.argv == before


@pytest.mark.slow
def test_several_processes_keep_the_code_too(run_command):
    probe = "import sys; from internlm.launch.local import run_local as r; sys.exit(r(['train', 'nothing.py'], processes=2, \
max_restarts=0, grace=1))"
    done = run_command([sys.executable, "-c", probe])
    assert done.returncode == 2 and "nothing.py does not exist" in done.stderr


def script(root, name, *words, **env):
    command = ["bash", root / name, *words]
    return subprocess.run(command, cwd=root, env=os.environ | env, capture_output=True, text=True, check=False)


@pytest.fixture
def echo(tmp_path):
    """A stand-in for ``egoagent`` that prints its words."""
    path = tmp_path / "egoagent"
    path.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_stage_one_script(root, echo):
    done = script(root, STAGE1, "2", DEMO, "4", "--dry-run", EGOAGENT=echo)
    assert done.stdout.split() == ["launch", DEMO, "--slurm", "--nodes", "2", "--gpus", "8", "data.workers=4", "--dry-run"]


@pytest.mark.parametrize(("gpus", "nodes", "per_node"), [("4", "1", "4"), ("8", "1", "8"), ("32", "4", "8")])
def test_stage_two_script(root, echo, gpus, nodes, per_node):
    done = script(root, STAGE2, DEMO, gpus, "7", EGOAGENT=echo)
    assert done.stdout.split() == ["launch", DEMO, "--slurm", "--nodes", nodes, "--gpus", per_node, "seed=7"]


@pytest.mark.parametrize("name", [STAGE1, STAGE2])
@pytest.mark.parametrize("words", [(), ("x", "y", "z"), ("2", DEMO), (DEMO, "0", "1"), ("0", DEMO, "1"), ("--help",)])
def test_wrong_arguments_get_the_usage(root, echo, name, words):
    done = script(root, name, *words, EGOAGENT=echo)
    assert done.returncode == 2 and done.stderr.startswith("usage: ") and not done.stdout


def test_gpus_that_fill_no_nodes(root, echo):
    done = script(root, STAGE2, DEMO, "12", "1", EGOAGENT=echo)
    assert done.returncode == 2 and "12 GPUs are no multiple of GPUS_PER_NODE=8" in done.stderr


def test_scripts_are_clean(root):
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed (apt-get install shellcheck)")
    files = [*(root / "scripts_train").glob("*.sh"), *(root / "tools").glob("*.sh")]
    done = subprocess.run(["shellcheck", *files], capture_output=True, text=True, check=False)
    assert len(files) >= 3 and done.returncode == 0, done.stdout
