"""The published configs divided over 16 and 512 processes of which none exists: shapes by hand, bytes as planned.

Two of the 22 layers, so that a step on fake tensors takes seconds.
"""

import json
import resource

import pytest
import torch.distributed as dist

from internlm.cli import main
from internlm.config.errors import ConfigError
from internlm.config.load import load_config
from internlm.estimate.measure import dry_run, estimate

pytestmark = pytest.mark.timeout(900)
CASES = {
    "stage 1, 16": ("dino_pretrain/lr5e-4_tmp004_300m.py", dict(dp_shard=16), 0),
    "stage 2, 512": (
        "joint_train/lr6e-04_tmp004_1b.py",
        dict(dp_replicate=16, dp_shard=8, tp=4, activation_checkpointing="full"),
        511,
    ),
}


def configured(root, file, parallel):
    overrides = ["model.num_layers=2", *(f"parallel.{name}={value}" for name, value in parallel.items())]
    return load_config(root / "configs" / file, overrides)


def resident() -> int:
    """Bytes of memory that this process had at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("case", CASES)
def test_a_process_of_many_holds_what_is_planned(root, case):
    file, parallel, rank = CASES[case]
    config = configured(root, file, parallel)
    before = resident()
    found, predicted = dry_run(config, rank), estimate(config)
    assert resident() - before < found.peak / 2
    h, shards, tp = config.model.hidden_size, config.parallel.dp_shard, config.parallel.tp
    assert found.shapes["backbone.blocks.1.attention.qkv.weight"] == (3 * h // tp // shards, h)
    assert found.shapes["backbone.blocks.1.mlp.down.weight"] == (h // shards, 5632 * h // 2048 // tp)
    assert found.shapes["head.prototypes"] == (65_536 // tp // shards, 256)
    for part in ("parameters", "gradients", "optimizer", "observer"):
        # Rows that do not divide evenly are missing in the last process; the first has a full share.
        assert found.memory[part] == pytest.approx(predicted.memory[part], rel=0 if rank == 0 else 0.01), part
    assert found.peak == pytest.approx(predicted.total, rel=0.01)
    assert not dist.is_initialized()


def test_a_process_that_belongs_to_a_group_is_refused(root):
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        with pytest.raises(ConfigError, match="run it alone"):
            dry_run(configured(root, CASES["stage 1, 16"][0], {}), 0)
    finally:
        dist.destroy_process_group()


def test_the_command_tells_what_the_best_mesh_holds(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    small = ["model.num_layers=1", "train.image_batch=2", "train.clip_batch=2", "train.accumulation=1"]
    words = ["estimate", "configs/joint_train/demo.py", *small, "--gpus", "2", "--gpus-per-node", "1"]
    assert main([*words, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    best, runs = found["meshes"][0], found["dry_runs"]
    assert [run["rank"] for run in runs] == [0, 1]
    assert runs[0]["memory"]["parameters"] == best["memory"]["parameters"]
    assert runs[0]["peak"] == pytest.approx(sum(best["memory"].values()), rel=0.05)
