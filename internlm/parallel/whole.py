"""Between a divided model and whole tensors: what checkpoints hold is independent of the mesh."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from internlm.core.mesh import Mesh

from .plan import cut_of


def gathered(tensors: Mapping[str, Tensor], mesh: Mesh) -> Iterator[tuple[str, Tensor]]:
    """(name, whole tensor) one after the other, so that only one is whole at a time. All processes must iterate to the end.

    In a world of one the tensors are returned as they are; otherwise they lie in main memory on the process that writes and are
    empty on the others.
    """
    for name, tensor in tensors.items():
        if mesh.alone:
            yield name, tensor
            continue
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()
        cut = cut_of(_parameter(name))
        if cut is not None and mesh.tp.size > 1 and tensor.ndim:
            whole = cut.whole(whole, mesh.tp)
        yield name, whole.cpu().clone() if mesh.writes else torch.empty(0)


def share_of(name: str, whole: Tensor, like: Tensor, mesh: Mesh) -> Tensor:
    """This process's part of a whole tensor, divided as ``like`` is: a DTensor where that is one, on its device."""
    cut = cut_of(_parameter(name))
    if cut is not None and mesh.tp.size > 1 and whole.ndim:
        whole = cut.share(whole, mesh.tp)
    whole = whole.to(like.device)
    if isinstance(like, DTensor):
        return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return whole


def load_whole(module: torch.nn.Module, tensors: Mapping[str, Tensor], mesh: Mesh) -> None:
    """``load_state_dict`` of whole tensors into a divided module. Raises RuntimeError for missing or foreign names and shapes."""
    own = module.state_dict()
    module.load_state_dict({name: share_of(name, t, own[name], mesh) if name in own else t for name, t in tensors.items()})


def _parameter(name: str) -> str:
    """The parameter that a tensor belongs to: optimizer states are called ``<parameter>/<quantity>``."""
    return name.partition("/")[0]
