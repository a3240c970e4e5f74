"""Divide an agent and its loss over a mesh: tensor parallel, activation checkpointing, compile, fully_shard, in that order."""

from functools import partial

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from internlm.config.schema import ParallelConfig
from internlm.core.mesh import Mesh
from internlm.systems.egoagent.loss import JointLoss
from internlm.systems.egoagent.network import EgoAgent, EgoNetwork

from .norm import synchronise_batch_norms
from .plan import divide


def parallelise(agent: EgoAgent, loss: JointLoss, config: ParallelConfig, mesh: Mesh, dtype: torch.dtype) -> None:
    """Prepare an agent and its loss for training on a mesh, in place.

    Every process holds the whole agent with equal weights before, and parameter names stay what they were. ``dtype`` is the
    compute dtype: weights travel between processes in it, gradients in float32. In a world of one only activation
    checkpointing and compile have an effect. Engine deepspeed divides parameters itself, afterwards.
    """
    if not mesh.alone:
        loss.spread_over(mesh.data, mesh.tp)
    for network in (agent.predictor, agent.observer):
        if not mesh.alone:
            synchronise_batch_norms(network, mesh.data)
        if mesh.tp.size > 1:
            divide(network, mesh.tp, sequence=config.sequence_parallel)
        if network is agent.predictor:
            _checkpoint_blocks(network, config.activation_checkpointing)
        if config.compile:
            for block in network.backbone.blocks:
                block.compile()
        if mesh.shards is not None and config.engine == "torch":
            # The observer runs without gradients: nothing would free its gathered weights, which would go stale.
            _shard(network, mesh.shards, dtype, keep=config.zero == 2 and network is agent.predictor)


def _shard(network: EgoNetwork, mesh: DeviceMesh, dtype: torch.dtype, *, keep: bool) -> None:
    # Inputs are left alone: autocast decides there, as it does in one process.
    param_dtype = None if dtype == torch.float32 else dtype
    policy = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    wrap = partial(fully_shard, mesh=mesh, mp_policy=policy, reshard_after_forward=not keep)
    for block in network.backbone.blocks:
        wrap(block)
    wrap(network.head)
    for method in ("bottleneck", "similarity"):
        register_fsdp_forward_method(network.head, method)
    wrap(network)
    if network.config.observer_attention == "clip":
        register_fsdp_forward_method(network, "encode_clip")


def _checkpoint_blocks(network: EgoNetwork, kind: str) -> None:
    """Recompute blocks in the backward pass. On the instance's forward, since a wrapping module would change names."""
    if kind == "none":
        return
    context = {} if kind == "full" else {"context_fn": partial(create_selective_checkpoint_contexts, _policy)}
    for block in network.backbone.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, **context)


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
