"""A cache gives what reading everything anew gives: in any pieces, branched, taken back, and in windows that move on."""

import gc
import random
import weakref
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from trunk_samples import block_world, forcing, labelled, masked, stacked, teacher, tokens, trunk

from internlm.systems.egoagent.sequence import clip_layout
from internlm.trunk.adaln import Condition
from internlm.trunk.backbone import Backbone
from internlm.trunk.cache import KVCache
from internlm.trunk.layout import Layout
from internlm.trunk.window import Window

pytestmark = pytest.mark.usefixtures("no_gradients")
BATCH, PATCHES = 3, 4


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Relative to max(1, |x|), and the same largest channel."""
    error = ((found - expected).abs() / expected.abs().clamp(min=1)).max()
    assert error <= tolerance, f"off by {error:.2e}"
    if tolerance <= 1e-5:
        assert torch.equal(found.argmax(-1), expected.argmax(-1))


def cuts(layout: Layout, seed: int) -> list[int]:
    """Random places to cut a sequence where no token sees one after the cut."""
    allow = layout.allow().reshape(-1, len(layout), len(layout)).any(0)
    free = [at for at in range(1, len(layout)) if not allow[:at, at:].any()]
    rng = random.Random(seed)
    return [0, *sorted(rng.sample(free, rng.randint(0, len(free)))), len(layout)]


def in_pieces(network: Backbone, x: Tensor, layout: Layout, at: list[int], cache: KVCache, positions=None) -> Tensor:
    given = lambda a, b: None if positions is None else positions[..., a:b]  # noqa: E731
    return torch.cat([network(x[:, a:b], layout[a:b], given(a, b), cache=cache) for a, b in pairwise(at)], 1)


@pytest.mark.parametrize("kind", ["causal", "block"])
@pytest.mark.parametrize(("steps", "frames"), [(1, 1), (1, 0), (2, 2), (2, 1), (6, 6), (6, 2), (6, 0)])
def test_pieces_of_a_clip_are_the_clip(kind, steps, frames):
    network, layout = trunk(), clip_layout(PATCHES, steps, kind, frames)
    x = tokens(BATCH, len(layout))
    full = network(x, layout)
    for seed in range(6):
        cache = KVCache(capacity=seed * 5)
        close(in_pieces(network, x, layout, cuts(layout, seed), cache), full)
        assert cache.seen == len(layout) and len(cache) == int(layout.readable.sum())


@pytest.mark.parametrize("kind", ["causal", "block"])
def test_pieces_in_half_precision(kind):
    network, layout = trunk().bfloat16(), clip_layout(PATCHES, 6, kind, 3)
    x = tokens(BATCH, len(layout)).bfloat16()
    full = network(x, layout).float()
    found = in_pieces(network, x, layout, cuts(layout, 1), KVCache()).float()
    assert (found - full).norm() <= 2e-2 * full.norm()
    cache = KVCache()
    network(x[:, :7], layout[:7], cache=cache)
    branched = network(x[:, 7:].repeat_interleave(2, 0), layout[7:], cache=cache.branch(2)).float()
    assert (branched[1::2] - full[:, 7:]).norm() <= 2e-2 * full[:, 7:].norm()


@pytest.mark.parametrize(
    "layout",
    [block_world(4, 3), forcing(4, 3), teacher(4, 3), masked(5, [3, 2, 4]), stacked(masked(4, [2, 3], 1), masked(2, [3, 1], 4)),
     stacked(clip_layout(2, 3, "causal"), clip_layout(2, 3, "block"))],
    ids=["block world", "forcing", "teacher", "masked", "masked, other budgets", "causal beside block"],
)  # fmt: skip
def test_pieces_of_the_other_systems_sequences(layout):
    network, batch = trunk(), layout.batch or 2
    x = tokens(batch, len(layout))
    place = torch.rand(batch, len(layout), generator=torch.Generator().manual_seed(2)) * 50
    full = network(x, layout, place)
    for seed in range(4):
        close(in_pieces(network, x, layout, cuts(layout, seed), KVCache(), place), full)


@pytest.mark.parametrize("kind", ["causal", "block"])
def test_bytes_are_those_of_readable_tokens(kind):
    """The demo's width: 2 layers, 128 channels, 16 patches: 38.9 kB a step; four imagined steps of three tokens 24.6 kB."""
    network, layout = trunk(layers=2, hidden=128, heads=4), clip_layout(16, 5, kind, frames=1)
    x, cache = tokens(1, len(layout), 128), KVCache()
    network(x[:, :19], layout[:19], cache=cache)
    kept = {"causal": 19, "block": 17}[kind]
    assert cache.nbytes == 2 * 2 * 128 * kept * 4 and (kind == "block" or cache.nbytes == 38_912)
    branches = cache.branch(8)
    network(x[:, 19:].repeat(8, 1, 1), layout[19:], cache=branches)
    assert branches.nbytes == 8 * 2 * 2 * 128 * {"causal": 12, "block": 4}[kind] * 4
    assert kind == "block" or branches.nbytes == 8 * 24_576
    assert len(branches) == kept + {"causal": 12, "block": 4}[kind]


