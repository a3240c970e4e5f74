"""Everything that is counted while a step runs: bytes of the tensors that exist, bytes sent to others, FLOPs."""

from collections import Counter
from collections.abc import Mapping
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from internlm.monitor.live_memory import LiveMemory
from internlm.trunk.backbone import Backbone

aten = torch.ops.aten
INNER = "inner"
_COLLECTIVES = {
    "allreduce_": "all-reduce",
    "_allgather_base_": "all-gather",
    "allgather_": "all-gather",
    "_reduce_scatter_base_": "reduce-scatter",
}
# The fused attention of the CPU, which torch's own counter does not know.
_FLOPS = flop_registry | {
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[aten._scaled_dot_product_flash_attention_backward],
}


class Meter(LiveMemory):
    """Counts what one process does on fake tensors.

    ``whole``: bytes of the whole tensors of its collectives by ``<axis> <collective>``; ``axes`` names the axis of a group by its
    ranks. ``flops`` as ``torch.utils.flop_counter`` counts: two per multiply-add, attention as the full square.

    ``peaks``: the highest ``live``, and what of it were copies of weights (gathered, or in the compute dtype), by segment of the
    step. A segment begins where a trunk's first or last block is entered or left, forward or backward: from one depth of a trunk
    to another its peak is linear, which the peak of the whole step is not. ``INNER`` ends the names of those between.
    """

    def __init__(self, axes: Mapping[tuple[int, ...], str]) -> None:
        super().__init__()
        self._axes, self.whole, self.flops = axes, Counter(), 0
        self.copies, self._copies = 0, set()
        self.peaks: dict[tuple[int, str], tuple[int, int]] = {}
        self._passes, self._segment = 0, (0, "outside")

    def follow(self, module: nn.Module) -> None:
        """Begin segments at the blocks of a module's trunks."""
        for trunk in (part for part in module.modules() if isinstance(part, Backbone)):
            last = len(trunk.blocks) - 1
            for index, block in enumerate(trunk.blocks):
                place = "first" if index == 0 else "last" if index == last else INNER
                block.register_forward_pre_hook(partial(self._enter, place, index == 0))
                block.register_forward_hook(partial(self._leave, place, index == last))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(function, types, args, kwargs)
        if result is NotImplemented:
            return result
        if function.namespace == "c10d":
            self._send(function, args)
        elif (count := _FLOPS.get(function._overloadpacket)) is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        elif function is aten._to_copy.default and isinstance(args[0], nn.Parameter):
            self._is_copy(result.untyped_storage())
        self._note()
        return result

    def _send(self, function, args) -> None:
        group = dist.ProcessGroup.unbox(next(argument for argument in args if isinstance(argument, torch.ScriptObject)))
        axis = self._axes.get(tuple(dist.get_process_group_ranks(group)), "world")
        kind = _COLLECTIVES[function._schema.name.removeprefix("c10d::")]
        self.whole[f"{axis} {kind}"] += max(_size(argument) for argument in args[:2])  # output and input: one is not divided

    def _resized(self, storage: torch.UntypedStorage) -> None:
        super()._resized(storage)
        if storage._cdata not in self._copies:
            self._is_copy(storage)
        self._note()

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage.device.type != "meta":
            return  # no fake tensor's: of the host, some of them made once and kept for ever
        before = self._sizes.get(storage._cdata, 0)
        super()._see(storage)
        if storage._cdata in self._copies:
            self.copies += storage.nbytes() - before

    def _is_copy(self, storage: torch.UntypedStorage) -> None:
        self._copies.add(storage._cdata)
        self.copies += storage.nbytes()

    def _forget(self, key: int) -> None:
        if key in self._copies:
            self._copies.remove(key)
            self.copies -= self._sizes.get(key, 0)
        super()._forget(key)

    def _note(self) -> None:
        if self.live > self.peaks.get(self._segment, (-1,))[0]:
            self.peaks[self._segment] = self.live, self.copies

    def _begin(self, place: str) -> None:
        self._segment = self._passes, place
        self._note()

    def _enter(self, place: str, first: bool, module: nn.Module, arguments: tuple) -> None:
        self._begin(place)
        if first and arguments[0].requires_grad:
            arguments[0].register_hook(lambda gradient: self._end())

    def _leave(self, place: str, last: bool, module: nn.Module, arguments: tuple, output: Tensor) -> None:
        if last:
            self._end()
        if output.requires_grad:
            output.register_hook(lambda gradient: self._begin(place))

    def _end(self) -> None:
        self._passes += 1
        self._begin("outside")


def _size(argument) -> int:
    if isinstance(argument, Tensor):
        return argument.nbytes
    return sum(map(_size, argument)) if isinstance(argument, list | tuple) else 0
