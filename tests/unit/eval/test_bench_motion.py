"""The motion benchmark: published floors on real recordings, result files, sources of poses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from data_samples import body, write_take
from motion_samples import figure, motion_file, motion_store

from internlm.data import motion as motion_data
from internlm.data.frames import DataError
from internlm.data.motion import Recordings, constant_velocity, zero_velocity
from internlm.eval.errors import EvalError
from internlm.eval.tasks.motion import bench as bench_motion
from internlm.eval.tasks.motion import metrics as pose_metrics
from internlm.eval.tasks.motion.options import BenchOptions


def test_cmu_floors_are_the_published_ones(shared_data):
    """30 in, 30 out, root-relative, standard actions; all actions in the second row."""
    for actions, mpjpe, mpjve, at in (("standard", 9.39, 37.1, [2.4, 5.4, 8.7, 12.8]), ("all", 8.70, 35.5, [2.3, 5.3, 8.7, 9.5])):
        made = motion_data.root_relative(motion_data.cmu(shared_data / motion_data.CMU_FILE, actions))
        test = motion_data.windows(made.of("test"), 30, 30, 10)
        score = pose_metrics.score(zero_velocity(test.past, 30), test.future, test.visible, rate=30.0, takes=test.takes)
        assert score["mpjpe_cm"] == pytest.approx(mpjpe, abs=0.05) and score["mpjve_cm_s"] == pytest.approx(mpjve, abs=0.15)
        assert list(score["mpjpe_cm_at_ms"].values()) == pytest.approx(at, abs=0.06)
        moving = pose_metrics.score(constant_velocity(test.past, 30), test.future, test.visible, rate=30.0, takes=test.takes)
        assert moving["mpjpe_cm"] == pytest.approx({"standard": 19.7, "all": 19.3}[actions], abs=0.1)


def test_cmu_split_keeps_test_takes_out_of_training_and_selection(shared_data):
    made = motion_data.cmu(shared_data / motion_data.CMU_FILE)
    fitted, held_out = motion_data.hold_out(made.of("train"))
    arrays = lambda part: {t.joints.tobytes() for t in part.tracks}  # noqa: E731
    assert len(arrays(fitted) | arrays(held_out)) == 32 and len(made.of("test").tracks) == 6
    assert not arrays(made.of("test")) & (arrays(fitted) | arrays(held_out)) and not arrays(fitted) & arrays(held_out)


def test_result_files_are_kept_joined_and_never_mixed(tmp_path, capsys):
    made = Recordings((str(motion_store(tmp_path / "store", tests=2)),))
    options = BenchOptions(data=made.paths, past=10, future=5, stride=5, methods=("zero_velocity", "ridge"), out=tmp_path)
    bench_motion.run_benchmark(options)
    written = (tmp_path / "ridge.json").stat().st_mtime_ns
    report = bench_motion.run_benchmark(replace(options, methods=("ridge", "simlpe"), steps=4))
    assert list(report["methods"]) == ["zero_velocity", "ridge", "simlpe"]
    assert (tmp_path / "ridge.json").stat().st_mtime_ns == written, "measured once"
    assert json.loads((tmp_path / "report.json").read_text())["protocol"]["tested_on"] == ["u0", "u1"]
    assert {path.name for path in (tmp_path / "simlpe").iterdir()} == {"chosen", "final"}
    ridge = report["methods"]["ridge"]
    assert ridge["mpjpe_cm"] < report["methods"]["zero_velocity"]["mpjpe_cm"]
    assert ridge["minus_zero_velocity"]["interval"][1] < 0 and ridge["training"]["penalty"] > 0
    assert set(ridge["by_joint_cm"]) == set(made.open().joints) and set(ridge["by_action"]) == {"walk"}
    assert "| ridge regression |" in capsys.readouterr().out
    other = bench_motion.run_benchmark(replace(options, past=8, methods=("zero_velocity",)))
    assert list(other["methods"]) == ["zero_velocity"], "results of another protocol stay out of the table"
    with pytest.raises(EvalError, match="unknown"):
        bench_motion.run_benchmark(replace(options, methods=("crystal_ball",)))


def test_poses_of_take_stores(tmp_path):
    write_take(tmp_path / "s", "one", poses=[n for n in range(60) if n != 30])
    write_take(tmp_path / "s", "two", split="test")
    made = motion_data.read([tmp_path / "s"])
    assert [len(t.joints) for t in made.of("train").tracks] == [30, 29], "a missing frame ends a run"
    assert made.of("train").recordings == ["one"] and made.of("test").recordings == ["two"]
    assert len(made.joints) == 16 and made.rate == 30, "the ear that is never visible is left out"
    kept = [j for j in range(17) if j != 4]
    np.testing.assert_allclose(made.of("test").tracks[0].joints, body(np.arange(60))[:, kept])
    slow = motion_data.read([tmp_path / "s"], every=3, all_joints=True)
    assert slow.rate == 10 and len(slow.joints) == 17 and len(slow.of("test").tracks) == 3


def test_validation_takes_are_in_neither_training_nor_test(tmp_path):
    for name, split in (("a", "train"), ("b", "val"), ("c", "test"), ("d", "val")):
        write_take(tmp_path / "s", name, split=split)
    made = motion_data.read([tmp_path / "s"])
    assert {split: made.of(split).recordings for split in ("train", "val", "test")} == {
        "train": ["a"],
        "val": ["b", "d"],
        "test": ["c"],
    }


def test_a_benchmark_without_test_takes_is_refused_and_training_there_is_not(tmp_path):
    write_take(tmp_path / "s", "a")
    write_take(tmp_path / "s", "b", split="val")
    recordings = Recordings((str(tmp_path / "s"),))
    assert recordings.open().of("train").recordings == ["a"]
    with pytest.raises(DataError, match="no test take among 2"):
        bench_motion.run_benchmark(BenchOptions(data=recordings.paths, methods=("zero_velocity",), out=tmp_path / "out"))


@pytest.mark.parametrize("every", [1, 5])
def test_every_fifth_take_without_a_split_is_test(every, tmp_path):
    file = motion_file(tmp_path / "walks.npz", {f"t{number}": figure(30, number) for number in range(10)})
    made = motion_data.read([file], every=every)
    assert len(made.tracks) == 10 * every
    assert made.of("test").recordings == ["t4", "t9"] and len(made.of("train").recordings) == 8
