"""Checkpoints: complete or absent, damage found, the last good one survives."""

import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from internlm import cli
from internlm.checkpoint import index
from internlm.checkpoint.manager import CheckpointError, CheckpointManager, find_checkpoint, read_checkpoint
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.config import ModelConfig
from internlm.systems.egoagent.loss import JointLoss
from internlm.systems.egoagent.network import EgoAgent
from internlm.systems.egoagent.weights import init_from
from internlm.systems.resolve import load_system

TINY = {
    "hidden_size": 16, "num_layers": 1, "num_heads": 2, "mlp_multiple_of": 8, "image_size": 16, "local_image_size": 8,
    "patch_size": 8, "head_hidden": 8, "head_bottleneck": 4, "prototypes": 6, "poses_per_step": 1, "num_joints": 2,
}  # fmt: skip


def parts(value=1.0):
    return {
        "predictor": {"weight": torch.full((3, 2), value), "count": torch.tensor(7)},
        "optimizer": {"weight/exp_avg": torch.arange(4.0).view(2, 2).t()},
        "rng": {"cpu": torch.get_rng_state()},
        "loss": {},
    }


def agent_parts(agent, loss):
    return {"predictor": agent.predictor.state_dict(), "observer": agent.observer.state_dict(), "loss": loss.state_dict()}


def test_what_is_saved_comes_back(tmp_path):
    manager = CheckpointManager(tmp_path)
    saved = parts()
    path = manager.save(12, saved, {"samples": 34, "config": {"seed": 1}})
    found = manager.load()
    assert (found.path, found.step, found.meta["samples"], found.meta["config"]) == (path, 12, 34, {"seed": 1})
    assert found.parts.keys() == saved.keys()
    for part, tensors in saved.items():
        assert found.parts[part].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(found.parts[part][name], tensor) and found.parts[part][name].dtype == tensor.dtype


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert CheckpointManager(tmp_path / "none").load() is None
    with pytest.raises(CheckpointError, match="no checkpoint"):
        find_checkpoint(tmp_path)


def test_coreutils_can_verify_it(tmp_path):
    path = CheckpointManager(tmp_path).save(1, parts(), {})
    assert subprocess.run(["sha256sum", "--quiet", "-c", "checksums.sha256"], cwd=path).returncode == 0


def test_keeps_the_last_and_every_kth(tmp_path):
    manager = CheckpointManager(tmp_path, keep_last=2, keep_every=4)
    for step in range(1, 10):
        manager.save(step, parts(), {})
    assert manager.list() == [4, 8, 9]


def test_saving_a_step_again_replaces_it(tmp_path):
    manager = CheckpointManager(tmp_path)
    manager.save(3, parts(1.0), {})
    manager.save(3, parts(2.0), {})
    assert manager.load().parts["predictor"]["weight"][0, 0] == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000003"]


def test_a_save_interrupted_between_its_renames_brings_the_old_one_back(tmp_path):
    manager = CheckpointManager(tmp_path)
    manager.save(3, parts(1.0), {}).rename(tmp_path / ".replaced_step_000000003")
    assert manager.load().step == 3 and manager.list() == [3]
    manager.save(5, parts(2.0), {})
    assert manager.list() == [3, 5]
    read_checkpoint(manager.path(3))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_bit_anywhere_is_found_and_the_one_before_is_read(tmp_path, data):
    manager = CheckpointManager(tmp_path)
    manager.save(1, parts(1.0), {})
    newest = manager.save(2, parts(2.0), {})
    file = data.draw(st.sampled_from(sorted(newest.iterdir())))
    content = bytearray(file.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="step_000000002"):
        read_checkpoint(newest)
    assert manager.load().step == 1


@pytest.mark.parametrize("name", ["predictor.safetensors", "meta.json", "checksums.sha256"])
@pytest.mark.parametrize("keep", [0, 10, None])
def test_a_truncated_or_missing_file_is_found(tmp_path, caplog, name, keep):
    manager = CheckpointManager(tmp_path)
    manager.save(1, parts(), {})
    file = manager.save(2, parts(), {}) / name
    if keep is None:
        file.unlink()
    else:
        os.truncate(file, keep)
    with caplog.at_level(logging.ERROR):
        assert manager.load().step == 1
    assert "DAMAGED CHECKPOINT" in caplog.text and "step_000000002" in caplog.text


