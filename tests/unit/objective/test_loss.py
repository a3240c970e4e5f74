"""Losses against naive references, which live here as the oracle."""

import math

import pytest
import torch
from torch import nn

from internlm.objective.motion import pose_l1, visibility_bce
from internlm.objective.next_state import next_state_kl
from internlm.objective.self_distillation import Targets, entropy, head_cross_entropy, koleo, multicrop_cross_entropy, sinkhorn
from internlm.systems.egoagent.config import LossConfig, ModelConfig
from internlm.systems.egoagent.loss import JointLoss
from internlm.systems.egoagent.network import EgoAgent

K, WIDTH, BATCH = 32, 12, 5


def naive_dino(head: nn.Module, views: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """The pair-wise DINO loss as its paper's pseudo-code has it: every teacher view against every other student view."""
    total, terms = 0.0, 0
    for g in range(len(teacher)):
        for v in range(len(views)):
            if v == g:
                continue
            log_student = torch.log_softmax(head(views[v]) / temperature, dim=-1)
            total = total - (teacher[g] * log_student).sum(-1).mean()
            terms += 1
    return total / terms


@pytest.mark.parametrize(("globals_", "locals_"), [(2, 6), (2, 0), (1, 4), (3, 2)])
@pytest.mark.parametrize("chunk", [3, 1000])
def test_multicrop_equals_the_pairwise_loss(globals_, locals_, chunk):
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, K)
    views = torch.randn(globals_ + locals_, BATCH, WIDTH, requires_grad=True)
    teacher = torch.softmax(torch.randn(globals_, BATCH, K) * 3, dim=-1)
    gradients = []
    for loss in (
        naive_dino(head, views, teacher, 0.1),
        multicrop_cross_entropy(head, views, teacher, temperature=0.1, chunk=chunk),
    ):
        grads = torch.autograd.grad(loss, [views, *head.parameters()])
        gradients.append((loss.detach(), *grads))
    for mine, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(reference, mine, atol=1e-5, rtol=1e-5)


def test_a_single_view_has_nothing_to_compare():
    with pytest.raises(ValueError, match="nothing to compare"):
        multicrop_cross_entropy(nn.Identity(), torch.zeros(1, 2, K), torch.ones(1, 2, K) / K, temperature=0.1, chunk=8)


def test_chunked_head_holds_one_chunk_of_logits():
    sizes = []

    def head(hidden):
        sizes.append(len(hidden))
        return hidden @ torch.ones(WIDTH, K)

    hidden, targets = torch.randn(10, WIDTH, requires_grad=True), torch.ones(10, K) / K
    head_cross_entropy(head, hidden, targets, torch.arange(10), temperature=1.0, chunk=4).sum().backward()
    assert max(sizes) == 4 and sum(sizes) == 20, "three chunks forward, the same three again in the backward pass"


def test_sinkhorn_balances_and_cannot_overflow():
    torch.manual_seed(0)
    p = sinkhorn(torch.randn(64, K) * 3, 1.0, 50)
    torch.testing.assert_close(p.sum(1), torch.ones(64))
    torch.testing.assert_close(p.sum(0), torch.full((K,), 64 / K), rtol=1e-3, atol=1e-3)
    assert torch.isfinite(sinkhorn(torch.randn(8, K) * 1e3, 0.04, 3)).all()


def test_centre_follows_the_batch_mean_while_training_only():
    targets = Targets(K, "centering", 0.9, 3)
    logits = torch.randn(2, 7, K)
    first = targets(logits, 0.04)
    torch.testing.assert_close(first, torch.softmax(logits / 0.04, -1), msg="the centre is used before it is updated")
    torch.testing.assert_close(targets.center, 0.1 * logits.mean((0, 1)))
    before = targets.center.clone()
    targets.eval()(logits, 0.04)
    assert torch.equal(targets.center, before)


def test_entropy_of_uniform_and_one_hot():
    assert entropy(torch.full((K,), 1 / K)).item() == pytest.approx(math.log(K), abs=1e-6)
    assert entropy(torch.eye(K)[0]).item() == 0.0


