"""A whole run at toy size: log, save, stop, resume, and what a person is told."""

import errno
import logging
import os
import signal
from dataclasses import replace

import pytest
import torch
from train_samples import batches, both, clip_batch, image_batch, same_weights, tiny_config, weights

from internlm import cli
from internlm.checkpoint.manager import CheckpointError, CheckpointManager
from internlm.config.load import load_config, save_config
from internlm.core.mesh import MeshError
from internlm.monitor.metrics import read_metrics
from internlm.train import loop
from internlm.train.loop import train
from internlm.train.signals import EXIT_BAD_STEPS


def stopping(at, number=signal.SIGTERM):
    """Batches that send this process a signal while the one of step ``at`` is fetched."""

    def source(start):
        for step, pair in enumerate(batches(start), start):
            if step == at:
                os.kill(os.getpid(), number)
            yield pair

    return source


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("whole")
    result = train(tiny_config(run_dir), batches=batches)
    return result


def test_a_run_leaves_config_metrics_and_checkpoints(whole_run):
    assert (whole_run.finished, whole_run.step, whole_run.stopped_by) == (True, 8, None)
    assert load_config(whole_run.run_dir) == tiny_config(whole_run.run_dir)
    records = read_metrics(whole_run.run_dir)
    assert [record["step"] for record in records] == list(range(1, 9))
    assert {"loss", "rep_kl", "pred_kl", "act", "grad_norm", "lr", "momentum", "images_per_s", "data_share"} <= records[0].keys()
    assert "health/teacher_entropy" in records[1] and "health/teacher_entropy" not in records[0]
    assert CheckpointManager(whole_run.run_dir / "checkpoints").list() == [6, 8]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_finishes_the_step_saves_and_the_run_continues_bitwise(tmp_path, whole_run, number):
    previous = signal.getsignal(number)
    stopped = train(tiny_config(tmp_path), batches=stopping(at=4, number=number))
    assert (stopped.finished, stopped.step, stopped.stopped_by) == (False, 5, number.name)
    assert signal.getsignal(number) is previous
    resumed = train(tiny_config(tmp_path), batches=batches)
    assert resumed.finished and resumed.seconds > 0
    assert same_weights(tmp_path, whole_run.run_dir)
    names = ("step", "loss", "rep", "pred", "act", "grad_norm")
    expected = [{name: record[name] for name in names} for record in read_metrics(whole_run.run_dir)]
    assert [{name: record[name] for name in names} for record in read_metrics(tmp_path)] == expected


def test_a_damaged_newest_checkpoint_costs_steps_but_not_the_result(tmp_path, whole_run, caplog):
    train(tiny_config(tmp_path), batches=stopping(at=6))
    manager = CheckpointManager(tmp_path / "checkpoints")
    assert manager.list() == [6, 7]
    os.truncate(manager.path(7) / "predictor.safetensors", 100)
    with caplog.at_level(logging.ERROR):
        train(tiny_config(tmp_path), batches=batches)
    assert "DAMAGED CHECKPOINT" in caplog.text
    assert same_weights(tmp_path, whole_run.run_dir)


def test_weights_alone_cannot_be_continued(tmp_path, whole_run):
    found = CheckpointManager(whole_run.run_dir / "checkpoints").load()
    parts = {part: found.parts[part] for part in ("predictor", "observer", "loss")}
    CheckpointManager(tmp_path / "checkpoints").save(4, parts, found.meta)
    with pytest.raises(CheckpointError, match=r"lacks optimizer, rng and cannot be continued; .*train\.init_from="):
        train(tiny_config(tmp_path), batches=batches)


def test_a_complete_run_is_left_as_it_is(tmp_path, whole_run):
    def none(start):
        raise AssertionError("no data is needed")

    again = train(tiny_config(whole_run.run_dir), batches=none)
    assert again.finished and again.step == 8


def test_no_resume_starts_anew_and_keeps_the_earlier_run(tmp_path):
    short = tiny_config(tmp_path, train=tiny_config().train.model_dump() | {"steps": 2})
    train(short, batches=batches)
    train(short, resume=False, batches=batches)
    assert (tmp_path / "previous-1" / "checkpoints" / "step_000000002").is_dir()
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]


def test_saving_in_the_background_changes_nothing(tmp_path, whole_run):
    config = tiny_config(tmp_path, train={"async_save": True, "checkpoint_every": 1, "keep_last": 3})
    stopped = train(config, batches=stopping(at=4))
    assert (stopped.step, CheckpointManager(tmp_path / "checkpoints").list()) == (5, [3, 4, 5])
    assert train(config, batches=batches).finished
    assert same_weights(tmp_path, whole_run.run_dir)
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_periodic_save_that_fails_does_not_end_the_run(tmp_path, monkeypatch, capsys, asynchronous):
    real = CheckpointManager.save

    def full(self, step, parts, meta):
        if step == 3:
            raise CheckpointError("no space left")
        return real(self, step, parts, meta)

    monkeypatch.setattr(CheckpointManager, "save", full)
    assert train(tiny_config(tmp_path, train={"async_save": asynchronous}), batches=batches).finished
    assert "SAVE FAILED, training goes on: no space left" in capsys.readouterr().err


