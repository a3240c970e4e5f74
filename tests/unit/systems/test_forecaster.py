"""System forecaster: it trains, resumes, logs and loads as every system does, and its samples are pure functions."""

import os
import signal
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from motion_samples import FILES, figure, forecaster_config, motion_store
from train_samples import same_weights

from internlm import cli
from internlm.config.errors import ConfigError
from internlm.config.load import load_config
from internlm.config.resolve import parse_config
from internlm.data.frames import DataError
from internlm.data.loader import training_batches
from internlm.data.order import SampleOrder
from internlm.monitor.metrics import read_metrics
from internlm.systems.forecaster.pose_agent import PoseNetwork
from internlm.systems.forecaster.streams import WINDOWS, streams
from internlm.systems.resolve import build_system, load_system
from internlm.train.loop import CALLER, train
from internlm.train.state import build_state
from internlm.train.step import TrainStep

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return motion_store(tmp_path_factory.mktemp("store"))


def past(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(figure(10, seed)[None] - figure(10, seed)[-1, 11:13].mean(0))


def test_sample_n_is_a_function_of_seed_epoch_and_n(store):
    config = forecaster_config("simlpe", store)
    stream = streams(config)[WINDOWS]
    source, again = stream.open(), stream.open()
    order = SampleOrder(len(source), 3, stream.number)
    assert len(source) == 4 * (70 - 15 + 1) and source.files == 4
    for position in (5, 500):
        _, index = order.locate(position)
        first, second = (one.sample(index, order.rng(position)) for one in (source, again))
        assert all(np.array_equal(first[name], second[name]) for name in first)
        other = source.sample(index, order.rng(position + 1))
        assert not np.array_equal(first["past"], other["past"]) and not np.array_equal(first["noise"], other["noise"])
    kinds = {"past": (10, 17, 3), "future": (5, 17, 3), "visible": (5, 17), "noise": (5, 17, 3), "level": ()}
    assert {name: value.shape for name, value in first.items()} == kinds
    # A window is turned and moved as a whole: the root of the last observed pose at the origin, its hip line along x.
    left, right = first["past"][-1, 11], first["past"][-1, 12]
    np.testing.assert_allclose(left + right, 0, atol=1e-6)
    assert left[0] > 0 and abs(left[1]) < 1e-6


def test_two_processes_share_one_order(store):
    config = forecaster_config("simlpe", store)
    whole = streams(forecaster_config("simlpe", store, None, "train.clip_batch=8"))
    options = dict(seed=1, data=config.data)
    (one,) = [batch[WINDOWS] for batch in training_batches(whole, range(2, 3), **options)]
    halves = [next(training_batches(streams(config), range(2, 3), rank=r, world=2, **options))[WINDOWS] for r in range(2)]
    for field in fields(one):
        joined = torch.stack([getattr(half, field.name) for half in halves], 1).flatten(0, 1)
        assert torch.equal(joined, getattr(one, field.name)), field.name


def test_held_out_takes_are_left_out_only_where_it_is_asked(store):
    configs = [forecaster_config("simlpe", store, None, f"forecaster.takes={takes}") for takes in ("all", "fitted")]
    every, fitted = (streams(config)[WINDOWS].open() for config in configs)
    assert [track.name for track in every.data.tracks] == ["t0", "t1", "t2", "t3"]
    assert [track.name for track in fitted.data.tracks] == ["t0", "t1", "t2"]


@pytest.mark.parametrize("method", FILES)
def test_one_batch_is_learned_and_the_average_follows(method, store, tmp_path):
    rate = 5e-5 if method == "simlpe" else 1e-3
    config = forecaster_config(method, store, tmp_path, f"optim.lr={rate}", "optim.warmup_share=0", "train.steps=1000")
    state = build_state(config, CPU)
    step = TrainStep(config, state, tmp_path, torch.float32)
    batch = next(training_batches(state.system.streams(), range(1), seed=0, data=config.data))
    parts = {name: part.module for name, part in state.system.parts().items()}
    assert all(torch.equal(a, b) for a, b in zip(parts["network"].parameters(), parts["average"].parameters(), strict=True))
    drawn = [p.clone() for p in parts["average"].parameters()]
    losses = [float(step(batch).losses["loss"])]
    # The first momentum is 1/10.
    for old, new, average in zip(drawn, parts["network"].parameters(), parts["average"].parameters(), strict=True):
        torch.testing.assert_close(average, old + 0.9 * (new - old))
    losses += [float(step(batch).losses["loss"]) for _ in range(29)]
    assert min(losses[-5:]) < 0.8 * losses[0]
    assert state.system.schedules()["momentum"](0) == 1 / 10 and state.system.schedules()["momentum"](10**6) == 0.998
    assert state.counters.seen == {WINDOWS: 30 * 4}


@pytest.mark.parametrize("method", FILES)
def test_a_stopped_run_resumes_bit_for_bit(method, store, tmp_path):
    whole = train(forecaster_config(method, store, tmp_path / "whole"))
    config = forecaster_config(method, store, tmp_path / "parts")

    def stop_at(state, outcome):
        if state.counters.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return state.counters.step == 5

    assert train(config, after_step=stop_at).step == 3
    stopped = train(config, after_step=stop_at)
    assert (stopped.step, stopped.stopped_by, stopped.finished) == (5, CALLER, False)
    assert train(config).finished and same_weights_of(whole.run_dir, tmp_path / "parts")
    records = read_metrics(tmp_path / "parts")
    assert [record["loss"] for record in records] == [record["loss"] for record in read_metrics(whole.run_dir)]
    assert {"loss", "grad_norm", "lr", "momentum", "tokens_per_s"} <= records[-1].keys() and "images_per_s" not in records[-1]
    assert load_config(whole.run_dir) == forecaster_config(method, store, whole.run_dir)


def same_weights_of(*runs):
    return same_weights(*runs, parts=("network", "average", "optimizer", "rng"))


@pytest.mark.parametrize("method", FILES)
def test_pieces_of_a_batch_give_its_loss(method, store, tmp_path):
    """Losses are divided by the visible joints of the whole batch, however unevenly its pieces have them."""
    found = []
    for pieces in (1, 2):
        config = forecaster_config(method, store, tmp_path, f"train.accumulation={pieces}")
        state = build_state(config, CPU)
        state.system.network.eval()  # without drop-out, whose draws go by pieces
        batch = next(training_batches(state.system.streams(), range(1), seed=0, data=config.data))[WINDOWS]
        visible = batch.visible.clone()
        visible[:2, :, 3:], visible[3] = False, False
        outcome = TrainStep(config, state, tmp_path, torch.float32)({WINDOWS: replace(batch, visible=visible)})
        found.append((float(outcome.losses["loss"]), float(outcome.grad_norm)))
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize("method", FILES)
def test_a_run_is_loaded_by_its_folder_alone_and_forecasts_the_same(method, store, tmp_path):
    result = train(forecaster_config(method, store, tmp_path / "run"))
    system, step = load_system(tmp_path / "run")
    given = {"body_pose": past()}
    future = system.predict(given)["body_pose"]
    assert step == 8 and future.shape == (1, 5, 17, 3)
    torch.testing.assert_close(future, result.state.system.predict(given)["body_pose"], rtol=0, atol=0)
    assert system.draws == (method == "diffusion_policy")
    assert torch.equal(system.predict(given, samples=3)["body_pose"], future) != system.draws
    with pytest.raises(ConfigError, match="system 'egoagnt' is unknown"):
        parse_config({"system": "egoagnt"})


@pytest.mark.parametrize("method", FILES)
def test_cost_is_counted_without_memory(method, store):
    system = build_system(forecaster_config(method, store))
    cost = system.cost()
    assert (cost.frames, cost.tokens) == ({WINDOWS: 0}, {WINDOWS: 15})
    weights = sum(p.numel() for p in system.network.parameters() if p.ndim > 1)
    assert cost.flops()[WINDOWS] > weights


def test_the_other_systems_checkpoint_is_refused(store, tmp_path):
    train(forecaster_config("simlpe", store, tmp_path / "run"))
    other = forecaster_config("egoagent", store, tmp_path / "other", f"train.init_from={tmp_path / 'run'}")
    with pytest.raises(Exception, match="belongs to another model"):
        train(other)


def test_what_needs_no_training_is_solved(store, capsys):
    given = past()
    still = build_system(forecaster_config("zero_velocity", store))
    assert still.solve() == {}
    assert torch.equal(still.predict({"body_pose": given})["body_pose"], given[:, -1:].expand(-1, 5, -1, -1))
    ridge = build_system(forecaster_config("ridge", store, None, "forecaster.frame=world"))
    report = ridge.solve()
    assert report["penalty"] > 0 and ridge.predict({"body_pose": given})["body_pose"].shape == (1, 5, 17, 3)
    with pytest.raises(ConfigError, match="needs no training"):
        ridge.parts()


@pytest.mark.parametrize(
    ("method", "override", "message"),
    [
        ("egoagent", "forecaster.past=12", "forecaster.past 12 is not whole chunks of model.poses_per_step 5"),
        ("egoagent", "parallel.tp=3", "not divisible by parallel.tp 3"),
        ("simlpe", "train.clip_batch=0", "train.clip_batch 0"),
        ("simlpe", "train.image_batch=4", "train.image_batch is 4"),
        ("simlpe", "train.accumulation=3", "not a multiple of train.accumulation 3"),
        ("simlpe", "forecaster.metod=x", "unknown key forecaster.metod; did you mean forecaster.method"),
        ("simlpe", "forecaster.method=oracle", "forecaster.method = 'oracle'"),
        ("simlpe", "model.use_images=true", "model.use_images = True"),
        ("egoagent", "model.hidden_size=18", "not divisible by num_heads"),
    ],
)
def test_a_config_that_cannot_work_says_which_key(store, method, override, message):
    with pytest.raises(ConfigError, match=message):
        forecaster_config(method, store, None, override)


def test_data_that_does_not_fit_says_so(store):
    for override, message in (("model.num_joints=16", "17 joints, model.num_joints is 16"), ("forecaster.past=90", "95 frames")):
        with pytest.raises(DataError, match=message):
            streams(forecaster_config("simlpe", store, None, override))[WINDOWS].open()


def test_the_command_trains_it_and_refuses_what_is_solved(store, tmp_path, capsys):
    def words(method, run):
        config = forecaster_config(method, store, tmp_path / run)
        (tmp_path / run).mkdir()
        from internlm.config.load import save_config

        save_config(config, tmp_path / f"{run}.yaml")
        return ["train", str(tmp_path / f"{run}.yaml")]

    assert cli.main(words("simlpe", "a")) == 0 and "8 steps" in capsys.readouterr().err
    assert cli.main(["ckpt", "inspect", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr().out
    assert "forecaster.past = 10  (default 30)" in shown and "not a key" not in shown
    assert cli.main(words("ridge", "b")) == 2 and "needs no training" in capsys.readouterr().err


def test_the_pose_network_is_egoagents_predictor_without_images():
    """Same names, same numbers: its weights are the predictor's, without what reads and judges images."""
    from internlm.systems.egoagent.network import EgoNetwork
    from internlm.systems.forecaster.config import PoseModelConfig

    config = PoseModelConfig(hidden_size=32, num_layers=2, num_heads=2, poses_per_step=5, num_joints=6)
    torch.manual_seed(0)
    ours = PoseNetwork(config).eval()
    torch.nn.init.normal_(ours.pose_head.layers[-1].weight, std=0.1)
    theirs = EgoNetwork(egoagent_model(config)).eval()
    found = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not found.unexpected_keys and {name.partition(".")[0] for name in found.missing_keys} == {"stem", "head"}
    chunks = torch.randn(2, 4, 5, 6, 3)
    seen = torch.ones(2, 3, 5, 6, dtype=torch.bool)
    expected = theirs.forward_clip(None, chunks[:, 1:], seen, chunks[:, :-1], seen).action
    torch.testing.assert_close(ours(chunks[:, 1:], chunks[:, :-1]), expected, rtol=0, atol=0)


def egoagent_model(config):
    """The model section of an EgoAgent config with the values of a pose-only one."""
    model = type(parse_config({}).model)
    return model(**config.model_dump(include=set(model.model_fields)), prototypes=8)