def test_pose_l1_by_hand():
    target = torch.zeros(1, 2, 3)
    predicted = torch.tensor([[[0.1, 0.2, 0.3], [9.0, 9.0, 9.0]]])
    assert pose_l1(predicted, target, torch.tensor([[True, False]])).item() == pytest.approx(0.2)
    none = pose_l1(predicted.requires_grad_(), target, torch.zeros(1, 2, dtype=torch.bool))
    none.backward()
    assert none.item() == 0.0 and torch.isfinite(predicted.grad).all()


def test_visibility_bce_by_hand():
    assert visibility_bce(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)).item() == pytest.approx(math.log(2))


def test_prediction_kl_is_zero_for_a_perfect_prediction():
    state = torch.randn(2, 3, K)
    targets = torch.softmax(state / 0.1, -1)
    kl = next_state_kl(nn.Identity(), state, targets, temperature=0.1)
    torch.testing.assert_close(kl, torch.zeros(2, 3), atol=1e-5, rtol=0)


def test_one_prediction_temperature_leaves_no_loss_to_a_perfect_prediction():
    logits, left = torch.rand(1, 6, K) * 2 - 1, {}
    for own in (None, 0.1):
        loss = JointLoss(LossConfig(targets="sinkhorn", pred_temp=own), K)
        target_temp, temperature = loss.pred_temperatures(0.04)
        targets = loss.pred_targets(logits, target_temp)
        left[own] = next_state_kl(nn.Identity(), logits, targets, temperature=temperature)
        assert loss.rep_targets.kind == "sinkhorn"
    torch.testing.assert_close(left[0.1], torch.zeros(1, 6), atol=1e-5, rtol=0)
    assert (left[None] > 0.01).all()


def test_koleo_ignores_its_own_group_and_stays_bounded():
    features = torch.eye(4)[[0, 0, 1, 2]].requires_grad_()
    value = koleo(features, torch.tensor([0, 0, 1, 2]))
    assert value.item() == pytest.approx(-math.log(math.sqrt(2)), abs=1e-5)
    koleo(torch.ones(3, 2, requires_grad=True), torch.arange(3)).backward()
    assert koleo(torch.ones(3, 2), torch.zeros(3)).item() == 0.0


@pytest.fixture
def agent():
    torch.manual_seed(0)
    return EgoAgent(
        ModelConfig(
            hidden_size=32, num_layers=1, num_heads=2, mlp_multiple_of=16, image_size=16, local_image_size=8, patch_size=8,
            prototypes=K, head_hidden=16, head_bottleneck=8,
        )
    )  # fmt: skip


def test_joint_loss_adds_up_and_reaches_every_parameter(agent):
    config = LossConfig()
    loss = JointLoss(config, K)
    image = loss.image_loss(agent.predictor, agent.observer, [torch.randn(2, 3, 3, 16, 16), torch.randn(4, 3, 3, 8, 8)], 0.04)
    poses, visible = torch.randn(2, 3, 5, 17, 3), torch.rand(2, 3, 5, 17) > 0.2
    actions = (poses, visible, poses, visible)
    clip = loss.clip_loss(
        agent.predictor, agent.observer, torch.randn(2, 3, 3, 16, 16), torch.randn(2, 3, 3, 16, 16), actions, 0.04
    )
    torch.testing.assert_close(image.total.detach(), 2 * image.logged["rep"])
    weighted = clip.logged["pred"] + 3 * clip.logged["act"] + clip.logged["visibility"]
    torch.testing.assert_close(clip.total.detach(), weighted)
    (image.total + clip.total).backward()
    assert all(p.grad is not None for p in agent.predictor.parameters())
    assert not any(p.grad is not None for p in agent.observer.parameters())
    assert loss.rep_targets.center.abs().sum() > 0 and loss.pred_targets.center.abs().sum() > 0
    assert not torch.equal(loss.rep_targets.center, loss.pred_targets.center), "each loss keeps its own centre"
    assert image.logged["rep_kl"] == pytest.approx(image.logged["rep"] - image.logged["rep_teacher_entropy"])
    assert image.kept["teacher"].shape == (6, K) and clip.kept["features"].shape == (6, 8)
