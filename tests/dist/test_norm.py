"""Batch normalisation over processes: that of one process on all samples, and one collective each way."""

import torch
import torch.distributed as dist
from processes import start
from torch import nn
from torch.distributed.tensor.debug import CommDebugMode

from internlm.core.collectives import Group
from internlm.parallel.norm import synchronise_batch_norms


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
    return layers


def compare(rank: int, world: int) -> None:
    torch.manual_seed(1)
    images, target = torch.randn(4 * world, 3, 9, 9) * 3 + 10, torch.randn(4 * world, 4, 5, 5)
    whole, own = network(), network()
    synchronise_batch_norms(own, Group(dist.group.WORLD, world, rank))
    mine = slice(4 * rank, 4 * rank + 4)
    inputs = images.clone().requires_grad_(), images[mine].clone().requires_grad_()
    ((whole(inputs[0]) * target).sum() / len(images)).backward()
    with CommDebugMode() as sent:
        ((own(inputs[1]) * target[mine]).sum() / 4).backward()
    assert sent.get_total_counts() == 2 * 2, sent.get_comm_counts()
    torch.testing.assert_close(inputs[1].grad / world, inputs[0].grad[mine], rtol=1e-4, atol=1e-6)
    for (name, expected), found in zip(whole.named_parameters(), own.parameters(), strict=True):
        dist.all_reduce(found.grad)
        # The bias before a norm has no gradient but rounding.
        bound = 1e-4 * max(1.0, float(expected.grad.abs().max()))
        assert (found.grad / world - expected.grad).abs().max() < bound, name
    for (name, expected), found in zip(whole.named_buffers(), own.named_buffers(), strict=True):
        torch.testing.assert_close(found[1], expected, rtol=1e-5, atol=1e-6, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(own.eval()(images), whole.eval()(images), rtol=1e-4, atol=1e-4)


def test_two_and_three_processes_normalise_as_one():
    for world in (2, 3):
        start(compare, world)
