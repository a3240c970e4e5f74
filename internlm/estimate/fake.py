"""One process of any mesh on fake tensors: real shapes, the real division, no memory and no other process.

torch's fake process group answers every collective at once, ``FakeTensorMode`` computes shapes alone. Nothing is learned about
values or time. Kernels are the CPU's, attention its fused one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.utils._pytree import tree_leaves

from internlm.config.errors import ConfigError
from internlm.core.mesh import Mesh, open_mesh

CPU = torch.device("cpu")


@contextmanager
def fake_mesh(shape: tuple[int, int, int], rank: int) -> Iterator[Mesh]:
    """Process ``rank`` of a mesh, computing on fake tensors.

    ConfigError where this process belongs to a process group already.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise ConfigError("an estimate opens a process group of its own, and this process belongs to one: run it alone")
    size = shape[0] * shape[1] * shape[2]
    if size > 1:
        dist.init_process_group("fake", rank=rank, world_size=size, store=FakeStore())
    try:
        with open_mesh(shape, CPU) as mesh, _FakeDevice(allow_non_fake_inputs=True):
            yield mesh
    finally:
        if size > 1:
            dist.destroy_process_group()
            _clear_sharding_prop_cache()  # it remembers groups, which a later mesh of the same shape would call


def onto_fake(root: nn.Module) -> None:
    """Give a module on the meta device fake tensors; ``to_empty`` cannot replace parameters by fake ones."""
    for module in root.modules():
        for name, old in module._parameters.items():
            if old is not None:
                new = torch.empty(old.shape, dtype=old.dtype)
                module._parameters[name] = nn.Parameter(new, requires_grad=old.requires_grad)
        for name, old in module._buffers.items():
            if old is not None:
                module._buffers[name] = torch.empty(old.shape, dtype=old.dtype)


class _FakeDevice(FakeTensorMode):
    """Fake tensors stand for those of a device; what a step reads on the host must have values.

    That is what comes out of lists and numpy, positions and labels (int64), and what is computed of these alone.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(issubclass(kind, FakeTensor) for kind in types):
            return super().__torch_dispatch__(function, types, args, kwargs)
        given = any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs)))
        if given or kwargs.get("dtype") == torch.int64:
            return function(*args, **kwargs)
        return super().__torch_dispatch__(function, types, args, kwargs)
