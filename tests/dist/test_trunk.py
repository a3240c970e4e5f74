"""Two tensor-parallel processes compute what one does: conditions with their gradients, positions of each sample, and a cache."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from processes import start
from trunk_samples import teacher, tokens, trunk

from internlm.core.collectives import Group
from internlm.parallel.plan import cuts, divide, partial_names
from internlm.trunk.adaln import Condition
from internlm.trunk.backbone import Backbone
from internlm.trunk.cache import KVCache

BATCH, FRAMES, N = 2, 3, 2
LAYOUT = teacher(FRAMES, N)  # 17 tokens: the last process has padding
ROWS = torch.tensor([FRAMES, FRAMES, *(frame for frame in range(FRAMES) for _ in range(1 + 2 * N))])


def network() -> Backbone:
    made = trunk(axes=3, adaln="one")
    generator = torch.Generator().manual_seed(3)
    for name, parameter in made.named_parameters():
        if "conditioning" in name or "modulation" in name:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return made


def given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    place = torch.randint(0, 5, (BATCH, len(LAYOUT), 3), generator=torch.Generator().manual_seed(1)).float()
    return tokens(BATCH, len(LAYOUT)), place, tokens(BATCH, FRAMES + 1, seed=5)


def trained(made: Backbone) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Hidden states, gradients of the parameters and of the conditions."""
    x, place, vectors = given()
    vectors.requires_grad_()
    hidden = made(x, LAYOUT, place, condition=Condition(vectors, ROWS))
    (hidden * tokens(BATCH, len(LAYOUT), seed=9)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in made.named_parameters()}
    made.zero_grad(set_to_none=True)
    return hidden.detach(), gradients, vectors.grad


@torch.no_grad()
def read(made: Backbone) -> torch.Tensor:
    """The same hidden states frame by frame, the last two of two branches."""
    x, place, vectors = given()
    cache, found = KVCache(), []

    def step(part: slice, cache: KVCache, times: int = 1) -> torch.Tensor:
        several = partial(torch.repeat_interleave, repeats=times, dim=0)
        condition = Condition(several(vectors), ROWS[part])
        return made(several(x[:, part]), LAYOUT[part], several(place[:, part]), condition=condition, cache=cache)

    for part in (slice(0, 2), slice(2, 7), slice(7, 8), slice(8, 12)):
        found.append(step(part, cache))
    branches = cache.branch(2)
    return torch.cat((*found, step(slice(12, 17), branches, 2)[1::2]), 1)


def work(rank: int, world: int, folder: str) -> None:
    tp = Group(dist.group.WORLD, world, rank)
    results = {}
    for sequence in (False, True):
        made = network()
        divide(made, tp, sequence=sequence)
        hidden, gradients, vectors = trained(made)
        for name, gradient in gradients.items():
            if sequence and name in partial_names(made):
                dist.all_reduce(gradient)
        results[sequence] = hidden, gradients, vectors, read(made)
    torch.save(results, f"{folder}/{rank}.pt")


@pytest.mark.parametrize("sequence", [False, True])
def test_a_divided_trunk_is_the_whole_one(results, sequence):
    hidden, gradients, vectors = trained(network())
    assert results[0][sequence][1]["blocks.0.attention.qkv.weight"].shape[0] * 2 == 3 * 32, "it is divided"
    for rank, found in enumerate(results):
        other_hidden, other_gradients, other_vectors, cached = found[sequence]
        torch.testing.assert_close(other_hidden, hidden, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(cached, hidden, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(other_vectors, vectors, rtol=1e-4, atol=1e-4)
        for name, gradient in gradients.items():
            mine = other_gradients[name]
            if mine.shape != gradient.shape:
                gradient = share(name, gradient, rank)
            torch.testing.assert_close(mine, gradient, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def share(name: str, whole: torch.Tensor, rank: int) -> torch.Tensor:
    return cuts(network())[name].share(whole, SimpleNamespace(size=2, rank=rank))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trunk")
    start(work, 2, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]
