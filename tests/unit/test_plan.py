"""egoagent plan against counts by hand and its own promises."""

import json
import sys
from pathlib import Path

import pytest

from internlm.cli import main
from internlm.config.load import load_config
from internlm.config.schema import ParallelConfig
from internlm.launch.plan import GPUS, Gpu, meshes, plan
from internlm.launch.planning.memory import memory_of
from internlm.launch.planning.traffic import traffic_of
from internlm.launch.planning.workload import read_workload
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.network import EgoAgent

sys.path.insert(0, str(Path(__file__).resolve().parent))
from train_samples import tiny_config

STAGE2 = "configs/joint_train/lr6e-04_tmp004_1b.py"


@pytest.fixture(scope="module")
def config() -> Config:
    return tiny_config(stage="pretrain", train={"dtype": "float32"}, model={"patch_size": 4})


@pytest.fixture(scope="module")
def agent(config) -> EgoAgent:
    return EgoAgent(config.model)


def size(agent: EgoAgent, *prefixes: str) -> int:
    """Bytes of the float32 parameters of the predictor whose names begin so."""
    return 4 * sum(p.numel() for name, p in agent.predictor.named_parameters() if name.startswith(prefixes))


def test_gradients_sent_by_hand(config, agent):
    """Once in a backward pass, though two views are two passes; image batches leave the pose parts alone."""
    expected = size(agent, "backbone", "stem", "state_query", "head.") / 2  # (n - 1) / n of two processes
    work = read_workload(config)
    assert traffic_of(work, ParallelConfig(dp_shard=2)).by_kind["dp_shard reduce-scatter"] == expected
    copied = traffic_of(work, ParallelConfig(dp_replicate=2)).by_kind
    assert copied["dp_replicate all-reduce"] == 2 * expected and "dp_shard reduce-scatter" not in copied
    both = traffic_of(work, ParallelConfig(dp_shard=2, dp_replicate=2)).by_kind
    assert both["dp_shard reduce-scatter"] == expected and both["dp_replicate all-reduce"] == expected


def test_tokens_sent_by_hand(config):
    """2 layer pairs a block, forward and backward, of the predictor; forward alone of the observer's two global views."""
    h, tokens, local = config.model.hidden_size, 17, 5  # 16 and 4 patches with their query
    student, teacher = 4 * h * 4 * (2 * tokens + local), 4 * h * 4 * 2 * tokens
    expected = 2 * (2 + 2) / 2 * student + 2 * 2 / 2 * teacher
    inner, bottleneck = config.model.head_hidden, config.model.head_bottleneck
    expected += 4 * (12 * (inner + h + bottleneck) + 8 * inner)  # head: 12 views forward and backward, 8 of the observer
    expected += 4 * (3 * 12 + 3 * 8)  # softmax over divided prototypes: three numbers a row
    found = traffic_of(read_workload(config), ParallelConfig(tp=2, sequence_parallel=False)).by_kind
    assert found == {"tp all-reduce": expected}
    again = traffic_of(
        read_workload(config), ParallelConfig(tp=2, sequence_parallel=False, activation_checkpointing="full")
    ).by_kind["tp all-reduce"]
    assert again - expected == 2 * 1 / 2 * student  # the last sum of a block need not be repeated


def test_one_process_sends_nothing(config):
    assert traffic_of(read_workload(config), ParallelConfig()).by_kind == {}


def test_states_by_hand(config, agent):
    """4 bytes a parameter, 4 + 8 a trained one; shards divide them; tp leaves the stem and the norms whole."""
    total = sum(p.numel() for p in agent.predictor.parameters())
    trained = sum(p.numel() for p in agent.observer.parameters())  # stage 1 freezes the action parts
    work = read_workload(config)
    one, four = memory_of(work, ParallelConfig()), memory_of(work, ParallelConfig(dp_shard=4))
    assert (one.parameters, one.gradients, one.optimizer) == (4 * total, 4 * trained, 8 * trained)
    assert total <= four.parameters <= 1.1 * total  # a dimension that does not divide by 4 is padded
    halves = memory_of(work, ParallelConfig(tp=2)).parameters
    whole = size(agent, "stem", "state_query", "action_query", "pose_projector", "backbone.norm")
    assert 4 * total / 2 + whole / 2 < halves < 4 * total


def test_activations_shrink_as_they_should(config):
    work = read_workload(config)
    kept = {
        kind: memory_of(work, ParallelConfig(tp=tp, activation_checkpointing=kind)).activations
        for tp in (1, 2)
        for kind in ("none", "selective", "full")
        if tp == 1
    }
    assert kept["none"] == work.activations
    assert memory_of(work, ParallelConfig(tp=2)).activations < kept["none"]
    plain = memory_of(work, ParallelConfig(tp=2, sequence_parallel=False)).activations
    assert memory_of(work, ParallelConfig(tp=2)).activations < plain < kept["none"]


def test_all_meshes_are_there_once():
    found = meshes(ParallelConfig(), 8)
    assert all(mesh.dp_replicate * mesh.dp_shard * mesh.tp == 8 for mesh in found)
    assert len({repr(mesh) for mesh in found}) == len(found)
    assert {(m.dp_replicate, m.dp_shard, m.tp) for m in found} == {(8 // s // t, s, t) for t in (1, 2, 4, 8) for s in
                                                                   (1, 2, 4, 8) if s * t <= 8}  # fmt: skip


def test_ranking_and_reasons(config):
    rows = plan(config, GPUS["h100"], 16)
    fitting = [row for row in rows if row.reason is None]
    assert rows[: len(fitting)] == fitting and fitting
    reasons = {row.parallel["tp"]: row.reason for row in rows if row.reason}
    assert "num_heads 2 is not divisible by tp 4" in reasons[4] and "reaches over nodes of 8" in reasons[16]
    small = plan(config, Gpu(1e-6, 1, 1, 1), 2)
    assert all("are usable" in row.reason for row in small)


def test_paper_config_plans(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    gpus = 512
    assert main(["plan", STAGE2, "--gpus", str(gpus), "--gpu", "a100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["meshes"]
    best = found[0]
    assert best["reason"] is None and 0 < best["mfu"] <= 0.4 and 0 < sum(best["memory"].values()) < 80e9
    shape = best["parallel"]
    assert shape["dp_replicate"] * shape["dp_shard"] * shape["tp"] == gpus


def test_text_and_what_does_not_fit(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    demo = "configs/joint_train/demo.py"
    assert main(["plan", demo, "--gpus", "4"]) == 0
    assert "samples/s" in capsys.readouterr().out
    assert main(["plan", demo, "--gpus", "1", "--memory", "0.001"]) == 1
    assert "none fits" in capsys.readouterr().out
    assert main(["plan", demo, "--gpus", "0"]) == 2


def test_workload_counts_are_those_of_describe(root):
    from internlm.launch.planning import activations as memory
    from internlm.systems.egoagent import cost as flops

    config = load_config(root / "configs/joint_train/demo.py")
    work, agent = read_workload(config), flops.build_on_meta(config.model)
    # position tables that an earlier count has left in the network are not counted again
    assert work.activations == pytest.approx(memory.estimate(config, agent, images=12, clips=16).activations, rel=1e-3)
    assert work.train_clip == flops.flops(config, flops.build_on_meta(config.model))["train_clip"]
