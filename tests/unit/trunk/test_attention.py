"""The mask rule as FlexAttention's block mask, for every kind of sequence, and kernels that cannot run say what they lack."""

import importlib.util

import pytest
import torch
from pydantic import ValidationError
from torch.nn.attention.flex_attention import flex_attention

from internlm.config.errors import ConfigError
from internlm.core.init import choose_device
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.config import ModelConfig
from internlm.systems.egoagent.network import EgoNetwork
from internlm.systems.egoagent.sequence import clip_layout, frame_layout
from internlm.trunk.attention import sdpa
from internlm.trunk.kernels import missing, use_attention
from internlm.trunk.layout import Layout

CPU = torch.device("cpu")
LAYOUTS = {
    "frame, causal": frame_layout(6, "causal"),
    "frame, block": frame_layout(6, "block"),
    "clip observer, causal": frame_layout(60, "causal", 5),
    "clip observer, block": frame_layout(60, "block", 5),
    "predictor, causal": clip_layout(60, 4, "causal"),
    "predictor, block": clip_layout(60, 4, "block"),
    "predictor, half without images": clip_layout(60, 6, "block", frames=3),
    "poses only": clip_layout(0, 9, "block", frames=0),
    # Masked any-to-any: two visible tokens, then two groups of hidden ones that see the visible and their own group.
    "two groups": Layout(
        step=torch.zeros(6, dtype=torch.int64),
        rank=torch.tensor([0, 0, 1, 1, 1, 1]),
        group=torch.tensor([0, 0, 1, 1, 2, 2]),
        readable=torch.tensor([True, True, False, False, False, False]),
        index={},
    ),
}


def rule(layout: Layout) -> torch.Tensor:
    """The four-label rule, written out pair by pair."""
    label = list(zip(*(x.tolist() for x in (layout.step, layout.rank, layout.group, layout.readable)), strict=True))
    earlier = lambda q, k: k[3] and (k[0] < q[0] or (k[0] == q[0] and k[1] < q[1]))  # noqa: E731
    return torch.tensor([[bool(earlier(q, k) or q[:3] == k[:3]) for k in label] for q in label])


