"""The mask rule on labels of every sequence that the systems use, of one for all samples or of each sample its own."""

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from trunk_samples import CPU, block_world, forcing, labelled, masked, stacked, teacher, tokens, trunk

from internlm.config.errors import ConfigError
from internlm.systems.egoagent.sequence import clip_layout
from internlm.trunk.attention import sdpa
from internlm.trunk.kernels import _no_mask
from internlm.trunk.layout import Layout, join

SAMPLES = {
    "masked, other budgets": stacked(masked(4, [2, 3], 1), masked(2, [3, 1], 4), masked(5, [0, 5])),
    "causal beside block": stacked(clip_layout(3, 2, "causal"), clip_layout(3, 2, "block")),
    "two orders of the block world": stacked(
        block_world(2, 2), block_world(2, 2).select(torch.tensor([5, 0, 1, 2, 3, 4, 6, 7, 8, 9]))
    ),
}


def pairs(layout: Layout) -> torch.Tensor:
    """The rule written out pair by pair, [L, L]."""
    label = list(zip(*(x.tolist() for x in layout.labels), strict=True))
    earlier = lambda q, k: k[3] and (k[0] < q[0] or (k[0] == q[0] and k[1] < q[1]))  # noqa: E731
    return torch.tensor([[bool(earlier(q, k) or q[:3] == k[:3]) for k in label] for q in label])


def sample(layout: Layout, row: int) -> Layout:
    return Layout(*(label[row] for label in layout.labels))


