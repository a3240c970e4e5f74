"""Positions: the running index as ever, given ones of one axis or three."""

import pytest
import torch
from trunk_samples import tokens, trunk

from internlm.config.errors import ConfigError
from internlm.systems.egoagent.sequence import clip_layout
from internlm.trunk.rope import RotaryEmbedding, rotate

LAYOUT = clip_layout(3, 2, "block")
LENGTH = len(LAYOUT)
INDEX = torch.arange(LENGTH)


@torch.no_grad()
def test_the_running_index_given_is_the_running_index_to_the_bit():
    network, x = trunk(), tokens(2, LENGTH)
    plain = network(x, LAYOUT)
    for positions in (INDEX, INDEX.float(), INDEX.expand(2, -1), INDEX.to(torch.int32)):
        assert torch.equal(network(x, LAYOUT, positions), plain)
    assert torch.equal(trunk(axes=3)(x, LAYOUT), plain), "three axes change nothing where no position is given"


@torch.no_grad()
def test_tables_are_what_they_have_always_been():
    """Written out: pair i of d/2 turns by position · base^(-2i/d)."""
    rotary, cpu = RotaryEmbedding(16, 100.0), torch.device("cpu")
    angles = torch.arange(5.0)[:, None] * 100.0 ** (-torch.arange(0, 16, 2).float() / 16)
    assert torch.equal(rotary(5, cpu), torch.stack((angles.cos(), angles.sin()), 1))
    assert torch.equal(rotary(3, cpu, start=1000), rotary(1003, cpu)[1000:]) and len(rotary.table) == 1003
    rotary(3, cpu, start=5000)
    assert len(rotary.table) == 1003, "a stream's positions leave nothing behind"


@torch.no_grad()
def test_positions_of_each_sample():
    network, x = trunk(), tokens(2, LENGTH)
    own = torch.stack((INDEX * 2.5, INDEX.flip(0)))
    both = network(x, LAYOUT, own)
    for row in range(2):
        torch.testing.assert_close(both[row : row + 1], network(x[row : row + 1], LAYOUT, own[row]), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(both[1], network(x, LAYOUT)[1], atol=1e-2)


@torch.no_grad()
def test_only_differences_of_positions_count():
    network, x = trunk(axes=3), tokens(2, LENGTH)
    place = torch.randint(0, 9, (2, LENGTH, 3), generator=torch.Generator().manual_seed(0)).float()
    moved = place + torch.tensor([30.0, -4.0, 11.0])
    torch.testing.assert_close(network(x, LAYOUT, place), network(x, LAYOUT, moved), rtol=1e-4, atol=1e-4)


def test_zero_is_no_rotation():
    x = torch.randn(2, 2, LENGTH, 32)
    for axes in (1, 3):
        table = RotaryEmbedding(32, axes=axes).at(torch.zeros((LENGTH,) if axes == 1 else (LENGTH, 3)))
        assert torch.equal(rotate(x, table), x)


@pytest.mark.parametrize(("head", "shares"), [(16, (4, 6, 6)), (32, (8, 12, 12)), (64, (16, 24, 24)), (128, (32, 48, 48))])
def test_three_axes_share_the_head(head, shares):
    rotary = RotaryEmbedding(head, 10_000.0, axes=3)
    place = torch.tensor([[2.0, 0, 0], [0, 3.0, 0], [0, 0, 5.0]])
    table = rotary.at(place)
    assert table.shape == (3, 2, head // 2)
    first = 0
    for axis, share in enumerate(shares):
        own = slice(first, first + share // 2)
        expected = RotaryEmbedding(share).at(place.diagonal()[axis][None])[0]
        torch.testing.assert_close(table[axis, :, own], expected)
        others = torch.ones(head // 2, dtype=torch.bool)
        others[own] = False
        assert (table[axis, 0, others] == 1).all() and (table[axis, 1, others] == 0).all()
        first = own.stop
    assert first == head // 2
    assert rotary.at(place.expand(4, 3, 3)).shape == (3, 4, 2, head // 2), "tokens first"


def test_misfit_positions_are_refused():
    with pytest.raises(ConfigError, match="heads of 24 channels cannot be divided.*multiple of 16"):
        RotaryEmbedding(24, axes=3)
    with pytest.raises(ConfigError, match="2 axes are unknown; choose from 1, 3"):
        RotaryEmbedding(32, axes=2)
    x = tokens(2, LENGTH)
    for network, positions in (
        (trunk(), torch.zeros(LENGTH + 1)),
        (trunk(), torch.zeros(3, LENGTH)),
        (trunk(), torch.zeros(LENGTH, 3)),
        (trunk(axes=3), torch.zeros(LENGTH)),
        (trunk(axes=3), torch.zeros(2, LENGTH)),
    ):
        with pytest.raises(ValueError, match=r"positions of shape .* do not fit 2 x 12 tokens: \[L"):
            network(x, LAYOUT, positions)
