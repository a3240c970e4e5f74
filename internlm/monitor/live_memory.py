"""Bytes of all tensors that exist, followed operation by operation: what a step really holds, on the CPU or on fake tensors.

torch's own MemTracker refuses a module that is called twice before a backward pass, which every multi-crop step does.
"""

import weakref
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """``live`` and ``peak`` are bytes of the storages that exist, of those that ``watch`` was shown or that were made inside.

    Not seen: what a kernel allocates for itself, and an allocator's rounding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._references: dict[int, weakref.ref] = {}

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that exist already; of a DTensor its local shard."""
        for tensor in tensors:
            self._see((tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage())

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes back with the local shards
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf.untyped_storage())
        return result

    def __enter__(self):
        self._resize = resize = torch.UntypedStorage.resize_

        def followed(storage, size):
            resize(storage, size)
            self._resized(storage)
            return storage

        torch.UntypedStorage.resize_ = followed  # how fully_shard frees and allocates gathered weights
        return super().__enter__()

    def __exit__(self, *error):
        torch.UntypedStorage.resize_ = self._resize
        return super().__exit__(*error)

    def _resized(self, storage: torch.UntypedStorage) -> None:
        self._see(storage)

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._references:
            self._references[key] = weakref.ref(storage, lambda _: self._forget(key))
        self.live += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)
        self._references.pop(key, None)