@pytest.mark.parametrize("kind", ["causal", "block"])
def test_branches_are_what_goes_on_alone(kind):
    network, layout = trunk(), clip_layout(PATCHES, 5, kind, frames=2)
    start, middle = layout.index["action"][1].item(), layout.index["action"][3].item()
    x, cache = tokens(BATCH, len(layout)), KVCache()
    full = network(x, layout)
    network(x[:, :start], layout[:start], cache=cache)
    alike = cache.branch(4)
    rest = x[:, start:].repeat_interleave(4, 0)
    found = network(rest, layout[start:], cache=alike)
    close(found, full[:, start:].repeat_interleave(4, 0))
    assert all(torch.equal(found[0], found[row]) for row in range(1, 4)), "equal tails, equal outputs"
    # Different tails, and branches of a branch, beside sequences that are read whole.
    first, second = cache.branch(2), None
    other = tokens(2 * BATCH, len(layout), seed=1)
    network(other[:, start:middle], layout[start:middle], cache=first)
    second = first.branch(3)
    last = tokens(6 * BATCH, len(layout), seed=2)[:, middle:]
    found = network(last, layout[middle:], cache=second)
    whole = torch.cat((x[:, :start].repeat_interleave(6, 0), other[:, start:middle].repeat_interleave(3, 0), last), 1)
    close(found, network(whole, layout)[:, middle:])
    assert second.batch == 6 * BATCH and second.seen == len(layout) and first.seen == middle and cache.seen == start


def test_a_branch_stays_while_its_origin_goes_on_and_back():
    network, layout = trunk(), clip_layout(PATCHES, 4, "causal")
    x, cache = tokens(BATCH, len(layout)), KVCache()
    full = network(x, layout)
    network(x[:, :7], layout[:7], cache=cache)
    mark = cache.mark()
    network(x[:, 7:14], layout[7:14], cache=cache)
    branch = cache.branch(1)
    cache.rollback(mark)
    network(tokens(BATCH, 7, seed=3), layout[7:14], cache=cache)  # over the rows that the branch looks at
    close(network(x[:, 14:], layout[14:], cache=branch), full[:, 14:])
    mine = cache._own.keys[0].data_ptr()
    cache.rollback(mark)
    for t in range(7, 14):
        network(x[:, t : t + 1], layout[t : t + 1], cache=cache)
    assert cache._own.keys[0].data_ptr() == mine, "moved away from the branch once, not at every call"
    close(network(x[:, 14:], layout[14:], cache=cache), full[:, 14:])


@pytest.mark.parametrize("kind", ["causal", "block"])
def test_taking_back_leaves_no_trace(kind):
    network, layout = trunk(), clip_layout(PATCHES, 4, kind)
    x, cache = tokens(BATCH, len(layout)), KVCache()
    network(x[:, :7], layout[:7], cache=cache)
    rows = lambda: [b[:, :, : cache._length].clone() for b in (*cache._own.keys, *cache._own.values)]  # noqa: E731
    before, state = rows(), (len(cache), cache.seen, cache.nbytes)
    mark = cache.mark()
    for seed in range(3):
        at = 7 * (seed + 2)  # the third makes the buffers grow
        network(tokens(BATCH, len(layout), seed=seed)[:, 7:at], layout[7:at], cache=cache)
        later = cache.mark()
        cache.rollback(mark)
        assert state == (len(cache), cache.seen, cache.nbytes)
        assert all(torch.equal(a, b) for a, b in zip(rows(), before, strict=True))
        with pytest.raises(ValueError, match="taken back to before it"):
            cache.rollback(later)
    close(network(x[:, 7:], layout[7:], cache=cache), network(x, layout)[:, 7:])
    with pytest.raises(ValueError, match="not of this cache"):
        KVCache().rollback(mark)


