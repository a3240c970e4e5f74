"""One optimizer step: what moves, what must not, and what happens to a step that is not finite."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from train_samples import both, clip_batch, image_batch, tiny_config

from internlm.train.bad_steps import BAD_STEPS_NAME, BadStepsError
from internlm.train.state import build_state
from internlm.train.step import TrainStep

CPU = torch.device("cpu")


def make(tmp_path, **arguments):
    config = tiny_config(**arguments)
    state = build_state(config, CPU)
    return state, TrainStep(config, state, tmp_path, torch.float32)


def snapshot(state):
    parts = state.shares()
    del parts["rng"]
    return {f"{part}.{name}": share.pieces[0].tensor.clone() for part, shares in parts.items() for name, share in shares.items()}


def changed(before, after):
    return {name for name in after if name not in before or not torch.equal(before[name], after[name])}


def broken(clips):
    poses = clips.poses.clone()
    poses[0] = float("nan")
    return replace(clips, poses=poses, visible=torch.ones_like(clips.visible))


@pytest.mark.parametrize("kind", ["full", "selective"])
def test_checkpointing_in_bfloat16_changes_nothing(tmp_path, kind):
    """Two passes through the same blocks: autocast keeps the first one's copies of weights, which recomputing must not miss."""
    norms = []
    for chosen in ("none", kind):
        config = tiny_config(parallel={"activation_checkpointing": chosen})
        step = TrainStep(config, build_state(config, CPU), tmp_path, torch.bfloat16)
        outcome = step(both(image_batch(0), clip_batch(0)))
        norms.append((outcome.losses["loss"].item(), outcome.grad_norm.item()))
    assert norms[0] == norms[1]


def test_a_step_moves_every_trainable_parameter_and_centre(tmp_path):
    state, step = make(tmp_path)
    before = snapshot(state)
    outcome = step(both(image_batch(0), clip_batch(0)))
    moved = changed(before, snapshot(state))
    parameters = {f"predictor.{name}" for name, _ in state.system.agent.predictor.named_parameters()}
    assert parameters <= moved
    assert {"loss.rep_targets.center", "loss.pred_targets.center"} <= moved
    assert outcome.finite and {"loss", "rep", "rep_kl", "pred", "pred_kl", "act", "visibility"} <= outcome.losses.keys()
    counters = state.counters
    assert (counters.step, counters.seen, counters.bad_steps) == (1, {"image": 4, "clip": 4}, 0)


def test_the_total_is_the_weighted_sum_and_kl_is_cross_entropy_minus_entropy(tmp_path):
    _, step = make(tmp_path, loss={"rep_weight": 2, "pred_weight": 5, "act_weight": 3, "visibility_weight": 7})
    losses = step(both(image_batch(0), clip_batch(0))).losses
    expected = 2 * losses["rep"] + 5 * losses["pred"] + 3 * losses["act"] + 7 * losses["visibility"]
    torch.testing.assert_close(losses["loss"], expected)
    for name in ("rep", "pred"):
        torch.testing.assert_close(losses[f"{name}_kl"], losses[name] - losses[f"{name}_teacher_entropy"])


def test_the_observer_follows_after_the_optimizer_step(tmp_path):
    state, step = make(tmp_path)
    old = state.system.agent.observer.head.prototypes.clone()
    step(both(image_batch(0), clip_batch(0)))
    new = state.system.agent.predictor.head.prototypes
    torch.testing.assert_close(state.system.agent.observer.head.prototypes, 0.9 * old + 0.1 * new.detach())
    assert all(parameter.grad is None for parameter in state.system.agent.observer.parameters())