@pytest.mark.parametrize("name", SAMPLES)
def test_labels_of_each_sample_are_that_sample_s_rule(name):
    layout = SAMPLES[name]
    expected = torch.stack([pairs(sample(layout, row)) for row in range(layout.batch)])
    assert torch.equal(layout.allow(), expected)
    assert torch.equal(layout.mask(CPU), expected[:, None]) and layout.mask(CPU) is layout.mask(CPU)
    blocks, place = layout.block_mask(CPU), torch.arange(len(layout))
    rows = torch.arange(layout.batch)[:, None, None]
    assert torch.equal(blocks.mask_mod(rows, 0, place[:, None], place[None]), expected)
    q, k, v = torch.randn(3, layout.batch, 2, len(layout), 16, generator=torch.Generator().manual_seed(0))
    found = flex_attention(q, k, v, block_mask=blocks)
    torch.testing.assert_close(found, sdpa(q, k, v, layout.mask(CPU)), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_each_sample_is_computed_as_it_is_alone():
    network, layout = trunk(), SAMPLES["masked, other budgets"]
    x = tokens(3, len(layout))
    together = network(x, layout)
    for row in range(3):
        torch.testing.assert_close(together[row : row + 1], network(x[row : row + 1], sample(layout, row)), rtol=1e-5, atol=1e-5)


def test_the_fast_path_is_taken_where_every_sample_is_causal():
    causal = clip_layout(3, 2, "causal")
    assert stacked(causal, causal).is_causal and stacked(causal, causal).mask(CPU) is None
    assert not SAMPLES["causal beside block"].is_causal
    _no_mask(stacked(causal, causal), CPU)
    with pytest.raises(ConfigError, match="strictly causal, and this sequence is not"):
        _no_mask(SAMPLES["causal beside block"], CPU)


def test_misfit_labels_are_refused():
    label = torch.zeros(2, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"all \[L\] or all \[B, L\]; these have the shapes"):
        Layout(label, label[0], label, label.bool())
    with pytest.raises(ValueError, match="labels of a sequence"):
        Layout(*(x[None] for x in (label, label, label, label.bool())))
    with pytest.raises(ValueError, match="a batch of 2 does not fit a layout of 3 samples"):
        trunk()(tokens(2, 10), SAMPLES["masked, other budgets"])


def test_a_run_of_a_layout_has_its_labels_and_its_whole_parts():
    layout = clip_layout(3, 3, "block", frames=2)  # image 3, query, action, state; the last step without its image
    run = layout[4:13]
    assert torch.equal(run.allow(), layout.allow()[4:13, 4:13])
    assert torch.equal(run.allow(layout[:4]), layout.allow()[4:13, :4])
    names = {name: at.tolist() for name, at in run.index.items()}
    assert names == {"image": [[2, 3, 4]], "action_query": [[5], [8]], "action": [[0], [6]], "state": [[1], [7]]}
    assert "image" not in layout[1:4].index and len(layout[4:4]) == 0
    batch = SAMPLES["masked, other budgets"]
    assert torch.equal(join(batch[:4], batch[4:]).allow(), batch.allow())
    mixed = join(layout[:6], batch[:3])
    assert mixed.batch == 3 and torch.equal(mixed[:6].step[2], layout.step[:6])
    assert torch.equal(batch.repeated(2).allow()[3], batch.allow()[1]) and layout.repeated(2) is layout


def test_what_each_token_of_the_systems_sees():
    """The tables of sequences in words: rows are queries."""
    see = lambda layout, q: layout.allow()[q].nonzero()[:, 0].tolist()  # noqa: E731
    world = block_world(2, 2)  # opener 0, queries 1 2, clean 3 4; opener 5, queries 6 7, clean 8 9
    assert see(world, 6) == [0, 3, 4, 5, 6, 7], "openers, earlier clean tokens and fellow queries"
    assert see(world, 9) == [0, 3, 4, 5, 8, 9]
    autoregressive = teacher(2, 2)  # text 0 1; control 2, noisy 3 4, clean 5 6; control 7, noisy 8 9, clean 10 11
    assert see(autoregressive, 3) == [0, 1, 2, 3, 4], "not its own clean copy"
    assert see(autoregressive, 8) == [0, 1, 2, 5, 6, 7, 8, 9]
    assert see(autoregressive, 10) == [0, 1, 2, 5, 6, 7, 10, 11]
    frames = forcing(2, 2)  # text 0 1; control 2, patches 3 4; control 5, patches 6 7
    assert see(frames, 4) == [0, 1, 2, 3, 4] and see(frames, 6) == [0, 1, 2, 3, 4, 5, 6, 7]
    window = labelled([(1, 1, 0, True)] * 2 + [(2, 1, 0, True)] * 4)  # one frame of history, two noisy frames
    assert see(window, 0) == [0, 1] and see(window, 2) == see(window, 5) == list(range(6))
    targets = masked(2, [2, 1], 1)
    assert see(targets, 1) == [0, 1] and see(targets, 2) == [0, 1, 2, 3] and see(targets, 4) == [0, 1, 4]
    assert not targets.allow()[:5, 5].any() and targets.allow()[5, 5], "padding is seen by itself alone"


def reach(layout: Layout, x: torch.Tensor, of: list[int], **options) -> list[int]:
    """The tokens on which the hidden states of tokens ``of`` depend, by gradient."""
    x = x.clone().requires_grad_()
    hidden = trunk(**options)(x, layout)
    (gradient,) = torch.autograd.grad(hidden[:, of].square().sum(), x)
    return gradient.abs().sum((0, 2)).nonzero()[:, 0].tolist()


def test_nothing_depends_on_what_it_must_not_see():
    world, x = block_world(3, 2), tokens(2, 15)
    assert reach(world, x, [6, 7]) == [0, 3, 4, 5, 6, 7], "queries of frame 1: never its clean tokens 8 and 9"
    causal = labelled([(t // 3, t, 0, True) for t in range(9)])
    assert all(reach(causal, x[:, :9], [t]) == list(range(t + 1)) for t in range(9))
    assert max(reach(forcing(3, 2), tokens(2, 11), [6, 7])) == 7
    assert not set(reach(teacher(3, 2), tokens(2, 17), [8, 9])) & {3, 4, 10, 11, *range(12, 17)}, "neither noise nor its copy"


@torch.no_grad()
def test_targets_of_a_masked_model_do_not_disturb_each_other():
    network, layout = trunk(), SAMPLES["masked, other budgets"]
    x, place = tokens(3, len(layout)), torch.rand(3, len(layout), generator=torch.Generator().manual_seed(1)) * 60
    whole = network(x, layout, place)
    changed = x.clone()
    changed[0, 4:6] += 1  # first sample: targets of modality 0
    changed[0, 9] += 1  # its padding
    changed[1, 6:] -= 1  # second sample: 2 visible, 3 and 1 targets, padding from 6 on
    again = network(changed, layout, place)
    assert torch.equal(again[0, :4], whole[0, :4]) and torch.equal(again[0, 6:9], whole[0, 6:9])
    assert torch.equal(again[1, :6], whole[1, :6]) and torch.equal(again[2], whole[2])
    assert not torch.allclose(again[0, 4:6], whole[0, 4:6]), "the test sees a change where there is one"
    order = torch.tensor([3, 1, 0, 2, *range(4, 10)])  # the first sample's visible tokens, with their positions
    permuted = network(x[:1, order], sample(layout, 0), place[:1, order])
    torch.testing.assert_close(permuted, whole[:1, order], rtol=1e-5, atol=1e-5)