FOREIGN = (".DS_Store", "._predictor.safetensors", ".nfs0000000001", "Thumbs.db", "desktop.ini", "notes.txt", "model.safetensors")


@pytest.mark.parametrize("name", [*FOREIGN, "predictor 2.safetensors", "predictor.safetensors~", "@eaDir/predictor.safetensors"])
def test_a_foreign_file_is_no_damage(tmp_path, name, capsys):
    manager = CheckpointManager(tmp_path)
    manager.save(1, parts(1.0), {})
    file = manager.save(2, parts(2.0), {}) / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("not ours")
    (manager.path(2) / "broken link").symlink_to("nowhere")
    found = manager.load()
    assert found.step == 2 and found.parts["predictor"]["weight"][0, 0] == 2.0 and found.parts.keys() == parts().keys()
    assert cli.main(["ckpt", "verify", str(tmp_path)]) == 0
    told = capsys.readouterr().out.partition("not part of it: ")[2].strip()
    assert set(told.split(", ")) == {name.partition("/")[0], "broken link"}
    manager.save(3, parts(), {})
    manager.save(4, parts(), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000000003", "step_000000004"]  # pruned with what was in it


@pytest.mark.parametrize("cut", range(1, 5))
def test_a_list_of_sums_that_is_cut_between_lines_is_damage(tmp_path, cut):
    manager = CheckpointManager(tmp_path)
    manager.save(1, parts(), {})
    file = manager.save(2, parts(), {}) / "checksums.sha256"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-cut]))
    assert manager.load().step == 1


class Unremovable:
    """Files that cannot be removed: a folder without write permission. To root that is nothing, so that root becomes nobody."""

    def __enter__(self):
        self.root = os.geteuid() == 0
        if self.root:
            os.seteuid(65534)

    def __exit__(self, *error):
        if self.root:
            os.seteuid(0)


