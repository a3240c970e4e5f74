"""What processes tell each other. In a world of one each call returns its argument unchanged.

A ``Group`` is one axis of the mesh (``core/mesh.py``) and is passed to whoever needs it: callers state what they mean (a sum of
counts over the data group, a maximum over the vocabulary) and never ask how many processes there are. Two kinds of calls:

- ``sum``, ``mean``, ``max``, ``gathered`` carry no gradient: for statistics, counts and metrics.
- ``regions.py`` has those that do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

MESSAGE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Group:
    """Processes along one axis of the mesh, and this one's place among them. The default is a process on its own."""

    handle: "dist.ProcessGroup | None" = None
    size: int = 1
    rank: int = 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Element-wise sum; shape kept."""
        return self._reduced(tensor, "SUM")

    def mean(self, tensor: Tensor) -> Tensor:
        """Element-wise mean; right only where every process contributes the same number of samples."""
        return self._reduced(tensor, "SUM") / self.size if self.size > 1 else tensor

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their means over the group, in place, many in one message."""
        pieces: list[list[Tensor]] = []
        for tensor in tensors if self.size > 1 else ():
            if not pieces or sum(piece.nbytes for piece in pieces[-1]) + tensor.nbytes > MESSAGE_BYTES:
                pieces.append([])
            pieces[-1].append(tensor)
        for piece in pieces:
            means = self.mean(torch.cat([tensor.flatten() for tensor in piece])).split([tensor.numel() for tensor in piece])
            torch._foreach_copy_(piece, [mean.view_as(tensor) for mean, tensor in zip(means, piece, strict=True)])

    def max(self, tensor: Tensor) -> Tensor:
        """Element-wise maximum; shape kept."""
        return self._reduced(tensor, "MAX")

    def gathered(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """All processes' tensors of one shape, joined in rank order along ``dim``."""
        if self.size == 1:
            return tensor
        pieces = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(pieces, tensor.detach().contiguous(), group=self.handle)
        return torch.cat(pieces, dim)

    def texts(self, text: str) -> list[str]:
        """All processes' texts, in rank order; through main memory, so that the group must have a backend for it."""
        if self.size == 1:
            return [text]
        data = torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8)  # never empty
        sizes = self.gathered(torch.tensor([len(data)])).tolist()
        rows = self.gathered(torch.nn.functional.pad(data, (0, max(sizes) - len(data)))[None])
        return [row[: size - 1].numpy().tobytes().decode() for row, size in zip(rows, sizes, strict=True)]

    def _reduced(self, tensor: Tensor, operation: str) -> Tensor:
        if self.size == 1:
            return tensor
        result = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result, op=getattr(dist.ReduceOp, operation), group=self.handle)
        return result


ALONE = Group()


def is_lost_process(error: BaseException) -> bool:
    """Whether a collective failed because another process has ended or does not answer: torch has no class of its own for it."""
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error))


def world_size() -> int:
    """Number of processes that were started together."""
    return dist.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """Index of this process; 0 writes the run's files."""
    return dist.get_rank() if _is_distributed() else 0


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
