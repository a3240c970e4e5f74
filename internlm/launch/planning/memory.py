"""Bytes of memory that one process of a mesh needs: arithmetic on the shapes of a workload, and blocks run on the meta device.

The sum is the moment at which a micro-step's backward pass begins: states, gathered weights and all that autograd kept. Left out:
what single operations allocate for themselves, buffers of the collectives, the CUDA context and the allocator's slack.
"""

import torch

from internlm.config.schema import ParallelConfig
from internlm.core.collectives import ALONE
from internlm.modality.frames import ConvStem
from internlm.monitor.live_memory import LiveMemory
from internlm.parallel.norm import SyncedBatchNorm, synchronise_batch_norms
from internlm.trunk.backbone import ffn_width

from . import activations as memory
from .workload import GRADIENT_BYTES, Pass, Workload


def memory_of(work: Workload, mesh: ParallelConfig) -> memory.Memory:
    """Bytes of one process: states in shards, gathered weights, and what autograd keeps of one micro-step."""
    shards, tp = mesh.dp_shard, mesh.tp
    networks = {"whole": work.rest, "trained": work.trained_rest, "observed": work.observer_rest}
    common = sum(unit.elements(shards, tp) for unit in [*work.blocks, work.head])
    held = {name: (common + rest.elements(shards, tp)) // shards for name, rest in networks.items()}
    return memory.Memory(
        parameters=4 * held["whole"],
        gradients=GRADIENT_BYTES * held["trained"],
        optimizer=8 * held["trained"],
        observer=4 * held["observed"],
        working_copy=_gathered(work, mesh),
        activations=activations_of(work, mesh),
    )


def _gathered(work: Workload, mesh: ParallelConfig) -> int:
    """Weights gathered at the worst moment, and the whole gradients that wait to be reduced: of two blocks and the head.

    A weight's gradients of several passes (global and local views) are one sum, which is reduced after the last of them: when the
    first is through, whole gradients of all blocks lie where its activations were.
    """
    tp, size = mesh.tp, work.weight_bytes
    blocks, block = (sum(unit.elements(1, tp) for unit in units) for units in (work.blocks, work.blocks[:1]))
    outside = work.head.elements(1, tp) + work.rest.elements(1, tp)
    if mesh.dp_shard == 1 and mesh.dp_replicate == 1 and tp == 1:
        return size * (blocks + outside) if work.half else 0
    held = blocks + outside if mesh.zero == 2 else min(2 * block, blocks) + outside
    waiting = (size + GRADIENT_BYTES) * max(min(2 * block, blocks), outside)
    for passes in work.passes().values():
        if len(passes) > 1:
            waiting = max(waiting, size * blocks - _blocks_bytes(work, passes[-1], mesh))
    return size * held + waiting


def activations_of(work: Workload, mesh: ParallelConfig) -> int:
    """Bytes of activations at the worst moment, of two.

    When the backward pass begins: what autograd kept, and of a block that is checkpointed the part it repeats. When it ends: what
    the stem's backward pass makes, whose images are large and whose batch norms work in float32.
    """
    passes, again = [p for passes in work.passes().values() for p in passes], 0
    if mesh.activation_checkpointing == "full":
        again = max(_block_bytes(work, p, mesh) for p in passes)
    elif mesh.activation_checkpointing == "selective":
        layers = work.config.model.num_layers
        again = max(_block_bytes(work, p, mesh) - _blocks_bytes(work, p, mesh) // layers for p in passes)
    return max(kept_of(work, mesh) + again, *(_stem_bytes(work, mesh, kind)[1] for kind in work.passes()))


def kept_of(work: Workload, mesh: ParallelConfig) -> int:
    """Bytes that autograd keeps of a micro-step: the model's own count in one process, the blocks' part as this mesh has it."""
    kinds = work.passes().values()
    plain = max(sum(_blocks_bytes(work, p, ParallelConfig()) for p in passes) for passes in kinds)
    divided = max(sum(_blocks_bytes(work, p, mesh) for p in passes) for passes in kinds)
    stem = max(_stem_bytes(work, mesh, kind)[0] - _stem_bytes(work, ParallelConfig(), kind)[0] for kind in work.passes())
    return max(work.activations - plain, 0) + stem + divided


def _blocks_bytes(work: Workload, p: Pass, mesh: ParallelConfig) -> int:
    model, size = work.config.model, work.weight_bytes
    tokens = p.sequences * p.length
    own_tokens = -(-p.length // mesh.tp) * p.sequences if work.sequence(mesh) else tokens
    if mesh.activation_checkpointing == "full":
        return model.num_layers * size * own_tokens * model.hidden_size
    whole = model.num_layers * _block_bytes(work, p, mesh)
    if mesh.activation_checkpointing == "none":
        return whole
    inner = ffn_width(model.hidden_size, model.mlp_ratio, model.mlp_multiple_of)
    products = tokens * (4 * model.hidden_size + 2 * inner) // mesh.tp  # QKV and the mix of values; gate and up
    # The block's input, and two products whose sums over tp are taken of all tokens before they are divided.
    return min(whole, model.num_layers * size * (products + (own_tokens + 2 * tokens) * model.hidden_size))


def _block_bytes(work: Workload, p: Pass, mesh: ParallelConfig) -> int:
    """What autograd keeps of one block, measured on the meta device with the layers as narrow as tp makes them."""
    key = (p, mesh.tp, work.sequence(mesh))
    if key not in work.block_bytes:
        work.block_bytes[key] = memory.block_bytes(
            work.config.model, p.sequences, p.length, tp=mesh.tp, sequence_parallel=work.sequence(mesh),
            dtype=torch.bfloat16 if work.half else torch.float32,
        )  # fmt: skip
    return work.block_bytes[key]


def _stem_bytes(work: Workload, mesh: ParallelConfig, kind: str) -> tuple[int, int]:
    """What autograd keeps of the stem in the first pass of a kind, and what there is at most in its backward pass."""
    model, together = work.config.model, mesh.dp_replicate * mesh.dp_shard * mesh.tp > 1
    key = ("stem", kind, together)
    if key not in work.block_bytes:
        images = work.images * work.config.data.crops.global_crops
        if kind == "clip":
            images = work.clips * work.config.data.clip.steps
        dtype = torch.bfloat16 if work.half else torch.float32
        with torch.device("meta"):
            stem = ConvStem(model.hidden_size, model.patch_size, model.stem_norm).to(dtype)
            pixels = torch.empty(images, 3, model.image_size, model.image_size, dtype=dtype)
        if together:
            synchronise_batch_norms(stem, ALONE)
            for module in stem.modules():
                if isinstance(module, SyncedBatchNorm):
                    module.float()  # like their statistics
        with LiveMemory() as live:
            tokens = stem(pixels)
            kept = live.live
            tokens.sum().backward()
        work.block_bytes[key] = kept, live.peak
    return work.block_bytes[key]