@pytest.fixture
def folder():
    """A folder that a process without root's rights can use."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)
        for path in Path(name).rglob("*"):
            if path.is_dir():
                os.chmod(path, 0o777)


def held(path):
    """Make the contents of a folder stay, as a file on NFS that somebody reads does; the folder itself can be renamed."""
    (path / "in use").mkdir()
    (path / "in use" / ".nfs0001").write_text("")
    os.chmod(path / "in use", 0o555)


@pytest.mark.parametrize("leftover", [".writing_step_000000002", ".removed_step_000000001", ".replaced_step_000000001"])
def test_a_leftover_that_cannot_be_removed_costs_no_save(folder, caplog, leftover):
    with Unremovable():
        manager = CheckpointManager(folder / "c", keep_last=1)
        manager.save(1, parts(1.0), {})
        (manager.folder / leftover).mkdir()
        held(manager.folder / leftover)
        for step in range(2, 6):
            manager.save(step, parts(float(step)), {})
        assert (manager.list(), manager.load().step) == ([5], 5)
        assert caplog.text.count("could not be removed") == 1 and ("in use" in caplog.text)
        (stays,) = manager.folder.glob(".*")
        os.chmod(stays / "in use", 0o755)
        manager.save(6, parts(), {})
        assert [path.name for path in manager.folder.iterdir()] == ["step_000000006"]


def test_a_checkpoint_that_is_being_read_is_pruned_and_replaced_all_the_same(folder):
    with Unremovable():
        manager = CheckpointManager(folder / "c", keep_last=1)
        for value, step in enumerate((1, 1, 1, 2, 2, 3)):  # replaced twice, pruned, replaced, pruned
            held(manager.save(step, parts(float(value)), {}))
            assert (manager.list(), manager.load().parts["predictor"]["weight"][0, 0]) == ([step], value)
        manager.save(4, parts(7.0), {})
        assert CheckpointManager(folder / "c").list() == [4]


def test_a_checkpoint_without_write_permission_is_kept(folder, caplog):
    with Unremovable():
        manager = CheckpointManager(folder / "c", keep_last=1)
        os.chmod(manager.save(1, parts(1.0), {}), 0o555)
        for step in (2, 3):
            manager.save(step, parts(), {})
        assert manager.list() == [1, 3]
        assert caplog.text.count("step_000000001 could not be removed and stays (write protected)") == 1
        assert read_checkpoint(manager.path(1)).step == 1


def test_nothing_intact_is_an_error_and_not_a_fresh_start(tmp_path):
    manager = CheckpointManager(tmp_path)
    (manager.save(1, parts(), {}) / "meta.json").unlink()
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        manager.load()


def test_a_damaged_newer_one_does_not_push_out_what_is_saved_after_the_fallback(tmp_path):
    manager = CheckpointManager(tmp_path, keep_last=1)
    manager.save(9, parts(), {})
    (manager.path(9) / "meta.json").unlink()
    manager.save(5, parts(), {})
    assert manager.load().step == 5


def test_a_full_disk_leaves_the_last_good_one(tmp_path):
    manager = CheckpointManager(tmp_path)
    manager.save(1, parts(), {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with pytest.raises(CheckpointError, match=r"step 2 could not be written.*last good one is .*step_000000001"):
            manager.save(2, {"predictor": {"weight": torch.zeros(100_000)}}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert manager.load().step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000001"]


def test_kills_at_any_moment_leave_only_whole_checkpoints(tmp_path):
    script = textwrap.dedent(
        """
        import sys, torch
        from internlm.checkpoint.manager import CheckpointManager
        manager = CheckpointManager(sys.argv[1], keep_last=2)
        step = (manager.list() or [0])[-1]
        print("ready", flush=True)
        while True:
            step += 1
            manager.save(step, {"predictor": {f"w{i}": torch.full((50_000,), float(step)) for i in range(8)}}, {"of": step})
        """
    )
    manager, newest = CheckpointManager(tmp_path), 0
    for kill in range(5):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.05 + 0.037 * kill)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for step in manager.list():
            found = read_checkpoint(manager.path(step))
            assert found.meta["of"] == step and all((t == step).all() for t in found.parts["predictor"].values())
        assert (manager.list() or [0])[-1] >= newest
        newest = (manager.list() or [0])[-1]
    assert newest > 0


def test_the_trained_agent_is_read_from_a_run_folder(tmp_path):
    config = Config.model_validate({"model": TINY, "data": {"clip": {"frame_stride": 1}}})
    agent, loss = EgoAgent(config.model), JointLoss(config.loss, config.model.prototypes)
    CheckpointManager(tmp_path / "checkpoints").save(4, agent_parts(agent, loss), {"config": config.model_dump(mode="json")})
    system, step = load_system(tmp_path)
    assert (step, system.config.model) == (4, config.model)
    assert not any(part.module.training for part in system.parts().values())
    for name, tensor in agent.state_dict().items():
        assert torch.equal(system.agent.state_dict()[name], tensor), name


def test_stage_two_starts_from_stage_one_with_fresh_action_parts(tmp_path, monkeypatch):
    torch.manual_seed(0)
    first, loss = EgoAgent(ModelConfig(**TINY)), JointLoss(Config().loss, 6)
    loss.rep_targets.center.fill_(3.0)
    CheckpointManager(tmp_path / "checkpoints").save(4, agent_parts(first, loss), {"config": {"stage": "pretrain"}})
    second, other = EgoAgent(ModelConfig(**TINY, pose_context=True)), JointLoss(Config().loss, 6)
    before = {name: tensor.clone() for name, tensor in second.predictor.state_dict().items()}
    read = []
    fill = index._Reader.fill
    monkeypatch.setattr(index._Reader, "fill", lambda self, name, *place: (read.append(name), fill(self, name, *place)))
    report = init_from(second, other, tmp_path)
    assert sorted(read) == sorted(name.partition(".")[2] for name in report.loaded)  # each once, and no other
    after = second.predictor.state_dict()
    assert torch.equal(after["state_query"], first.predictor.state_query)
    assert torch.equal(second.observer.head.prototypes, first.observer.head.prototypes)
    assert (other.rep_targets.center == 3.0).all()
    for name in ("action_query", "pose_projector.layers.0.weight", "context_projector.layers.0.weight"):
        assert torch.equal(after[name], before[name]) and f"predictor.{name}" in report.missing
    assert "predictor.action_query" in report.unexpected


def test_stage_two_of_another_shape_is_refused(tmp_path):
    first, loss = EgoAgent(ModelConfig(**TINY)), JointLoss(Config().loss, 6)
    CheckpointManager(tmp_path / "checkpoints").save(4, agent_parts(first, loss), {"config": {"stage": "pretrain"}})
    with pytest.raises(CheckpointError, match=r"shape .* 'model' sections"):
        init_from(EgoAgent(ModelConfig(**(TINY | {"prototypes": 8}))), JointLoss(Config().loss, 8), tmp_path)
