"""Our weights in the published project's layout, split as its tensor-parallel ranks hold them."""

import re

import torch

from internlm.systems.egoagent.config import ModelConfig
from internlm.systems.egoagent.network import EgoNetwork

HIDDEN, HEADS, LAYERS = 32, 4, 2
SECTION = {
    "hidden_size": HIDDEN, "num_layers": LAYERS, "num_attention_heads": HEADS, "mlp_ratio": 8 / 3, "layer_norm_epsilon": 1e-6,
    "output_dim": 20, "norm_type": "rmsnorm", "dtype": torch.float16, "perframe_atten": True, "use_cls_token": True,
    "lvm_config": {"enable": False, "enable_conv_stem": True, "conv_stem_config": {"img_size": 16, "patch_size": 8}},
}  # fmt: skip
MODEL = ModelConfig(
    hidden_size=HIDDEN, num_layers=LAYERS, num_heads=HEADS, image_size=16, local_image_size=8, patch_size=8,
    head_hidden=24, head_bottleneck=12, prototypes=20,
)  # fmt: skip
TRUNK = {
    "attention.qkv.": "mixer.Wqkv.", "attention.out.": "mixer.out_proj.", "mlp.gate.": "mlp.w1.", "mlp.up.": "mlp.w2.",
    "mlp.down.": "mlp.w3.", "attention_norm.": "norm1.", "mlp_norm.": "norm2.",
}  # fmt: skip


def network(seed=0, actions=False) -> EgoNetwork:
    """Random weights, biases and running statistics: nothing is 0 or 1 by its initialisation."""
    torch.manual_seed(seed)
    made = EgoNetwork(MODEL, actions=actions)
    for tensor in made.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.1)
    return made.eval()


def upstream_name(name: str) -> str:
    if name.startswith("backbone.blocks."):
        head, _, rest = name.removeprefix("backbone.").partition(".")[2].partition(".")
        ours = next(part for part in TRUNK if rest.startswith(part))
        return f"blocks.{head}.{TRUNK[ours]}{rest.removeprefix(ours)}"
    plain = {"backbone.norm.weight": "norm.weight", "state_query": "embedding.cls_token"}
    plain["head.prototypes"] = "head.last_layer.weight_v"
    if name in plain:
        return plain[name]
    return re.sub("^head.layers.", "head.mlp.", re.sub("^stem.layers.", "embedding.conv_stem.proj.", name))


def shard(name: str, tensor: torch.Tensor, rank: int, ranks: int) -> torch.Tensor | None:
    """What one tensor-parallel rank holds of a tensor under upstream's name."""
    if ".Wqkv." in name:  # whole heads of each of q, k and v
        return torch.cat([block.chunk(ranks)[rank] for block in tensor.chunk(3)])
    if name.endswith((".w1.weight", ".w2.weight")):
        return tensor.chunk(ranks)[rank]
    if name.endswith((".w3.weight", ".out_proj.weight")):
        return tensor.chunk(ranks, dim=1)[rank]
    if name.endswith(".out_proj.bias") and rank:
        return None
    return tensor.view(1, 1, -1) if name.endswith("cls_token") else tensor


def write(folder, tensors, ranks=1, section=SECTION, extra=(), prefix="model."):
    """A step folder as upstream saves it, with the tensors beside the network that its files hold."""
    folder.mkdir(parents=True)
    computed = {f"blocks.{i}.mixer.rotary_emb.inv_freq": 10_000.0 ** -(torch.arange(0, 8, 2) / 8) for i in range(LAYERS)}
    computed["head.last_layer.weight_g"] = torch.ones(20, 1)
    computed["embedding.vq_model.quantize.embedding.weight"] = torch.zeros(4, 2)
    for rank in range(ranks):
        state = {upstream_name(name): shard(upstream_name(name), tensor, rank, ranks) for name, tensor in tensors.items()}
        state = {name: tensor.clone() for name, tensor in state.items() if tensor is not None} | computed | dict(extra)
        torch.save({prefix + name: tensor for name, tensor in state.items()}, folder / f"model_tp{rank}_pp0.pt")
    if section is not None:
        torch.save(section, folder / "model_config.pt")
    return folder
