"""Which boxes of the whole tensors lie on this process, after tensor parallelism and ``fully_shard`` have divided them.

Checkpoints are written from these and read into them, so that what is on disk is independent of the mesh.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from internlm.core.boxes import Piece, Share
from internlm.core.mesh import Mesh

from .plan import Cut


def shares(tensors: Mapping[str, Tensor], mesh: Mesh, cuts: Mapping[str, Cut]) -> dict[str, Share]:
    """This process's share of each tensor, as views of its memory.

    Names are those of a module's parameters and buffers, or ``<parameter>/<quantity>`` of optimizer states; ``cuts``: how tensor
    parallelism cuts those of one dimension or more (``plan.cuts``). Of what several processes hold, one saves it, and the bytes
    are spread evenly over them. Raises ValueError for a DTensor that is neither divided in shards nor copied.
    """
    given: dict[int, list[int]] = {}  # bytes that each of so many equal processes was given to save
    found = {}
    for name, tensor in tensors.items():
        held = _held(name, tensor, mesh)
        cut = cuts.get(name.partition("/")[0]) if tensor.ndim and mesh.tp.size > 1 else None
        shape = list(tensor.shape)
        if cut is None:
            pieces = (Piece(held.offset, held.local),)
            copy, copies = held.copy * mesh.tp.size + mesh.tp.rank, held.copies * mesh.tp.size
        else:
            pieces = tuple(cut.pieces(held.local, held.offset, shape[cut.dim], mesh.tp))
            shape[cut.dim] *= mesh.tp.size
            copy, copies = held.copy, held.copies
        loads = given.setdefault(copies, [0] * copies)
        saver = loads.index(min(loads))
        loads[saver] += tensor.numel() * tensor.element_size()
        # An empty shard has nothing to write, unless the whole tensor is empty.
        kept = tuple(piece for piece in pieces if piece.tensor.numel() or not tensor.numel())
        found[name] = Share(tuple(shape), kept, saved=copy == saver)
    return found


@dataclass(frozen=True)
class _Held:
    """What the data-parallel division left here of a tensor that is whole in a tensor-parallel process."""

    local: Tensor
    offset: tuple[int, ...]
    copy: int  # which of the processes that hold the same this is
    copies: int


def _held(name: str, tensor: Tensor, mesh: Mesh) -> _Held:
    if not isinstance(tensor, DTensor):
        return _Held(tensor.detach(), (0,) * tensor.ndim, mesh.data.rank, mesh.data.size)
    offset, copy, copies = [0] * tensor.ndim, 0, 1
    for axis, placement in enumerate(tensor.placements):
        rank, size = tensor.device_mesh.get_local_rank(axis), tensor.device_mesh.size(axis)
        if type(placement) is Shard:
            length = tensor.shape[placement.dim]
            offset[placement.dim] = min(rank * -(-length // size), length)
        elif type(placement) is Replicate:
            copy, copies = copy * size + rank, copies * size
        else:
            raise ValueError(
                f"{name} is placed as {placement}, of which no process holds a box; divide models by parallel.apply.parallelise, "
                "which places shards and copies only"
            )
    return _Held(tensor.detach().to_local(), tuple(offset), copy, copies)
