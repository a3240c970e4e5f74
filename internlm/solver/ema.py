"""The observer follows the predictor: exponential moving average of the parameters both have (spec §2.7)."""

import torch
from torch import Tensor, nn


class MovingAverage:
    """Moves ``target`` towards ``source``: t ← m·t + (1 − m)·s over the target's parameters.

    Buffers (BatchNorm's running statistics) of a target in eval mode are copied from the source; a target in training
    mode measures its own in every forward pass, and those fit its weights better than the source's.
    The target may lack parts of the source (the observer has no action parts), never the other way round.
    Pairs are looked up once; an update is a few fused kernels. Both are divided over processes alike or not at all, so that each
    process moves its own shards.
    """

    def __init__(self, source: nn.Module, target: nn.Module) -> None:
        sources = dict(source.named_parameters())
        targets = dict(target.named_parameters())
        unmatched = sorted(targets.keys() - sources.keys())
        if unmatched:
            raise ValueError(f"the observer has parameters that the predictor lacks: {unmatched[:5]}")
        self._sources = [_local(sources[name]) for name in targets]
        self._targets = [_local(parameter) for parameter in targets.values()]
        self._target = target
        buffers = dict(source.named_buffers())
        shared = [(buffer, buffers[name]) for name, buffer in target.named_buffers() if name in buffers]
        self._buffer_pairs = [(own, other) for own, other in shared if own.shape == other.shape]

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """One update after an optimizer step; momentum 1 leaves the parameters as they are."""
        torch._foreach_lerp_(self._targets, self._sources, 1.0 - momentum)
        if not self._target.training:
            # Running statistics have their own momentum: averaging them once more would only make them late.
            for own, other in self._buffer_pairs:
                own.copy_(other)


def _local(parameter: nn.Parameter) -> Tensor:
    """The tensor itself, or this process's shard of it, whose storage stays the same through a run."""
    return parameter.to_local().detach() if hasattr(parameter, "to_local") else parameter.detach()
