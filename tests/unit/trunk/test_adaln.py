"""Conditions: absent they leave no trace, at the start they change nothing, and each token is modulated by its own."""

import pytest
import torch
from torch import nn
from trunk_samples import teacher, tokens, trunk

from internlm.trunk.adaln import Condition
from internlm.trunk.backbone import Backbone

LAYOUT = teacher(3, 2)
LENGTH = len(LAYOUT)
ROWS = torch.tensor([3, 3, *(frame for frame in range(3) for _ in range(5))])  # the text's row is the last
CONDITION = Condition(tokens(2, 4, seed=5), ROWS)


def stir(network: Backbone) -> Backbone:
    """Give what starts at constants some weights."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in network.named_parameters():
        if "conditioning" in name or "modulation" in name:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return network


@torch.no_grad()
def test_a_trunk_without_it_is_the_same_trunk():
    plain = trunk()
    after = torch.rand(3)
    assert not [name for name, _ in plain.named_parameters() if "condition" in name or "modulation" in name]
    for start in ("zero", "one"):
        other = trunk(adaln=start)
        assert torch.equal(torch.rand(3), after), "the same random numbers were drawn"
        weights = other.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in plain.state_dict().items())
        assert torch.equal(stir(other)(tokens(2, LENGTH), LAYOUT), plain(tokens(2, LENGTH), LAYOUT)), "no condition, no change"


@torch.no_grad()
def test_at_the_start_blocks_are_identities_or_as_without_conditions():
    x = tokens(2, LENGTH)
    zero = trunk(adaln="zero")
    assert torch.equal(zero(x, LAYOUT, condition=CONDITION), zero.norm(x))
    assert torch.equal(trunk(adaln="one")(x, LAYOUT, condition=CONDITION), trunk()(x, LAYOUT))


@pytest.mark.parametrize("start", ["zero", "one"])
def test_every_part_of_it_learns(start):
    network = trunk(adaln=start)
    x, vectors = tokens(2, LENGTH), CONDITION.vectors.clone().requires_grad_()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    for step in range(2):
        hidden = network(x, LAYOUT, condition=Condition(vectors, ROWS))
        (hidden * tokens(2, LENGTH, seed=9 + step)).sum().backward()
        optimizer.step()
    assert [name for name, value in network.named_parameters() if torch.equal(value, before[name])] == []
    assert vectors.grad.abs().sum() > 0


@torch.no_grad()
def test_each_token_has_its_own_condition():
    network, x = stir(trunk(adaln="one", layers=1)), tokens(2, LENGTH)
    hidden = network(x, LAYOUT, condition=CONDITION)
    other = CONDITION.vectors.clone()
    other[:, 1] += 1  # of frame 1: tokens 7 to 11; frame 2's tokens see its clean ones
    changed = (network(x, LAYOUT, condition=Condition(other, ROWS)) - hidden).abs().sum((0, 2)) > 0
    assert changed.tolist() == [False] * 7 + [True] * 10
    rows = torch.stack((ROWS, ROWS.flip(0)))
    both = network(x, LAYOUT, condition=Condition(CONDITION.vectors, rows))
    assert torch.equal(both[0], hidden[0])
    flipped = network(x[1:], LAYOUT, condition=Condition(CONDITION.vectors[1:], ROWS.flip(0)))
    torch.testing.assert_close(both[1:], flipped)


@torch.no_grad()
def test_the_formula():
    """x + g1·attn(norm(x)(1 + s1) + b1), and the same of the MLP, written out for one block with one condition."""
    network, x = stir(trunk(adaln="one", layers=1)), tokens(2, LENGTH)
    vector = tokens(2, 1, seed=5)
    block, active = network.blocks[0], nn.functional.silu(vector)
    s1, b1, g1, s2, b2, g2 = (network.conditioning.blocks(active) + block.modulation.table.flatten()).chunk(6, -1)
    rotary, mask = network.rotary(LENGTH, x.device), LAYOUT.mask(x.device)
    y = x + g1 * block.attention(block.attention_norm(x) * (1 + s1) + b1, rotary, mask)
    y = y + g2 * block.mlp(block.mlp_norm(y) * (1 + s2) + b2)
    scale, shift = network.conditioning.final(active).chunk(2, -1)
    found = network(x, LAYOUT, condition=Condition(vector, torch.zeros(LENGTH, dtype=torch.int64)))
    torch.testing.assert_close(found, network.norm(y) * (1 + scale) + shift)


@pytest.mark.parametrize(
    ("hidden", "layers", "heads", "inner", "parameters"),
    [
        (128, 6, 4, 384, 1_282_688), (192, 8, 6, 512, 3_548_352), (768, 12, 12, 2048, 84_990_720),
        (1536, 28, 12, 4096, 792_983_040), (2048, 30, 16, 5632, 1_541_777_408),
    ],
)  # fmt: skip
def test_parameters_by_formula(hidden, layers, heads, inner, parameters):
    shape = dict(hidden=hidden, layers=layers, heads=heads, inner=inner, eps=1e-6, rope_base=1e4, init_std=0.02)
    with torch.device("meta"):
        count = lambda **options: sum(p.numel() for p in Backbone(**shape, **options).parameters())  # noqa: E731
        assert count() == parameters
        extra = 6 * hidden**2 + 6 * hidden + 6 * hidden * layers + 2 * hidden**2 + 2 * hidden
        assert count(adaln="zero", axes=3) == parameters + extra


def test_a_trunk_that_takes_none_refuses_conditions():
    with pytest.raises(ValueError, match="takes no conditions: it was built without adaln"):
        trunk()(tokens(2, LENGTH), LAYOUT, condition=CONDITION)
