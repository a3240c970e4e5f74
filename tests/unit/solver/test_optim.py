"""Parameter groups, scheduled values, clipping, and the optimizer's state as tensors."""

import pytest
import torch
from torch import nn

from internlm.config.schema import OptimConfig
from internlm.core.roles import NO_DECAY, PROTOTYPES
from internlm.solver.clip import clip_grad_norm
from internlm.solver.optim import build_optimizer, create_optimizer_state, optimizer_tensors, set_step_values


class Head(nn.Module):
    roles = {"prototypes.weight": PROTOTYPES}


class Toy(nn.Module):
    roles = {"state_query": NO_DECAY}

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)
        self.state_query = nn.Parameter(torch.randn(1, 1, 3))
        self.head = Head()
        self.head.prototypes = nn.Linear(3, 5, bias=False)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, inputs):
        return self.head.prototypes(self.norm(self.linear(inputs)) + self.state_query[0]).square().sum()


def names_by_role(optimizer):
    return {group["role"]: set(group["param_names"]) for group in optimizer.param_groups}


def take_step(model, optimizer, seed):
    torch.manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randn(2, 4)).backward()
    optimizer.step()


def test_norms_biases_and_queries_do_not_decay():
    optimizer = build_optimizer(Toy(), OptimConfig())
    assert names_by_role(optimizer) == {
        "decay": {"linear.weight"},
        "no_decay": {"linear.bias", "norm.weight", "norm.bias", "state_query"},
        "prototypes": {"head.prototypes.weight"},
    }
    set_step_values(optimizer, step=0, lr=0.1, weight_decay=0.3)
    assert {group["role"]: group["weight_decay"] for group in optimizer.param_groups} == {
        "decay": 0.3,
        "no_decay": 0.0,
        "prototypes": 0.3,
    }


def test_everything_decays_on_request():
    roles = names_by_role(build_optimizer(Toy(), OptimConfig(decay_one_dimensional=True)))
    assert "no_decay" not in roles and "state_query" in roles["decay"]


@pytest.mark.parametrize("frozen", [0, 2, None])
def test_prototypes_rest_while_frozen_and_move_after(frozen):
    model = Toy()
    optimizer = build_optimizer(model, OptimConfig(freeze_prototypes_steps=frozen))
    before = model.head.prototypes.weight.detach().clone()
    for step in range(3):
        trunk = model.linear.weight.detach().clone()
        set_step_values(optimizer, step=step, lr=0.1, weight_decay=0.5)
        take_step(model, optimizer, step)
        assert not torch.equal(model.linear.weight, trunk)
        assert torch.equal(model.head.prototypes.weight, before) == (frozen is None or step < frozen)


def test_state_travels_as_tensors_and_continues_bitwise():
    torch.manual_seed(0)
    model, other = Toy(), Toy()
    optimizer = build_optimizer(model, OptimConfig())
    take_step(model, optimizer, 1)
    other.load_state_dict(model.state_dict())
    restored = build_optimizer(other, OptimConfig())
    saved = {key: tensor.clone() for key, tensor in optimizer_tensors(optimizer).items()}
    create_optimizer_state(restored, {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in saved.items()})
    for key, tensor in optimizer_tensors(restored).items():
        tensor.copy_(saved.pop(key))
    assert not saved
    take_step(model, optimizer, 2)
    take_step(other, restored, 2)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_state_of_another_model_is_refused():
    model = Toy()
    optimizer = build_optimizer(model, OptimConfig())
    take_step(model, optimizer, 1)
    stored = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in optimizer_tensors(optimizer).items()}
    stored = {key: about for key, about in stored.items() if not key.startswith("linear.weight/")}
    with pytest.raises(KeyError, match=r"linear\.weight"):
        create_optimizer_state(build_optimizer(Toy(), OptimConfig()), stored)


def test_clipping_scales_to_the_limit_and_returns_the_norm_before():
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    norm = clip_grad_norm([first, second], 1.0)
    assert norm.item() == pytest.approx(5.0)
    assert torch.cat([first.grad, second.grad]).tolist() == pytest.approx([0.6, 0.0, 0.8], rel=1e-4)


def test_small_gradients_are_left_alone():
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([0.3, 0.4])
    clip_grad_norm([parameter], 1.0)
    assert parameter.grad.tolist() == pytest.approx([0.3, 0.4])
