import json
from itertools import pairwise

import pytest

from internlm.config.load import load_config
from internlm.estimate.describe import as_text, describe
from internlm.systems.egoagent import cost as flops
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.network import EgoAgent

SMALL = dict(
    hidden_size=64, num_layers=2, num_heads=2, mlp_multiple_of=32, image_size=64, local_image_size=32, prototypes=256,
    head_hidden=96, head_bottleneck=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    return Config(stage="joint", model=SMALL, data=dict(clip=dict(steps=3)), train=dict(image_batch=8, clip_batch=8))


@pytest.mark.parametrize(
    ("file", "backbone", "head"),
    [("lr5e-4_tmp004_300m.py", 289_977_472, 23_597_312), ("lr5e-4_tmp004_1b.py", 1_159_620_864, 25_694_464)],
)
def test_published_sizes(root, file, backbone, head):
    config = load_config(root / "configs/dino_pretrain" / file)
    parts = flops.parameters_by_part(flops.build_on_meta(config.model))
    assert (parts["backbone"], parts["head"]) == (backbone, head)
    assert parts["total"] == backbone + head + parts["action_and_queries"]
    found = flops.tokens(config)
    assert (found["image"], found["local_crop"], found["clip"], found["clip_observer"]) == (197, 50, 199 * 20, 197 * 20)


def test_published_training_cost(root):
    """2 global and 6 local crops with the observer: about 1.5 TFLOP an image at 300M."""
    config = load_config(root / "configs/dino_pretrain/lr5e-4_tmp004_300m.py")
    cost = flops.flops(config, flops.build_on_meta(config.model))
    assert cost["train_image"] == pytest.approx(1.5e12, rel=0.02)


def test_flops_of_a_forward_by_hand(small):
    """The counter against arithmetic: matrix products of trunk and head, stem convolutions, attention as the full square."""
    h, inner, grid, k = 64, 192, 4, small.model.prototypes
    length, hid, bottle = grid * grid + 1, 96, 32
    block = 2 * length * (h * 3 * h + h * h + 3 * h * inner) + 4 * length * length * h
    widths, side, stem = [3, 8, 16, 32, 64], 64, 0
    for wide_in, wide_out in pairwise(widths):
        side //= 2
        stem += 2 * side * side * 9 * wide_in * wide_out
    stem += 2 * side * side * h * h
    head = 2 * (h * hid + hid * hid + hid * bottle + bottle * k)
    agent = flops.build_on_meta(small.model)
    assert flops.flops(small, agent)["image"] == 2 * block + stem + head


def test_meta_counts_equal_a_real_model(small):
    real = EgoAgent(small.model)
    assert flops.parameters_by_part(real) == flops.parameters_by_part(flops.build_on_meta(small.model))


def test_memory_states_follow_the_mesh(small):
    sharded = small.model_copy(update=dict(parallel=small.parallel.model_copy(update=dict(dp_shard=4))))
    one, four = (describe(config, 2)["memory"] for config in (small, sharded))
    total = flops.count(flops.build_on_meta(small.model).predictor)
    assert [one[part] for part in ("parameters", "gradients", "optimizer")] == [4 * total, 4 * total, 8 * total]
    assert four["gradients"] == one["gradients"], "whole between the passes of a step"
    for part in ("parameters", "optimizer", "observer"):
        assert one[part] / 4 <= four[part] < 1.02 * one[part] / 4  # rows that do not divide evenly
    parts = ("parameters", "gradients", "optimizer", "observer", "working_copy", "activations")
    assert one["total"] == sum(one[part] for part in parts)


def test_activations_grow_with_the_batch_and_shrink_in_half_precision(small):
    def measure(clips, dtype="bfloat16"):
        train = small.train.model_copy(update=dict(dtype=dtype, image_batch=0))
        return describe(small.model_copy(update=dict(train=train)), clips)["memory"]["activations"]

    four, eight, twelve = (measure(clips) for clips in (4, 8, 12))
    assert eight - four == pytest.approx(twelve - eight, rel=0.05) and eight > 1.5 * four
    assert measure(8, "float32") > 1.2 * eight  # what the losses hold is float32 in both


def test_the_command_prints_the_promised_keys(root, capsys):
    from internlm.cli import main

    file = str(root / "configs/joint_train/demo.py")
    assert main(["describe", file, "--json", "--batch", "4", "--dp-shard", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    promised = dict(parameters=("backbone", "head", "total"), tokens=("image", "clip"), flops=("image", "clip"))
    for section, keys in promised.items():
        assert all(isinstance(found[section][key], int) for key in keys)
    assert found["memory"]["micro_batch"] == dict(images=4, clips=4) and found["memory"]["mesh"]["dp_shard"] == 2
    assert "GFLOPs" in as_text(describe(load_config(file)))


def test_stage_one_has_no_clips_in_memory(root):
    config = load_config(root / "configs/dino_pretrain/demo.py")
    assert describe(config, 4)["memory"]["micro_batch"] == dict(images=4, clips=0)
