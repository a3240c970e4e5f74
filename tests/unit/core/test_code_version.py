"""Which code trained: in the run folder, in every checkpoint, in what ``ckpt inspect`` says."""

import errno
import json
import logging
import shutil
import subprocess

import pytest
from train_samples import batches, tiny_config

import internlm
from internlm import cli
from internlm.checkpoint.manager import CheckpointManager
from internlm.core.code_version import code_version, described
from internlm.train import saving
from internlm.train.loop import train


def git(folder, *words):
    own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(folder), *own, *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository that this package seems to be in, as committed."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = tmp_path / "checkout"
    (folder / "internlm").mkdir(parents=True)
    (folder / "internlm" / "__init__.py").write_text("a = 1\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    monkeypatch.setattr(internlm, "__file__", str(folder / "internlm" / "__init__.py"))
    return folder


def run_code(run_dir):
    return json.loads((run_dir / "code.json").read_text())


def saved_code(run_dir):
    return CheckpointManager(run_dir / "checkpoints").load().meta["code"]


def test_a_record_tells_what_differs_from_the_commit(checkout):
    record, patch = code_version()
    assert record["commit"] == git(checkout, "rev-parse", "HEAD") and record["clean"] and not patch
    (checkout / "notes.txt").write_text("beside the package")
    assert code_version()[0]["clean"]
    (checkout / "internlm" / "new module.py").write_text("b = 2\n")
    record, patch = code_version()
    assert not record["clean"] and record["untracked"] == ["internlm/new module.py"] and not patch
    (checkout / "internlm" / "__init__.py").write_bytes(b"a = '\xff'\n")
    record, patch = code_version()
    assert not record["clean"] and "-a = 1" in patch
    assert described(record) == f"version {internlm.__version__}, commit {record['commit']}, with changes"


def test_the_repository_of_a_caller_is_not_taken_for_the_packages(checkout, tmp_path, monkeypatch):
    git(tmp_path, "init", "-q", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    record, _ = code_version()
    monkeypatch.delenv("GIT_DIR")
    assert record["commit"] == git(checkout, "rev-parse", "HEAD")


def test_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    record, patch = code_version()
    assert "commit" not in record and patch == "" and described(record).endswith("no repository")
    assert described(None) == "not recorded"


def test_a_run_writes_down_the_code_that_trains(checkout, tmp_path, capsys, caplog):
    run_dir, config = tmp_path / "run", {"steps": 2, "checkpoint_every": 1, "image_batch": 4, "clip_batch": 4}
    train(tiny_config(run_dir, train=config), batches=batches)
    first = git(checkout, "rev-parse", "HEAD")
    about = {"version": internlm.__version__, "commit": first, "clean": True}
    assert run_code(run_dir).items() >= about.items() and saved_code(run_dir) == about
    assert cli.main(["ckpt", "inspect", str(run_dir)]) == 0
    assert f"code      version {internlm.__version__}, commit {first}\n" in capsys.readouterr().out

    (checkout / "internlm" / "__init__.py").write_text("a = 2\n")
    train(tiny_config(run_dir, train=config), batches=batches)
    assert run_code(run_dir)["clean"], "a complete run was trained by the code that trained it"
    with caplog.at_level(logging.WARNING, "internlm"):
        train(tiny_config(run_dir, train={**config, "steps": 3}), batches=batches)
    assert f"code changed since the checkpoint: it was {described(about)}, is {described(about)}, with changes" in caplog.text
    assert not run_code(run_dir)["clean"] and not saved_code(run_dir)["clean"]
    assert "+a = 2" in (run_dir / "code.patch").read_text()

    git(checkout, "commit", "-qam", "two")
    train(tiny_config(run_dir, train=config), batches=batches, resume=False)
    assert run_code(run_dir)["commit"] == git(checkout, "rev-parse", "HEAD") != first
    assert not (run_dir / "code.patch").exists()
    assert not run_code(run_dir / "previous-1")["clean"] and (run_dir / "previous-1" / "code.patch").exists()


def test_a_run_of_an_installed_package_writes_down_its_version(tmp_path, monkeypatch):
    monkeypatch.setattr(internlm, "__file__", str(tmp_path / "site-packages" / "internlm" / "__init__.py"))
    train(tiny_config(tmp_path / "run", train={"steps": 1}), batches=batches)
    assert saved_code(tmp_path / "run") == {"version": internlm.__version__}
    assert run_code(tmp_path / "run")["version"] == internlm.__version__


def test_a_disk_that_cannot_take_the_code_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    def full(*words):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "write_code", full)
    with caplog.at_level(logging.WARNING, "internlm"):
        assert train(tiny_config(tmp_path / "run", train={"steps": 1}), batches=batches).finished
    assert "is not written down in" in caplog.text and "No space left" in caplog.text
