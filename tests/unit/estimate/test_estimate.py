"""egoagent estimate against counts by hand and its own promises."""

import json

import pytest
import torch
from torch import nn
from train_samples import tiny_config

from internlm.cli import main
from internlm.config.schema import ParallelConfig
from internlm.estimate.fake import fake_mesh
from internlm.estimate.measure import Estimate, dry_run, estimate
from internlm.estimate.meter import Meter
from internlm.estimate.ranking import meshes, rank_meshes
from internlm.monitor.gpus import GPUS, Gpu
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.network import EgoAgent
from internlm.systems.resolve import build_system_on_meta

STAGE2 = "configs/joint_train/lr6e-04_tmp004_1b.py"
SCALARS = 200  # bytes of losses, norms and counts


@pytest.fixture(scope="module")
def config() -> Config:
    return tiny_config(stage="pretrain", train={"dtype": "float32"}, model={"patch_size": 4})


@pytest.fixture(scope="module")
def agent(config) -> EgoAgent:
    return EgoAgent(config.model)


def size(agent: EgoAgent, *prefixes: str) -> int:
    """Bytes of the float32 parameters of the predictor whose names begin so."""
    return 4 * sum(p.numel() for name, p in agent.predictor.named_parameters() if name.startswith(prefixes))


FOUND: dict[str, Estimate] = {}


def on(config: Config, **parallel) -> Estimate:
    config = config.model_copy(update={"parallel": ParallelConfig(**parallel)})
    key = config.model_dump_json()
    if key not in FOUND:
        FOUND[key] = estimate(config)
    return FOUND[key]


def test_gradients_sent_by_hand(config, agent):
    """Once in a backward pass, though two views are two passes; image batches leave the pose parts alone."""
    half = size(agent, "backbone", "stem", "state_query", "head.") / 2  # (n - 1) / n of two processes
    assert on(config, dp_shard=2).bytes_sent["dp_shard reduce-scatter"] == half
    copied = on(config, dp_replicate=2).bytes_sent
    assert copied["dp_replicate all-reduce"] == pytest.approx(2 * half, abs=SCALARS)
    assert "dp_shard reduce-scatter" not in copied
    both = on(config, dp_shard=2, dp_replicate=2).bytes_sent
    # Four processes are measured with four shards, of which those of a few small tensors are padded.
    assert both["dp_shard reduce-scatter"] == pytest.approx(half, rel=0.02)
    assert both["dp_replicate all-reduce"] == pytest.approx(half, rel=0.02)


def test_tokens_sent_by_hand(config):
    """2 layer pairs a block, forward and backward, of the predictor; forward alone of the observer's two global views."""
    h, tokens, local = config.model.hidden_size, 17, 5  # 16 and 4 patches with their query
    student, teacher = 4 * h * 4 * (2 * tokens + local), 4 * h * 4 * 2 * tokens
    expected = 2 * (2 + 2) / 2 * student + 2 * 2 / 2 * teacher
    inner, bottleneck = config.model.head_hidden, config.model.head_bottleneck
    expected += 4 * (12 * (inner + h + bottleneck) + 8 * inner)  # head: 12 views forward and backward, 8 of the observer
    expected += 4 * (3 * 12 + 3 * 8)  # softmax over divided prototypes: three numbers a row
    found = on(config, tp=2, sequence_parallel=False).bytes_sent
    assert found == {"tp all-reduce": pytest.approx(expected, abs=SCALARS)}
    again = on(config, tp=2, sequence_parallel=False, activation_checkpointing="full").bytes_sent["tp all-reduce"]
    assert again - found["tp all-reduce"] == 2 * 1 / 2 * student  # the last sum of a block need not be repeated


def test_one_process_sends_nothing(config):
    assert on(config).bytes_sent == {}


def test_states_by_hand(config, agent):
    """4 bytes a parameter, 4 + 8 a trained one; shards divide them; tp leaves the stem and the norms whole."""
    total = sum(p.numel() for p in agent.predictor.parameters())
    trained = sum(p.numel() for p in agent.observer.parameters())  # stage 1 freezes the action parts
    one, four = on(config).memory, on(config, dp_shard=4).memory
    assert (one["parameters"], one["gradients"], one["optimizer"], one["observer"]) == (
        4 * total,
        4 * trained,
        8 * trained,
        4 * trained,
    )
    assert total <= four["parameters"] <= 1.1 * total  # a dimension that does not divide by 4 is padded
    halves = on(config, tp=2).memory["parameters"]
    whole = size(agent, "stem", "state_query", "action_query", "pose_projector", "backbone.norm")
    assert 4 * total / 2 + whole / 2 < halves < 4 * total


@pytest.fixture(scope="module")
def deep() -> Config:
    """Five blocks, large images and a batch in two pieces: what blocks keep is the largest part of the memory."""
    model = {"patch_size": 4, "hidden_size": 32, "num_layers": 5, "mlp_multiple_of": 32, "image_size": 32}
    return tiny_config(model=model, train={"dtype": "bfloat16", "accumulation": 2})


@pytest.mark.parametrize(
    "parallel",
    [
        {},
        {"activation_checkpointing": "full"},
        {"dp_replicate": 2, "dp_shard": 4, "zero": 2, "activation_checkpointing": "selective"},
        {"dp_replicate": 2, "dp_shard": 2, "tp": 2, "activation_checkpointing": "full"},
    ],
)
def test_few_blocks_tell_what_many_need(deep, parallel):
    """Two and three blocks carried on to five, against a dry run with all of them."""
    config = deep.model_copy(update={"parallel": ParallelConfig(**parallel)})
    few, whole = on(deep, **parallel), dry_run(config, 0)
    assert few.total == pytest.approx(whole.peak, rel=1e-3)
    for part, held in whole.memory.items():
        if part not in ("working_copy", "activations"):  # which may change places where two moments are alike
            assert few.memory[part] == held


