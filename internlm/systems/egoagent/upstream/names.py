"""The published project's tensor names, ours, and how its tensor-parallel ranks share each tensor.

The trunk's names and splits are InternLM's, on which that project builds: fused QKV and the first two FFN matrices are
split by rows (QKV inside each of its three blocks), the output projections by columns, everything else is a copy on every
rank. The names of the stem, the summary token, the head and the action parts are not public; those here are the likely
ones, and ``egoagent import --rename`` mends what differs.
"""

import re
from typing import Literal

Split = Literal["qkv", "rows", "columns", "copy", "first", "copy or rows"]

# Upstream's name, ours, and how the ranks share it.
NAMES: tuple[tuple[str, str, Split], ...] = (
    (r"blocks\.(\d+)\.mixer\.Wqkv\.(weight|bias)", r"backbone.blocks.\1.attention.qkv.\2", "qkv"),
    (r"blocks\.(\d+)\.mixer\.out_proj\.weight", r"backbone.blocks.\1.attention.out.weight", "columns"),
    # A row-parallel layer adds its bias once: only rank 0 has it, or all have the same.
    (r"blocks\.(\d+)\.mixer\.out_proj\.bias", r"backbone.blocks.\1.attention.out.bias", "first"),
    (r"blocks\.(\d+)\.mlp\.w1\.weight", r"backbone.blocks.\1.mlp.gate.weight", "rows"),
    (r"blocks\.(\d+)\.mlp\.w2\.weight", r"backbone.blocks.\1.mlp.up.weight", "rows"),
    (r"blocks\.(\d+)\.mlp\.w3\.weight", r"backbone.blocks.\1.mlp.down.weight", "columns"),
    (r"blocks\.(\d+)\.norm1\.weight", r"backbone.blocks.\1.attention_norm.weight", "copy"),
    (r"blocks\.(\d+)\.norm2\.weight", r"backbone.blocks.\1.mlp_norm.weight", "copy"),
    (r"norm\.weight", "backbone.norm.weight", "copy"),
    (r"(?:embedding\.)?conv_stem\.(?:proj\.)?(\d+\..+)", r"stem.layers.\1", "copy"),
    (r"(?:embedding\.)?(?:cls_token|state_query)", "state_query", "copy"),
    (r"(?:embedding\.)?action_query", "action_query", "copy"),
    (r"(?:dino_)?head\.mlp\.(.+)", r"head.layers.\1", "copy"),
    (r"(?:dino_)?head\.last_layer\.(?:weight_v|parametrizations\.weight\.original1)", "head.prototypes", "copy or rows"),
    (r"(pose_projector|pose_head|context_projector)\.(?:layers\.)?(.+)", r"\1.layers.\2", "copy"),
)

# Tensors that this network computes or has no use for. The first two are compared with what it computes.
ROTARY = re.compile(r"blocks\.\d+\.mixer\.rotary_emb\.inv_freq")
GAIN = re.compile(r"(?:dino_)?head\.last_layer\.(?:weight_g|parametrizations\.weight\.original0)")
CODEBOOK = re.compile(r"embedding\.(?:vq_model|embed_proj|word_embeddings)\..+|embedding\.weight")
# Sizes of the head that upstream's config leaves to its code: the length of these tensors.
HEAD_SIZES = {
    "head_hidden": re.compile(r"(?:dino_)?head\.mlp\.0\.bias"),
    "head_bottleneck": re.compile(r"(?:dino_)?head\.mlp\.4\.bias"),
}