def test_what_a_cache_cannot_do_is_refused():
    network, block = trunk(), clip_layout(PATCHES, 3, "block")
    x, cache = tokens(BATCH, len(block)), KVCache()
    with pytest.raises(ValueError, match="nothing is kept yet"):
        cache.branch(2)
    network(x[:, :2], block[:2], cache=cache)
    for piece in (slice(2, 5), slice(0, 2)):  # the other patches of a frame; the same ones again
        with pytest.raises(ValueError, match="those that see each other in one call"):
            network(x[:, piece], block[piece], cache=cache)
    early = KVCache()
    network(x[:, :4], block[:4], cache=early)
    network(x[:, 6:7], block[6:7], cache=early)  # the state query before the action that it should see
    with pytest.raises(ValueError, match="in the order of their labels"):
        network(x[:, 5:6], block[5:6], cache=early)
    cache = KVCache()
    network(x[:, :7], block[:7], cache=cache)
    with pytest.raises(ValueError, match=r"of 3 sequences and is given 2; branch\(\)"):
        network(x[:2, 7:11], block[7:11], cache=cache)
    with pytest.raises(ValueError, match="holds torch.float32 and is given torch.bfloat16"):
        trunk().bfloat16()(x[:, 7:11].bfloat16(), block[7:11], cache=cache)
    with pytest.raises(ValueError, match="a branch cannot forget"):
        cache.branch(2).forget(1)
    with torch.enable_grad(), pytest.raises(RuntimeError, match="keeps no gradients"):
        network(x[:, 7:11], block[7:11], cache=cache)
    with pytest.raises(RuntimeError, match=r"call eval\(\)"):
        network.train()(x[:, 7:11], block[7:11], cache=cache)
    close(network.eval()(x[:, 7:11], block[7:11], cache=cache), network(x, block)[:, 7:11])  # no refusal left anything


def banded(network: Backbone, x: Tensor, layout: Layout, steps: int, positions=None, condition=None) -> Tensor:
    """All tokens at once, each seeing so many steps back at most."""
    band = layout.step[:, None] - layout.step[None] < steps
    network.mask_of = lambda layout, device: layout.allow() & band
    try:
        return network(x, layout, positions, condition=condition)
    finally:
        network.mask_of = Layout.mask


@pytest.mark.parametrize("kind", ["causal", "block"])
def test_a_window_that_slides_is_a_band_and_one_that_restarts_is_a_new_sequence(kind):
    network, layout, steps = trunk(), clip_layout(PATCHES, 9, kind), 4
    x, each = tokens(BATCH, len(layout)), PATCHES + 3
    sliding, restarting = Window(network, steps, "slide"), Window(network, steps)
    calls = [piece for t in range(9) for piece in (slice(t * each, t * each + 5), slice(t * each + 5, (t + 1) * each))]
    slid, fresh = (torch.cat([w.append(x[:, c], layout[c]) for c in calls], 1) for w in (sliding, restarting))
    close(slid, banded(network, x, layout, steps))
    # Restarts before steps 4, 6 and 8 keep two steps: what follows is a sequence that begins with them.
    for first, last in ((0, 4), (2, 6), (4, 8), (6, 9)):
        part = slice(first * each, last * each)
        new = slice((first + 2) * each if first else 0, last * each)
        close(fresh[:, new], network(x[:, part], layout[part])[:, new.start - part.start :])
    newest = network(x[:, -steps * each :], layout[-steps * each :])[:, -each:]
    assert (slid[:, -each:] - newest).abs().max() > 1e-3, "what slides remembers what left it"
    assert len(sliding.cache) == int(layout[-steps * each :].readable.sum()) and len(restarting.cache) < len(sliding.cache)


@pytest.mark.parametrize("policy", ["slide", "restart"])
def test_a_window_of_one_step_sees_that_step_alone(policy):
    network, layout = trunk(), clip_layout(PATCHES, 4, "block")
    x, each, window = tokens(BATCH, len(layout)), PATCHES + 3, Window(network, 1, policy)
    for t in range(4):
        part = slice(t * each, (t + 1) * each)
        close(window.append(x[:, part], layout[part]), network(x[:, part], layout[part]))


def test_marks_that_nobody_has_any_more_keep_nothing():
    network, layout = trunk(), clip_layout(PATCHES, 9, "causal")
    x, cache, old = tokens(BATCH, len(layout)), KVCache(), []
    for t in range(9):
        part = slice(t * 7, (t + 1) * 7)
        cache.forget(t - 1)
        mark = cache.mark()
        network(x[:, part], layout[part], cache=cache)
        cache.rollback(mark)
        network(x[:, part], layout[part], cache=cache)
        old.append(weakref.ref(cache._own))
    del mark
    cache.mark()
    gc.collect()
    assert len(cache._marks) == 1 and [segment() for segment in old[:-1]] == [None] * 8