def test_accumulated_pieces_give_the_gradient_of_the_whole_batch(tmp_path):
    # Batch norm and a moving centre do see the pieces; they are taken out of the comparison.
    same = {"model": tiny_config().model.model_dump() | {"stem_norm": "layer"}, "loss": {"center_momentum": 1.0}}
    outcomes, gradients = [], []
    for pieces in (1, 4):
        train = tiny_config().train.model_dump() | {"accumulation": pieces}
        state, step = make(tmp_path, **same, train=train)
        outcomes.append(step(both(image_batch(0), clip_batch(0))))
        gradients.append({name: parameter.grad for name, parameter in state.system.agent.predictor.named_parameters()})
    for name, value in outcomes[0].losses.items():
        torch.testing.assert_close(outcomes[1].losses[name], value, rtol=1e-5, atol=1e-6, msg=name)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_stage_one_leaves_the_action_parts_alone(tmp_path):
    state, step = make(tmp_path, stage="pretrain")
    before = snapshot(state)
    step(both(image_batch(0), None))
    moved = changed(before, snapshot(state))
    assert not {name for name in moved if "pose" in name or "action" in name}
    assert "predictor.state_query" in moved


def test_an_image_step_still_gives_every_parameter_its_optimizer_state(tmp_path):
    state, step = make(tmp_path)
    step(both(image_batch(0), None))
    states = {name.rsplit("/", 1)[0] for name in state.shares()["optimizer"]}
    assert states == {name for name, _ in state.system.agent.predictor.named_parameters()}


def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(tmp_path):
    state, step = make(tmp_path)
    step(both(image_batch(0), clip_batch(0)))
    before = snapshot(state)
    outcome = step(both(image_batch(1), broken(clip_batch(1))))
    assert not outcome.finite and changed(before, snapshot(state)) == set()
    counters = state.counters
    assert (counters.step, counters.seen["image"], counters.bad_steps, counters.bad_streak) == (2, 8, 1, 1)
    (record,) = [json.loads(line) for line in (tmp_path / BAD_STEPS_NAME).read_text().splitlines()]
    assert (record["step"], record["clip_samples"], record["losses"]["act"]) == (2, [4, 5, 6, 7], "nan")
    assert step(both(image_batch(2), clip_batch(2))).finite
    assert (counters.bad_steps, counters.bad_streak) == (1, 0)


def test_a_skipped_step_leaves_no_trace_in_the_next(tmp_path):
    state, step = make(tmp_path)
    other = copy.deepcopy(state.system.agent.state_dict())
    step(both(image_batch(0), broken(clip_batch(0))))
    for name, tensor in state.system.agent.state_dict().items():
        assert torch.equal(tensor, other[name]), name
    assert all(torch.isfinite(t).all() for t in snapshot(state).values())


def test_too_many_in_a_row_stop_the_run_naming_the_samples_file(tmp_path):
    train = tiny_config().train.model_dump() | {"max_bad_steps": 2}
    _, step = make(tmp_path, train=train)
    step(both(image_batch(0), broken(clip_batch(0))))
    with pytest.raises(BadStepsError, match=r"2 steps in a row.*step 2: .*bad_steps\.jsonl"):
        step(both(image_batch(1), broken(clip_batch(1))))
    assert len((tmp_path / BAD_STEPS_NAME).read_text().splitlines()) == 2


def test_outputs_for_the_health_reading_come_from_the_images(tmp_path):
    _, step = make(tmp_path)
    outcome = step(both(image_batch(0), clip_batch(0)), keep_outputs=True)
    shapes = [{name: tuple(tensor.shape) for name, tensor in kept.items()} for kept in outcome.kept]
    assert shapes == [{"teacher": (8, 12), "features": (8, 8)}]
    assert not step(both(image_batch(1), clip_batch(1))).kept


def test_bfloat16_compute_keeps_weights_and_losses_in_float32_and_near(tmp_path):
    (_, exact), (state, half) = make(tmp_path), make(tmp_path)
    half.dtype = torch.bfloat16
    outcome, expected = half(both(image_batch(0), clip_batch(0))), exact(both(image_batch(0), clip_batch(0)))
    assert {value.dtype for value in outcome.losses.values()} == {torch.float32}
    assert {parameter.dtype for parameter in state.system.agent.parameters()} == {torch.float32}
    assert outcome.finite
    assert outcome.losses["loss"].item() != expected.losses["loss"].item()
    torch.testing.assert_close(outcome.losses["loss"], expected.losses["loss"], rtol=0.05, atol=0.0)
