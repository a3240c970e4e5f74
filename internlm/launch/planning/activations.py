"""Estimated memory of one GPU in training: the states by arithmetic, the activations by running the losses on the meta device.

    states       = (4 weights + 4 gradients + 8 Adam) bytes x trained parameters / (dp_shard x tp)
                 + 4 bytes x observer parameters / (dp_shard x tp)
    working copy = 2 bytes (bfloat16) x trained parameters / tp, or of two blocks where dp_shard > 1; none in float32
    activations  = what autograd saves in one micro-step, with attention as a fused kernel does it; taken as if tensor
                   parallelism did not divide them

Left out: the CUDA context, the allocator's slack and the communication buffers; plan for a fifth more.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.config import ModelConfig
from internlm.systems.egoagent.cost import clip_inputs, count
from internlm.systems.egoagent.loss import JointLoss
from internlm.systems.egoagent.network import EgoAgent
from internlm.trunk.backbone import ffn_width
from internlm.trunk.block import Block
from internlm.trunk.rope import RotaryEmbedding


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    parameters: int
    gradients: int
    optimizer: int
    observer: int
    working_copy: int
    activations: int

    def as_dict(self) -> dict[str, int]:
        """The parts and their sum."""
        parts = asdict(self)
        return {**parts, "total": sum(parts.values())}


def estimate(config: Config, agent: EgoAgent, *, images: int, clips: int) -> Memory:
    """Memory of one process for a micro-step of so many images and clips. Converts ``agent`` (on meta) to the compute dtype."""
    mesh, half = config.parallel, config.train.dtype != "float32"
    trained, observed = count(agent.predictor), count(agent.observer)
    shards = mesh.dp_shard * mesh.tp
    copied = 2 * count(agent.predictor.backbone.blocks[0]) if mesh.dp_shard > 1 else trained
    return Memory(
        parameters=4 * trained // shards,
        gradients=4 * trained // shards,
        optimizer=8 * trained // shards,
        observer=4 * observed // shards,
        working_copy=2 * copied // mesh.tp if half else 0,
        activations=activations(config, agent, images, clips),
    )


def activations(config: Config, agent: EgoAgent, images: int, clips: int) -> int:
    """Bytes that autograd keeps of a micro-step: the larger of its image and its clip part, each with a backward of its own.

    Converts ``agent`` (on meta) to the compute dtype.
    """
    dtype = torch.float32 if config.train.dtype == "float32" else torch.bfloat16
    agent.to(dtype)
    with torch.device("meta"):
        loss = JointLoss(config.loss, config.model.prototypes)
    model, crops = config.model, config.data.crops

    def views(number: int, size: int) -> Tensor:
        return torch.empty(number, images, 3, size, size, device="meta", dtype=dtype)

    largest = 0
    if images:
        batch = [views(crops.global_crops, model.image_size)]
        if crops.local_crops:
            batch.append(views(crops.local_crops, model.local_image_size))
        largest = _saved_bytes(agent, lambda: loss.image_loss(agent.predictor, agent.observer, batch, 0.04))
    if clips:
        frames, actions = clip_inputs(config, clips, dtype)
        run = _saved_bytes(agent, lambda: loss.clip_loss(agent.predictor, agent.observer, frames, frames, actions, 0.04))
        largest = max(largest, run)
    return largest


def block_bytes(
    config: ModelConfig, batch: int, length: int, *, tp: int, sequence_parallel: bool, dtype: torch.dtype
) -> int:
    """Bytes that autograd keeps of one block on ``batch`` sequences of ``length`` tokens, its layers divided by ``tp``.

    With sequence parallelism what lies between the layers (the block's inputs and its norms) is divided too.
    """
    inner = ffn_width(config.hidden_size, config.mlp_ratio, config.mlp_multiple_of)
    hidden, heads = config.hidden_size, config.num_heads
    with torch.device("meta"):
        block = Block(hidden, heads, inner, config.norm_eps)
        if tp > 1:
            block.attention.qkv, block.attention.out = nn.Linear(hidden, 3 * hidden // tp), nn.Linear(hidden // tp, hidden)
            block.mlp.gate, block.mlp.up = (nn.Linear(hidden, inner // tp, bias=False) for _ in range(2))
            block.mlp.down = nn.Linear(inner // tp, hidden, bias=False)
        rotary = RotaryEmbedding(hidden // heads, config.rope_base)(length, torch.device("meta"))
    block.to(dtype)
    tokens = torch.empty(batch, length, hidden, device="meta", dtype=dtype, requires_grad=True)
    kept = _saved_bytes(block, lambda: block(tokens, rotary, None))
    if not sequence_parallel:
        return kept
    between = _saved_bytes(block, lambda: (block.attention_norm(tokens), block.mlp_norm(tokens + 0)))
    return kept - between + -(-between // tp)


def _saved_bytes(agent: nn.Module, forward) -> int:
    """Bytes of the distinct storages that autograd saves during ``forward``, weights excluded."""
    weights = {parameter.untyped_storage()._cdata for parameter in agent.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}  # holding the storages keeps their ids from being reused

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), _FusedAttention():
        result = forward()
    del result
    return sum(storage.nbytes() for storage in saved.values())


class _FusedAttention(TorchFunctionMode):
    """Attention as a fused kernel saves it; the meta device would take it apart into products of whole matrices."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not F.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        mask = kwargs.get("attn_mask")
        if mask is not None:
            mask = torch.empty(mask.shape, dtype=args[0].dtype, device=args[0].device)
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return flash(*args, is_causal=kwargs.get("is_causal", False), attn_mask=mask)[0]