@pytest.mark.parametrize("name", LAYOUTS)
def test_block_mask_is_the_dense_mask(name):
    layout, expected = LAYOUTS[name], rule(LAYOUTS[name])
    length = len(layout)
    assert torch.equal(layout.allow(), expected)
    dense = layout.mask(CPU)
    assert (dense is None and torch.equal(expected, torch.ones(length, length).tril().bool())) or torch.equal(dense, expected)
    blocks = layout.block_mask(CPU)
    assert blocks is layout.block_mask(CPU), "built once"
    position = torch.arange(length)
    assert torch.equal(blocks.mask_mod(0, 0, position[:, None], position[None]), expected)
    # Blocks that the kernel skips hold nothing that may be seen, and those that it computes unmasked hold nothing else.
    size = blocks.BLOCK_SIZE[0]
    skipped = torch.ones(-(-length // size), -(-length // size), dtype=torch.bool)
    for counts, indices, full in (
        (blocks.kv_num_blocks, blocks.kv_indices, False),
        (blocks.full_kv_num_blocks, blocks.full_kv_indices, True),
    ):
        for row in range(counts.shape[-1]):
            for column in indices[0, 0, row, : counts[0, 0, row]].tolist():
                skipped[row, column] = False
                block = expected[row * size : (row + 1) * size, column * size : (column + 1) * size]
                assert not full or block.all()
    for row, column in skipped.nonzero().tolist():
        assert not expected[row * size : (row + 1) * size, column * size : (column + 1) * size].any()


@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_flex_attention_equals_sdpa(name):
    """Uncompiled, which is the same function without the kernel."""
    layout = LAYOUTS[name]
    q, k, v = torch.randn(3, 2, 2, len(layout), 16, generator=torch.Generator().manual_seed(0))
    found = flex_attention(q, k, v, block_mask=layout.block_mask(CPU))
    torch.testing.assert_close(found, sdpa(q, k, v, layout.mask(CPU)), rtol=1e-5, atol=1e-5)


def test_a_kernel_that_cannot_train_here_says_what_is_missing(monkeypatch):
    cuda = torch.device("cuda")
    assert "CUDA only, and this run is on cpu" in missing("flex", 128, CPU, torch.float32)
    assert "at least 16 channels, and these have 8" in missing("flex", 8, cuda, torch.float32)
    assert missing("flex", 128, cuda, torch.float32) is None
    assert "needs a CUDA GPU, and this run is on cpu" in missing("flash", 128, CPU, torch.bfloat16)
    monkeypatch.setattr("internlm.trunk.kernels.find_spec", lambda name: None)
    assert "flash-attn" in missing("flash", 128, cuda, torch.bfloat16)
    monkeypatch.setattr("internlm.trunk.kernels.find_spec", lambda name: object())
    assert "train.dtype gives float32" in missing("flash", 128, cuda, torch.float32)
    assert "at most 256 channels, and these have 320" in missing("flash", 320, cuda, torch.bfloat16)
    assert missing("flash", 128, cuda, torch.bfloat16) is None and missing("sdpa", 3, CPU, torch.float32) is None
    network = EgoNetwork(tiny())
    with pytest.raises(ConfigError, match=r"model.attention is 'flex', whose backward.*; set model.attention=sdpa"):
        use_attention(network.backbone, "flex", CPU, torch.float32)
    use_attention(network.backbone, "sdpa", CPU, torch.float32)


def test_combinations_that_cannot_work_are_refused_before_anything_is_built():
    with pytest.raises(ValidationError, match="strictly causal, sequence is 'block'"):
        ModelConfig(attention="flash", sequence="block")
    with pytest.raises(ValidationError, match="'flex' would be recomputed without its kernel"):
        Config(model={"attention": "flex"}, parallel={"activation_checkpointing": "selective"})
    for parallel, message in (
        ({"zero": 1}, "zero 1 is DeepSpeed's"),
        ({"engine": "deepspeed", "zero": 1, "tp": 2}, "no tensor parallelism and tp is 2"),
        ({"engine": "deepspeed", "zero": 2, "dp_replicate": 2}, "dp_replicate is 2"),
        ({"engine": "deepspeed", "zero": 3, "compile": True}, "neither compile nor selective"),
        ({"engine": "deepspeed", "zero": 3, "activation_checkpointing": "selective"}, "neither compile nor selective"),
    ):
        with pytest.raises(ValidationError, match=message):
            Config(parallel=parallel)


def tiny(**changes) -> ModelConfig:
    shape = dict(hidden_size=64, num_layers=2, num_heads=2, mlp_multiple_of=16, image_size=32, local_image_size=16, patch_size=8)
    return ModelConfig(**shape, prototypes=24, head_hidden=16, head_bottleneck=8, **changes)


cuda_only = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
flash_only = pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="needs flash-attn")


@cuda_only
@pytest.mark.parametrize("sequence", ["causal", "block"])
def test_flex_trains_as_sdpa_does_on_cuda(sequence):
    _same_as_sdpa("flex", tiny(sequence=sequence, observer_attention="clip"), torch.float32, 1e-4)


@cuda_only
@flash_only
def test_flash_trains_as_sdpa_does_on_cuda():
    _same_as_sdpa("flash", tiny(observer_attention="clip"), torch.bfloat16, 2e-2)


def _same_as_sdpa(kind: str, config: ModelConfig, dtype: torch.dtype, tolerance: float) -> None:
    """Read-outs of images and clips and the gradients of both, beside those of ``sdpa``."""
    device = choose_device("cuda")
    torch.manual_seed(0)
    reference, other = EgoNetwork(config).to(device), EgoNetwork(config).to(device)
    other.load_state_dict(reference.state_dict())
    use_attention(other.backbone, kind, device, dtype)
    images = torch.randn(2, 3, 3, 32, 32, device=device)
    shape = (2, 3, config.poses_per_step, config.num_joints)
    poses, visible = torch.randn(*shape, 3, device=device), torch.ones(shape, device=device, dtype=torch.bool)
    found = []
    for network in (reference, other):
        with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            readout = network(images, poses, visible, poses, visible)
            outputs = [readout.action, readout.state, network.encode_clip(images), network.encode(images[:, 0])]
        sum(output.float().square().mean() for output in outputs).backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        found.append([tensor.float() for tensor in (*outputs, *gradients)])
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm() + 1e-6
