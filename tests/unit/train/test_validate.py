"""Held-out losses while training: what they are, and that training with them is bit for bit training without."""

import cv2
import numpy as np
import pytest
import torch
from data_samples import write_take
from motion_samples import figure, forecaster_config
from train_samples import same_weights
from validate_samples import config, figures, without

from internlm.data.frames import DataError
from internlm.data.loader import training_batches
from internlm.data.store import PoseTrack, StoreWriter, TakeInfo
from internlm.monitor.metrics import read_metrics
from internlm.systems.resolve import build_system, load_system
from internlm.train.loop import train
from internlm.train.state import TrainState, build_state
from internlm.train.validate import held_out_losses

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two takes to train on and one that is held out, with images and poses."""
    path = tmp_path_factory.mktemp("validate") / "store"
    for name, split in (("a", "train"), ("b", "train"), ("c", "val")):
        write_take(path, name, split=split, size=24)
    return path


RUNS = {
    "centring": {},
    "sinkhorn": {"loss": {"targets": "sinkhorn", "koleo_weight": 0.1}},
    "by turns": {"train": {"mixing": "alternate"}},
    "stage 1": {"stage": "pretrain", "train": {"clip_batch": 0}},
}


@pytest.mark.parametrize("name", RUNS)
def test_training_is_bit_for_bit_what_it_is_without(name, store, tmp_path):
    train(config(store, tmp_path / "off", **RUNS[name]))
    train(config(store, tmp_path / "on", 3, **RUNS[name]))
    plain, validated = figures(tmp_path / "off"), figures(tmp_path / "on")
    assert without(validated) == plain == without(plain)
    assert same_weights(tmp_path / "off", tmp_path / "on")
    assert [record["step"] for record in validated if "val/loss" in record] == [3, 6]
    names = {"loss", "rep", "rep_kl"} | (set() if name == "stage 1" else {"pred", "act"})
    assert {f"val/{name}" for name in names} <= validated[2].keys()


def test_a_stopped_run_validates_and_trains_on_bit_for_bit(store, tmp_path):
    train(config(store, tmp_path / "whole", 2))
    stopped = train(config(store, tmp_path / "stopped", 2), after_step=lambda state, outcome: state.counters.step == 5)
    assert not stopped.finished
    train(config(store, tmp_path / "stopped", 2))
    assert figures(tmp_path / "stopped") == figures(tmp_path / "whole")
    assert same_weights(tmp_path / "stopped", tmp_path / "whole")


def test_they_are_the_losses_of_the_held_out_split_in_evaluation_mode(store, tmp_path):
    run = config(store, tmp_path, 8)
    train(run)
    system, _ = load_system(tmp_path)
    for part in system.parts().values():
        part.module.eval()
    held_out = run.model_copy(update={"data": run.data.model_copy(update={"split": "val"})})
    values = {name: schedule(7) for name, schedule in system.schedules().items()}
    losses = []
    with torch.no_grad():
        for batches in training_batches(build_system(held_out).streams(), range(2), seed=run.seed, data=run.data):
            pieces = [piece() for piece in system.terms(batches, values, dtype=torch.float32)]
            losses.append({"loss": sum(p.total for p in pieces) / 2, "act": sum(p.logged.get("act", 0) for p in pieces) / 2})
    record = figures(tmp_path)[-1]
    for name in ("loss", "act"):
        assert record[f"val/{name}"] == pytest.approx(float(sum(loss[name] for loss in losses)) / 2, rel=1e-6)
        assert record[f"val/{name}"] != pytest.approx(record[name], rel=1e-3)


def test_nothing_that_draws_or_moves_is_left_changed(store, tmp_path):
    """Even where the terms draw: the state's tensors and generators are those of before, and the draws are the same each time."""
    run = config(store, tmp_path)
    state = build_state(run, CPU)
    terms, drawn = state.system.terms, []
    state.system.terms = lambda *given, **options: drawn.append(torch.rand(3)) or terms(*given, **options)
    batches = [next(training_batches(state.system.streams(), range(1), seed=1, data=run.data))]
    values = {name: schedule(0) for name, schedule in state.system.schedules().items()}
    before = tensors(state)
    first, second = (held_out_losses(state, batches, values, torch.float32) for _ in range(2))
    assert before.keys() == tensors(state).keys() and all(before[name].equal(value) for name, value in tensors(state).items())
    assert torch.equal(*drawn) and first == second
    assert all(module.training for module in state.modules().values())


def tensors(state: TrainState) -> dict[str, torch.Tensor]:
    shares = state.shares().items()
    return {f"{part}/{name}": share.pieces[0].tensor.clone() for part, held in shares for name, share in held.items()}


@pytest.mark.parametrize("method", ["simlpe", "diffusion_policy", "egoagent"])
def test_any_system_validates(method, tmp_path):
    for number, split in enumerate(("train", "train", "val")):
        joints, seen = figure(70, number).astype(np.float32), np.ones((70, 17), bool)
        track = PoseTrack(np.arange(70), joints, seen, np.zeros(0, int), np.zeros((0, 4, 4)))
        take = TakeInfo(f"t{number}", f"t{number}", split, 30.0, None, "world", {"action": "walk"})
        StoreWriter(tmp_path / "store").add_take(take, (), track)
    for run, every in (("off", 0), ("on", 4)):
        train(forecaster_config(method, tmp_path / "store", tmp_path / run, f"train.validate_every={every}"))
    assert without(figures(tmp_path / "on")) == figures(tmp_path / "off")
    assert same_weights(tmp_path / "on", tmp_path / "off", ("network", "average", "optimizer", "rng"))
    losses = [record["val/loss"] for record in figures(tmp_path / "on") if "val/loss" in record]
    assert len(losses) == 2 and losses[0] != losses[1]


def test_where_nothing_is_held_out_the_run_does_not_start(store, tmp_path):
    with pytest.raises(
        DataError, match=r"no data to validate on: .*store: no take of split 'test'; the store has train: 2, val: 1"
    ):
        train(config(store, tmp_path / "run", 2, data={"validate_split": "test"}))
    with pytest.raises(ValueError, match="data.validate_split 'train' is data.split"):
        config(store, tmp_path, 2, data={"validate_split": "train"})
    (tmp_path / "images").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), np.full((24, 24, 3), number, np.uint8))
    folder = config(
        tmp_path,
        tmp_path / "run",
        2,
        stage="pretrain",
        data={"images": [str(tmp_path / "images")], "workers": 0},
        train={"clip_batch": 0},
    )
    with pytest.raises(DataError, match="has what is trained on"):
        train(folder)
    assert read_metrics(tmp_path / "run") == []