def test_a_final_save_that_fails_is_an_error(tmp_path, monkeypatch):
    def full(*args):
        raise CheckpointError(os.strerror(errno.ENOSPC))

    monkeypatch.setattr(CheckpointManager, "save", full)
    with pytest.raises(CheckpointError):
        train(tiny_config(tmp_path), batches=batches)


def test_bad_steps_are_counted_and_said(tmp_path, capsys):
    def source(start):
        for step, found in enumerate(batches(start), start):
            images, clips = found.values()
            bad = replace(clips, poses=clips.poses * float("nan"), visible=torch.ones_like(clips.visible))
            yield both(images, bad if step == 3 else clips)

    result = train(tiny_config(tmp_path), batches=source)
    assert (result.finished, result.bad_steps) == (True, 1)
    assert read_metrics(tmp_path)[3]["act"] is None
    assert "step 4: loss or gradient not finite, skipped" in capsys.readouterr().err


def test_alternating_batches_train_and_resume_bitwise(tmp_path):
    def alternate(start):
        step = start
        while True:
            yield both(image_batch(step)) if step % 2 == 0 else both(None, clip_batch(step))
            step += 1

    def cut(start):
        for step, pair in enumerate(alternate(start), start):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield pair

    train(tiny_config(tmp_path / "whole"), batches=alternate)
    train(tiny_config(tmp_path / "cut"), batches=cut)
    train(tiny_config(tmp_path / "cut"), batches=alternate)
    assert same_weights(tmp_path / "whole", tmp_path / "cut")
    assert "rep" in read_metrics(tmp_path / "cut")[0] and "rep" not in read_metrics(tmp_path / "cut")[1]


def test_a_collapsed_run_gets_a_named_verdict(tmp_path, capsys):
    # Without centring's temperature the targets of a fresh head stay uniform.
    config = tiny_config(
        tmp_path,
        loss={"teacher_temp": 100.0, "warmup_teacher_temp": 100.0},
        monitor={"tensorboard": False, "health_every": 1, "collapse_patience": 3},
    )
    assert train(config, batches=batches).verdict == "uniform"
    assert "COLLAPSE (uniform)" in capsys.readouterr().err
    assert read_metrics(tmp_path)[-1]["health/verdict"] == "uniform"


def test_stage_two_starts_from_stage_one(tmp_path, caplog):
    first = tiny_config(tmp_path / "first", stage="pretrain")
    train(first, batches=lambda start: (both(found["image"]) for found in batches(start)))
    options = tiny_config().train.model_dump() | {"init_from": str(tmp_path / "first"), "steps": 1}
    with caplog.at_level(logging.INFO):
        train(tiny_config(tmp_path / "second", train=options), batches=batches)
    assert "predictor.action_query" in caplog.text and "initialised from" in caplog.text
    trained, start = weights(tmp_path / "first"), weights(tmp_path / "second")
    difference = (trained["observer.head.prototypes"] - start["observer.head.prototypes"]).abs().max()
    assert difference < 1e-3


def test_a_changed_config_is_named_on_resume(tmp_path, caplog):
    train(tiny_config(tmp_path), batches=stopping(at=2))
    with caplog.at_level(logging.WARNING):
        train(tiny_config(tmp_path, optim={"lr": 2e-3, "momentum": 0.9}), batches=batches)
    assert "config changed since the checkpoint: optim.lr was 0.001, is 0.002" in caplog.text


def test_a_mesh_is_refused_before_anything_is_built(tmp_path):
    with pytest.raises(MeshError, match=r"= 2 processes and 1 was started; start it with torchrun --nproc_per_node 2"):
        train(tiny_config(tmp_path / "run", parallel={"dp_shard": 2}), batches=batches)
    assert not (tmp_path / "run").exists()


def test_the_command_leaves_with_3_after_too_many_bad_steps(tmp_path, monkeypatch, capsys):
    def source(streams, steps, **options):
        for images, clips in map(dict.values, batches(steps.start)):
            yield both(images, replace(clips, poses=clips.poses * float("nan"), visible=torch.ones_like(clips.visible)))

    monkeypatch.setattr(loop, "training_batches", source)
    train_options = tiny_config().train.model_dump() | {"max_bad_steps": 2}
    save_config(tiny_config(tmp_path / "run", train=train_options), tmp_path / "config.yaml")
    assert cli.main(["train", str(tmp_path / "config.yaml")]) == EXIT_BAD_STEPS
    assert "2 steps in a row" in capsys.readouterr().err
