"""The demo end to end at a size of seconds: every promised figure is there and finite, the page stands alone, a rerun reuses."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest

from internlm.core.errors import UserError
from internlm.demo import run as demo

MODEL = (
    "model.hidden_size=32", "model.num_layers=1", "model.num_heads=2", "model.mlp_multiple_of=16", "model.image_size=32",
    "model.local_image_size=16", "model.prototypes=32", "model.head_hidden=32", "model.head_bottleneck=16",
    "data.workers=0", "monitor.progress=false", "monitor.tensorboard=false", "monitor.health_every=2", "train.log_every=1",
    "train.device=cpu", "train.validate_every=2",
)  # fmt: skip
TINY = demo.DemoSize(
    takes=(8, 1, 4),
    seconds=12.0,
    side=32,
    stage1=(*MODEL, "train.steps=4", "train.image_batch=4"),
    stage2=(*MODEL, "train.steps=4", "train.image_batch=4", "train.clip_batch=2"),
    knn_frame_stride=4,
)
PROMISED = (
    "knn.top1", "knn.floors.random_weights", "knn.floors.pixels",
    "retrieval.top1", "retrieval.map", "retrieval.floors.current_frame", "retrieval.hidden.centred.top1",
    "motion.mpjpe_cm", "motion.mpjve_cm_s",
    "motion.floors.zero_velocity.mpjpe_cm", "motion.floors.constant_velocity.mpjpe_cm",
    "action_sensitivity.true", "action_sensitivity.shuffled", "action_sensitivity.zero",
    "prediction_kl.first", "prediction_kl.last", "seed", "seconds",
)  # fmt: skip


def value(report, key):
    for name in key.split("."):
        report = report[name]
    return report


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    demo.run_demo(out, TINY, seed=3)
    return out, json.loads((out / "report.json").read_text())


@pytest.mark.parametrize("key", PROMISED)
def test_report_has_the_figure(finished, key):
    number = value(finished[1], key)
    assert isinstance(number, int | float) and math.isfinite(number)


def test_figures_are_plausible(finished):
    report = finished[1]
    assert report["seed"] == 3 and report["split"] == "test"
    assert 0 <= report["knn"]["top1"] <= 100 and 0 <= report["retrieval"]["top1"] <= report["retrieval"]["map"] <= 100
    # the offset head starts as the zero-velocity baseline, and four steps cannot take it far from there
    assert report["motion"]["mpjpe_cm"] == pytest.approx(report["motion"]["floors"]["zero_velocity"]["mpjpe_cm"], rel=0.5)
    assert report["action_sensitivity"]["true"] == report["prediction_kl"]["last"]


def test_page_stands_alone(finished):
    page = (finished[0] / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "http" not in page
    assert page.count("data:image/png;base64,") > 20 and page.count("<svg") > 6
    assert "synthetic" in page and all(f"{name}, held out" in page for name in ("L_rep", "L_pred", "masked L1"))


def test_rerun_reuses_and_changed_settings_start_anew(finished, capsys):
    out, before = finished
    again = demo.run_demo(out, TINY, seed=3)
    assert "0 of them made now" in capsys.readouterr().out
    for key in PROMISED[:-1]:
        assert value(again, key) == pytest.approx(value(before, key)), key
    assert not (out / "stage1" / "previous-1").exists()
    files = demo.find_configs(None)
    world = next(out.glob("world-*"))
    longer = demo.DemoSize(**{**vars(TINY), "stage1": (*TINY.stage1, "train.steps=5")})
    result = demo.train_stage(demo.stage_configs(files, out, world, longer, 3)["stage1"])
    assert result.step == 5 and (out / "stage1" / "previous-1").exists()


def test_summary_warns_of_targets_that_say_nothing(finished):
    from internlm.demo.page import summary

    report = finished[1]
    kl = report["prediction_kl"]
    texts = []
    for share in (0.5, 1.0):
        entropy = {**kl["teacher_entropy"], "last": share * kl["uniform_entropy"]}
        texts.append(summary({**report, "prediction_kl": {**kl, "teacher_entropy": entropy}}))
    assert "mean nothing" not in texts[0] and "mean nothing" in texts[1]


def test_missing_configs_are_explained(tmp_path):
    with pytest.raises(UserError, match="belong to the source tree"):
        demo.find_configs(Path(tmp_path))


def test_eval_command_reads_the_demo_runs(finished, run_command, tmp_path):
    out, report = finished
    cases = (
        ("knn", ["--frame-stride", 4], "top1", report["knn"]),
        ("retrieval", [], "top1", report["retrieval"]),
        ("retrieval", ["--feature", "hidden"], "map", report["retrieval"]["hidden"]),
        ("motion", [], "mpjpe_cm", report["motion"]),
    )
    for task, options, key, reported in cases:
        file = tmp_path / f"{task}.json"
        done = run_command(["egoagent", "eval", task, "--run", out / "stage2", "--split", "test", *options, "--out", file])
        assert done.returncode == 0, done.stderr
        assert json.loads(file.read_text())[key] == pytest.approx(reported[key], rel=1e-4)
    refused = run_command(["egoagent", "eval", "retrieval", "--run", out / "stage1"])
    assert refused.returncode == 2 and "stage 'pretrain'; this needs a run of one that predicts" in refused.stderr


def test_two_processes_reach_the_figures_of_one(finished, tmp_path):
    alone, report = finished
    world = next(alone.glob("world-*"))
    shutil.copytree(world, tmp_path / world.name)
    together = demo.run_demo(tmp_path, TINY, seed=3, processes=2)
    for key in PROMISED[:-2]:
        assert value(together, key) == pytest.approx(value(report, key), rel=1e-3), key
    lines = (tmp_path / "stage2" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4 and all('"ranks/step_seconds_max_rank"' in line for line in lines)  # there were two
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("stage*/checkpoints/*")}
    again = demo.run_demo(tmp_path, TINY, seed=3, processes=2)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("stage*/checkpoints/*")} == written
    assert again["knn"] == together["knn"]


def test_batches_that_cannot_be_divided_are_refused(tmp_path):
    config = demo.stage_configs(demo.find_configs(None), tmp_path, tmp_path / "world", TINY, 3)["stage1"]
    with pytest.raises(UserError, match="image_batch 4 cannot be divided between 3 processes"):
        demo.train_stage(config, processes=3)