@pytest.mark.parametrize("context", [1, 2, 5])
def test_a_world_model_writes_token_by_token_or_frame_by_frame(context):
    """Any context, any length: strictly causal one token a call; block: an opener with all queries, then their clean twins."""
    frames, n = 7, 3
    causal, block = labelled([(t // n, t, 0, True) for t in range(frames * n)]), block_world(frames, n)
    network = trunk()
    place = torch.tensor([f * (1 + n) + i for f in range(frames) for i in (0, *range(1, n + 1), *range(1, n + 1))])
    x, at = tokens(BATCH, len(causal)), context * n
    close(in_pieces(network, x, causal, [0, *range(at, len(causal) + 1)], KVCache()), network(x, causal))
    x, each = tokens(BATCH, len(block)), 1 + 2 * n
    at = [0, *(place for f in range(context, frames) for place in (f * each, f * each + 1 + n)), frames * each]
    close(in_pieces(network, x, block, at, KVCache(), place), network(x, block, place))


def test_a_cache_attends_by_itself_whatever_kernel_trains():
    network, layout = trunk(), clip_layout(PATCHES, 2, "causal")
    x, full = tokens(BATCH, len(layout)), network(tokens(BATCH, len(layout)), layout)
    for block in network.blocks:
        block.attention.attend = None
    network.mask_of = None
    close(in_pieces(network, x, layout, [0, 7, 8, 14], KVCache()), full)


@pytest.mark.parametrize("policy", ["slide", "restart"])
def test_a_window_is_taken_back_over_its_own_moves_and_does_not_grow(policy):
    network, layout = trunk(), clip_layout(PATCHES, 12, "causal")
    x, each, window = tokens(BATCH, len(layout)), PATCHES + 3, Window(network, 3, policy)
    step = lambda t, source=x: window.append(source[:, t * each : (t + 1) * each], layout[t * each : (t + 1) * each])  # noqa: E731
    for t in range(4):
        step(t)
    mark, wild = window.mark(), tokens(BATCH, len(layout), seed=4)
    expected = [step(t) for t in range(4, 9)]
    window.rollback(mark)
    for t in range(4, 7):
        step(t, wild)
    window.rollback(mark)
    assert all(torch.equal(step(t), e) for t, e in zip(range(4, 9), expected, strict=True))
    sizes = []
    for t in range(9, 12):
        step(t)
        sizes.append((len(window.cache), window.cache.nbytes))
    assert max(size for size, _ in sizes) <= 3 * each
    assert max(b.shape[2] for b in window.cache._own.keys) <= 8 * each
    with pytest.raises(ValueError, match="of steps 0 to 1: a window reads one step at a time"):
        window.append(x[:, : 2 * each], layout[: 2 * each])
    with pytest.raises(ValueError, match="at least one step, and restart or slide"):
        Window(network, 2, "jump")


@pytest.mark.parametrize("frames", [1, 3, 6])
def test_frames_are_made_one_after_the_other_from_noise(frames):
    """The renderer's roll-out: each frame's noise is tried several times, its clean copy is kept, old frames fall out."""
    window, n = 4, 3
    network, layout = trunk(axes=3, adaln="one"), teacher(frames, n)
    for parameter in (network.conditioning.blocks.weight, network.conditioning.final.weight):
        parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    x = tokens(BATCH, len(layout))
    place = torch.randint(0, 4, (BATCH, len(layout), 3), generator=torch.Generator().manual_seed(1)).float()
    place[..., 0] = layout.step * 10.0
    rows = torch.tensor([0, 0, *(row for f in range(frames) for row in [0] + [1 + f] * n + [0] * n)])
    vectors = tokens(BATCH, 1 + frames, seed=8)
    condition = Condition(vectors, rows)
    text = labelled([(0, 0, 0, True)] * 2)
    expected = banded(network, x, layout, window, place, condition)
    cache = KVCache()

    def read(part: slice, source: Tensor = x) -> Tensor:
        return network(source[:, part], layout[part], place[:, part], condition=Condition(vectors, rows[part]), cache=cache)

    found = [read(slice(0, len(text)))]
    for f in range(frames):
        start = len(text) + f * (1 + 2 * n)
        control, noisy, clean = slice(start, start + 1), slice(start + 1, start + 1 + n), slice(start + 1 + n, start + 1 + 2 * n)
        cache.forget(f + 1 - window + 1)
        found.append(read(control))
        mark = cache.mark()
        for guess in range(2):
            read(noisy, tokens(BATCH, len(layout), seed=20 + guess))
            cache.rollback(mark)
        found += [read(noisy), read(clean)]
    close(torch.cat(found, 1), expected)
    if frames <= window - 1:
        close(torch.cat(found, 1), network(x, layout, place, condition=condition))


def test_masked_targets_are_asked_in_turn_of_what_is_visible():
    """Tokens that nobody reads leave nothing, so modalities can be asked one after the other, and again."""
    network, layout = trunk(), masked(5, [3, 2])
    x, cache = tokens(2, 10), KVCache()
    full = network(x, layout)
    place = torch.arange(10)
    network(x[:, :5], layout[:5], cache=cache)
    mark = cache.mark()
    for part in (slice(8, 10), slice(5, 8), slice(8, 10)):
        close(network(x[:, part], layout[part], place[part], cache=cache), full[:, part])
        assert len(cache) == 5
        cache.rollback(mark)
