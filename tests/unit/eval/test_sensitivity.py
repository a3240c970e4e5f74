"""The action check against a prediction whose dependence on the action is known, and the single-step change itself."""

import dataclasses

import pytest
import torch

from internlm.data.batch import ClipBatch
from internlm.demo import sensitivity
from internlm.systems.egoagent.clips import normalise_clip
from internlm.systems.egoagent.config import LossConfig, ModelConfig
from internlm.systems.egoagent.loss import JointLoss
from internlm.systems.egoagent.network import EgoAgent

MODEL = ModelConfig(
    hidden_size=32, num_layers=2, num_heads=2, mlp_multiple_of=16, image_size=16, local_image_size=16, patch_size=8,
    stem_norm="layer", poses_per_step=3, prototypes=24, head_hidden=32, head_bottleneck=16,
    pose_context=True, pose_target="offset", init_std=0.2,
)  # fmt: skip


def clip_batch(clips=4, steps=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (clips, steps, 3, 17)
    return ClipBatch(
        images=torch.randint(0, 256, (clips, steps + 1, 3, 16, 16), dtype=torch.uint8, generator=generator),
        photometric=torch.zeros(clips, 8),
        poses=torch.randn(*shape, 3, generator=generator),
        visible=torch.ones(shape, dtype=torch.bool),
        past_poses=torch.randn(*shape, 3, generator=generator),
        past_visible=torch.ones(shape, dtype=torch.bool),
        frame_numbers=torch.arange(steps + 1).expand(clips, -1),
        takes=torch.zeros(clips, dtype=torch.int64),
        sample_ids=torch.arange(clips),
    )


def trained(seed=0):
    torch.manual_seed(seed)
    return EgoAgent(MODEL).eval(), JointLoss(LossConfig(), MODEL.prototypes).eval()


def test_true_kl_equals_the_definition():
    agent, loss = trained()
    batch = clip_batch()
    result = sensitivity.prediction_kl(agent, loss, [batch])
    with torch.no_grad():
        images = normalise_clip(batch.images)
        teacher = (agent.observer.head(agent.observer.encode_clip(images[:, 1:])) / loss.config.teacher_temp).softmax(-1)
        actions = (batch.poses, batch.visible, batch.past_poses, batch.past_visible)
        readout = agent.predictor.forward_clip(images[:, :-1], *actions)
        student = (agent.predictor.head(readout.state) / loss.config.student_temp).log_softmax(-1)
    expected = (teacher * (teacher.log() - student)).sum(-1).mean()
    assert result["true"] == pytest.approx(float(expected), rel=1e-4)
    assert result["teacher_entropy"] == pytest.approx(float(-(teacher * teacher.log()).sum(-1).mean()), rel=1e-4)


def test_the_constant_prediction_is_the_best_one():
    agent, loss = trained()
    batches = [clip_batch(seed=1), clip_batch(clips=2, seed=2)]
    result = sensitivity.prediction_kl(agent, loss, batches, actions=("true",))
    with torch.no_grad():
        logits = torch.cat([agent.observer.head(agent.observer.encode_clip(normalise_clip(b.images)[:, 1:])) for b in batches])
    teacher = (logits / loss.config.teacher_temp).softmax(-1).flatten(0, 1).double()

    def kl(guess):
        return float((teacher * (teacher.log() - guess.log())).sum(-1).mean())

    mean = teacher.mean(0)
    assert result["constant"] == pytest.approx(kl(mean), rel=1e-3)
    assert result["constant"] < kl(torch.lerp(mean, torch.full_like(mean, 1 / len(mean)), 0.1))


def test_an_action_that_is_the_same_everywhere_changes_nothing_when_shuffled():
    agent, loss = trained()
    batch = clip_batch()
    same = dataclasses.replace(batch, poses=batch.poses[:1].expand_as(batch.poses).clone())
    result = sensitivity.prediction_kl(agent, loss, [same])
    assert result["shuffled"] == pytest.approx(result["true"], rel=1e-5)
    assert result["zero"] != pytest.approx(result["true"], rel=1e-5)
    different = sensitivity.prediction_kl(agent, loss, [batch])
    assert different["shuffled"] != pytest.approx(different["true"], rel=1e-5)


def test_only_the_step_in_question_is_changed():
    """With the first chunk alike in all clips, shuffling step 0 leaves step 0's prediction, and step 1 keeps a true history."""
    agent, _ = trained()
    batch = clip_batch()
    batch.poses[:, 0] = batch.poses[:1, 0]
    images = normalise_clip(batch.images)
    with torch.no_grad():
        true = list(sensitivity._states(agent, images, batch, "true"))
        shuffled = list(sensitivity._states(agent, images, batch, "shuffled"))
        changed = batch.poses.clone()
        changed[:, 1] = batch.poses[:, 1].roll(2, 0)
        actions = (changed, batch.visible, batch.past_poses, batch.past_visible)
        by_hand = agent.predictor.forward_clip(images[:, :-1], *actions).state[:, 1]
    torch.testing.assert_close(shuffled[0], true[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(shuffled[1], by_hand, atol=1e-5, rtol=0)


def test_a_single_clip_cannot_be_shuffled():
    agent, loss = trained()
    with pytest.raises(ValueError, match="at least two clips"):
        sensitivity.prediction_kl(agent, loss, [clip_batch(clips=1)])
    assert sensitivity.prediction_kl(agent, loss, [clip_batch(clips=1)], actions=("true",))["true"] > 0


def test_a_fitted_centre_takes_the_common_part_out_of_the_targets():
    agent, loss = trained()
    batches = [clip_batch(seed=1), clip_batch(clips=2, seed=2)]
    fitted = sensitivity.prediction_kl(agent, loss, batches, actions=("true",), fit_center=True)
    with torch.no_grad():
        logits = torch.cat([agent.observer.head(agent.observer.encode_clip(normalise_clip(b.images)[:, 1:])) for b in batches])
        teacher = ((logits - logits.mean((0, 1))) / loss.config.teacher_temp).softmax(-1)
    assert fitted["teacher_entropy"] == pytest.approx(float(torch.special.entr(teacher).sum(-1).mean()), rel=1e-4)
    assert bool((loss.pred_targets.center == 0).all())  # the caller's loss is left as it was


def test_batches_of_take_after_take_are_refused():
    """Sinkhorn targets would be balanced over near-duplicates."""
    agent, loss = trained()
    batches = [dataclasses.replace(clip_batch(), takes=torch.full((4,), take)) for take in (0, 1)]
    with pytest.raises(ValueError, match="mixed=True"):
        sensitivity.prediction_kl(agent, loss, batches)
    mixed = [dataclasses.replace(batch, takes=torch.tensor([0, 1, 1, 0])) for batch in batches]
    assert sensitivity.prediction_kl(agent, loss, mixed)["true"] > 0
