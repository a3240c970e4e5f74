"""Divide the parts of a system over a mesh: tensor parallel, activation checkpointing, compile, fully_shard, in that order."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from internlm.config.schema import ParallelConfig
from internlm.core.mesh import Mesh
from internlm.trunk.block import Block

from .norm import synchronise_batch_norms
from .plan import divide


def parallelise(module: nn.Module, config: ParallelConfig, mesh: Mesh, dtype: torch.dtype, *, trained: bool) -> None:
    """Prepare one part of a system for training on a mesh, in place.

    Every process holds it whole with equal weights before, and parameter names stay what they were. ``dtype`` is the compute
    dtype: weights travel between processes in it, gradients in float32. In a world of one only activation checkpointing and
    compile have an effect. Engine deepspeed divides parameters itself, afterwards. A module with a method ``spread_over`` has no
    layers to divide: it is told the groups of the data and of the prototypes (tensor parallel), and does the rest itself.
    """
    if not mesh.alone:
        if hasattr(module, "spread_over"):
            module.spread_over(mesh.data, mesh.tp)
            return
        synchronise_batch_norms(module, mesh.data)
    if mesh.tp.size > 1:
        divide(module, mesh.tp, sequence=config.sequence_parallel)
    blocks = [block for block in module.modules() if isinstance(block, Block)]
    if trained:
        _checkpoint_blocks(blocks, config.activation_checkpointing)
    if config.compile:
        for block in blocks:
            block.compile()
    if mesh.shards is not None and not mesh.whole and config.engine == "torch":
        # Without gradients nothing would free gathered weights, which would go stale.
        _shard(module, mesh.shards, dtype, keep=config.zero == 2 and trained)


def _shard(module: nn.Module, mesh: DeviceMesh, dtype: torch.dtype, *, keep: bool) -> None:
    # Inputs are left alone: autocast decides there, as it does in one process.
    param_dtype = None if dtype == torch.float32 else dtype
    policy = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    wrap = partial(fully_shard, mesh=mesh, mp_policy=policy, reshard_after_forward=not keep)
    units = [part for part in module.modules() if part is not module and (isinstance(part, Block) or hasattr(part, "called"))]
    for unit in (*units, module):
        wrap(unit)
        for method in getattr(unit, "called", ()):
            register_fsdp_forward_method(unit, method)


def free_gathered(module: nn.Module) -> None:
    """Free the weights that a forward pass without a backward one has left gathered, and which would go stale."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def _checkpoint_blocks(blocks: list[Block], kind: str) -> None:
    """Recompute blocks in the backward pass. On the instance's forward, since a wrapping module would change names."""
    if kind == "none":
        return
    context = {} if kind == "full" else {"context_fn": partial(create_selective_checkpoint_contexts, _policy)}
    for block in blocks:
        forward = block.forward if kind == "full" else partial(_uncached, block.forward)
        block.forward = partial(checkpoint, forward, use_reentrant=False, **context)


def _uncached(forward: Callable[..., Tensor], x: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """Selective recomputing must meet the operations of the first time, which autocast's copies of weights would leave out."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return forward(x, *arguments, **options)
    with torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), cache_enabled=False):
        return forward(x, *arguments, **options)


def _policy(context, operation, *arguments, **options) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _COSTLY else CheckpointPolicy.PREFER_RECOMPUTE


_COSTLY = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
}