def test_kernels_of_gpus_are_estimated_without_one(config):
    flex = config.model_copy(update={"model": config.model.model_copy(update={"attention": "flex"})})
    assert estimate(flex).total == on(config).total == dry_run(flex, 0).peak


def test_one_measurement_tells_all_sizes_of_the_data_axes(deep):
    """Measured with eight shards and asked for two, against a dry run of two."""
    config = deep.model_copy(update={"parallel": ParallelConfig(dp_replicate=4, dp_shard=2)})
    assert on(deep, dp_replicate=4, dp_shard=2).total == pytest.approx(dry_run(config, 0).peak, rel=0.02)


def test_activations_shrink_as_they_should(deep):
    kept = {
        (tp, kind): on(deep, tp=tp, activation_checkpointing=kind).total
        for tp, kind in ((1, "none"), (1, "selective"), (1, "full"), (2, "none"))
    }
    assert kept[1, "full"] < kept[1, "selective"] < kept[1, "none"] and kept[2, "none"] < kept[1, "none"]
    assert kept[2, "none"] < on(deep, tp=2, sequence_parallel=False).total


def test_flops_are_those_of_training_and_what_checkpointing_repeats(deep):
    useful = build_system_on_meta(deep).cost().flops()
    done = on(deep).flops
    # The first convolution needs no gradient of its images, and a backward pass of attention costs more than two forward ones.
    assert done == pytest.approx(sum(4 * count for count in useful.values()), rel=0.05)
    assert 1.1 * done < on(deep, activation_checkpointing="full").flops < 1.4 * done
    assert on(deep, tp=2).flops < 0.7 * done


def test_batches_by_turns_are_half_of_both(deep):
    """Images in even steps and clips in odd ones: of a step half of what both together compute, and as much memory.

    Gradients are reduced once in a clip's step; in an image's, whose two sizes are two passes of each block, twice.
    """
    by_turns = deep.model_copy(update={"train": deep.train.model_copy(update={"mixing": "alternate"})})
    both, alternate = on(deep, dp_shard=2), on(by_turns, dp_shard=2)
    assert alternate.flops == both.flops / 2 and alternate.total == pytest.approx(both.total, rel=0.01)
    sent = "dp_shard reduce-scatter"
    assert both.bytes_sent[sent] < alternate.bytes_sent[sent] < 1.5 * both.bytes_sent[sent]


def test_the_meter_counts_flops_and_copies_of_weights():
    with fake_mesh((1, 1, 1), 0):
        layer = nn.Linear(8, 4, bias=False)
        with Meter({}) as meter, torch.autocast("cpu", torch.bfloat16):
            layer(torch.ones(2, 8)).sum().backward()
    assert meter.flops == 2 * 2 * 8 * 4 * 2  # forward, and backward to the weight
    assert meter.peaks[0, "outside"][1] == 2 * 8 * 4  # bfloat16


def test_all_meshes_are_there_once():
    found = meshes(ParallelConfig(), 8)
    assert all(mesh.dp_replicate * mesh.dp_shard * mesh.tp == 8 for mesh in found)
    assert len({repr(mesh) for mesh in found}) == len(found)
    assert {(m.dp_replicate, m.dp_shard, m.tp) for m in found} == {
        (8 // s // t, s, t) for t in (1, 2, 4, 8) for s in (1, 2, 4, 8) if s * t <= 8
    }


def test_ranking_and_reasons(config):
    rows = rank_meshes(config, GPUS["h100"], 16)
    fitting = [row for row in rows if row.reason is None]
    assert rows[: len(fitting)] == fitting and fitting
    assert {row.parallel["activation_checkpointing"] for row in fitting} == {"none"}
    reasons = {row.parallel["tp"]: row.reason for row in rows if row.reason}
    assert "num_heads 2 is not divisible by parallel.tp 4" in reasons[4] and "reaches over nodes of 8" in reasons[16]
    small = rank_meshes(config, Gpu(1e-6, 1, 1, 1), 2)
    assert all("are usable" in row.reason and row.parallel["activation_checkpointing"] == "full" for row in small)


def test_checkpointing_where_nothing_else_fits(deep):
    alone = deep.model_copy(update={"parallel": ParallelConfig()})
    needed = {kind: on(alone, activation_checkpointing=kind).total for kind in ("none", "selective", "full")}
    for kind, other in (("selective", "none"), ("full", "selective")):
        gigabytes = (needed[kind] + needed[other]) / 2 / 0.9e9
        (row,) = rank_meshes(alone, Gpu(gigabytes, 989, 450, 50), 1)
        assert row.reason is None and row.parallel["activation_checkpointing"] == kind


def test_paper_config(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    words = ["estimate", STAGE2, "--gpus", "512", "--gpus-per-node", "1", "--gpu", "a100", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)["meshes"]
    best = found[0]
    assert best["reason"] is None and 0 < best["mfu"] <= 0.4 and 0 < sum(best["memory"].values()) < 80e9
    shape = best["parallel"]
    assert shape["dp_replicate"] * shape["dp_shard"] * shape["tp"] == 512


def test_text_and_what_does_not_fit(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    demo = "configs/joint_train/demo.py"
    assert main(["plan", demo, "--gpus", "1"]) == 0
    printed = capsys.readouterr()
    assert "samples/s" in printed.out and "egoagent plan is now egoagent estimate" in printed.err
    assert main(["estimate", demo, "--gpus", "1", "--memory", "0.001"]) == 1
    assert "none fits" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["estimate", demo, "--gpus", "0"])
