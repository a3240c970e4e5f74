"""What an evaluation of labelled images refuses or says: images on both sides, copies, classes that do not meet."""

import json
import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data_samples import write_take
from feature_samples import MODEL, class_folder, configured, stored_arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_samples import figure, motion_file

from internlm import cli
from internlm.checkpoint.manager import CheckpointManager
from internlm.data.frames import open_images
from internlm.data.store import TakeStore
from internlm.eval import features
from internlm.eval.errors import EvalError
from internlm.eval.images.checks import check_images
from internlm.eval.tasks.knn.options import KnnOptions
from internlm.eval.tasks.knn.report import knn_report
from internlm.eval.tasks.linear.report import probe_report
from internlm.eval.tasks.motion.bench import run_benchmark
from internlm.eval.tasks.motion.options import BenchOptions
from internlm.eval.tasks.motion.task import _check_unseen
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.network import EgoAgent
from internlm.systems.resolve import build_system


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with one checkpoint."""
    folder = tmp_path_factory.mktemp("checks") / "run"
    config = Config.model_validate({"model": MODEL.model_dump()})
    agent = EgoAgent(config.model)
    parts = {"predictor": agent.predictor.state_dict(), "observer": agent.observer.state_dict()}
    CheckpointManager(folder / "checkpoints").save(3, parts, {"config": config.model_dump(mode="json")})
    return folder


@pytest.fixture
def evaluate(run, capsys):
    """The commands as they are typed: exit code and standard error."""

    def call(task, *words, model=("--run", run)):
        code = cli.main(["eval", task, *map(str, (*model, "--device", "cpu", *words))])
        printed = capsys.readouterr()
        return code, printed.out if code == 0 else printed.err

    return call


def folder(path):
    return open_images([path], label="folder")


# The same image on both sides


def test_a_folder_alone_is_refused_with_the_way_out(tmp_path, evaluate):
    class_folder(tmp_path / "in" / "train", {"ant": 2, "bee": 2})
    class_folder(tmp_path / "in" / "val", {"ant": 2, "bee": 2}, seed=100)
    for task in ("knn", "linear"):
        code, said = evaluate(task, "--data", tmp_path / "in" / "train")
        assert code == 2 and "without --train-data: image folders have no splits" in said
        code, said = evaluate(task, "--data", tmp_path / "in")
        assert code == 2 and f"--train-data {tmp_path}/in/train --data {tmp_path}/in/val" in said


def test_one_folder_under_two_names_is_refused(tmp_path, evaluate):
    class_folder(tmp_path / "a", {"ant": 3, "bee": 3})
    (tmp_path / "b").symlink_to("a")
    for cat in ("ant", "bee"):
        (tmp_path / "farm" / cat).mkdir(parents=True)
        for file in (tmp_path / "a" / cat).iterdir():
            (tmp_path / "farm" / cat / f"x{file.name}").symlink_to(file)
    class_folder(tmp_path / "c", {"ant": 1, "bee": 1}, seed=100)
    (tmp_path / "c" / "ant" / "link.png").symlink_to(tmp_path / "a" / "ant" / "2.png")
    for name, count in (("a", "6 of 6"), ("a/", "6 of 6"), ("b", "6 of 6"), ("farm", "6 of 6"), ("c", "1 of 3")):
        code, said = evaluate("knn", "--train-data", tmp_path / "a", "--data", f"{tmp_path}/{name}")
        assert code == 2 and f"{count} test images are training images as well" in said, name
        with pytest.raises(EvalError, match=count):
            probe_report(build_system(configured()), folder(tmp_path / "a"), folder(tmp_path / name))


def test_a_store_against_itself_is_refused(tmp_path, evaluate):
    for number, place in enumerate(("hall", "attic")):
        write_take(tmp_path / "s", f"t{number}", place=place)
        write_take(tmp_path / "s", f"v{number}", place=place, split="val")
    (tmp_path / "link").symlink_to("s")
    assert evaluate("knn", "--data", tmp_path / "s", "--k", 1)[0] == 0
    for words in (["--split", "train"], ["--train-split", "val"], ["--split", "train", "--train-data", tmp_path / "link"]):
        code, said = evaluate("knn", "--data", tmp_path / "s", *words)
        assert code == 2 and "24 of 24 test images are training images as well" in said and "--train-split" in said
    # Frames of one take that are not the same frames are other images.
    sources = (open_images([tmp_path / "s"], "train", stride, "place") for stride in (1, 2))
    with pytest.raises(EvalError, match="12 of 12"):
        check_images(*sources)


def test_copies_are_counted_and_copies_alone_refused(tmp_path, caplog):
    class_folder(tmp_path / "train", {"ant": 3, "bee": 3})
    class_folder(tmp_path / "val", {"ant": 2, "bee": 2}, seed=100)
    shutil.copy(tmp_path / "train" / "ant" / "1.png", tmp_path / "val" / "ant" / "copy.png")
    system = build_system(configured())
    with caplog.at_level(logging.WARNING):
        report, found = knn_report(system, folder(tmp_path / "train"), folder(tmp_path / "val"), KnnOptions(k=(1,)))
    assert report["protocol"]["test_images_equal_to_a_training_image"] == 1 and "digest" not in found["test"].values
    assert "1 of 5 test images are equal to a training one" in caplog.text and set(report["by_k"]) == {"model", *report["floors"]}
    shutil.copytree(tmp_path / "train", tmp_path / "copied")
    for call in (knn_report, probe_report):
        with pytest.raises(EvalError, match="every one of the 6 test images has the same pixels"):
            call(system, folder(tmp_path / "train"), folder(tmp_path / "copied"))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, 1e-7, -1.0]), min_size=3, max_size=3), min_size=1, max_size=9))
def test_digests_are_equal_where_rows_are(rows):
    tensor = torch.tensor(rows)
    found = [tuple(row) for row in features.digest(tensor).tolist()]
    assert len(set(found)) == len({tuple(row) for row in rows}) and all(float(v).is_integer() for row in found for v in row)


def test_equal_rows_of_stored_features_are_said(tmp_path, evaluate):
    arrays = stored_arrays()
    arrays["test_features"][2] = arrays["train_features"][5]
    np.savez(tmp_path / "f.npz", **arrays)
    for task, words in (("knn", ()), ("linear", ("--epochs", 2))):
        code, _ = evaluate(task, *words, "--out", tmp_path / "o.json", model=("--features", tmp_path / "f.npz"))
        assert code == 0
        assert json.loads((tmp_path / "o.json").read_text())["protocol"]["test_features_equal_to_a_training_feature"] == 1


def test_a_path_given_twice_counts_once(tmp_path, evaluate, caplog):
    for number, place in enumerate(("hall", "attic")):
        write_take(tmp_path / "s", f"t{number}", place=place)
        write_take(tmp_path / "s", f"v{number}", place=place, split="val")
    (tmp_path / "link").symlink_to("s")
    with caplog.at_level(logging.WARNING):
        words = ("--data", tmp_path / "s", f"{tmp_path}/s/", tmp_path / "link", "--k", 1, "--out", tmp_path / "o.json")
        assert evaluate("knn", *words)[0] == 0
    protocol = json.loads((tmp_path / "o.json").read_text())["protocol"]
    assert (protocol["train_images"], protocol["test_images"]) == (24, 24) and caplog.text.count("counts once") == 2


def test_baselines_are_not_measured_on_what_they_learned_from(tmp_path):
    write_take(tmp_path / "s", "t")
    write_take(tmp_path / "s", "v", split="val")
    (tmp_path / "link").symlink_to("s")
    store = TakeStore(tmp_path / "s")
    _check_unseen([str(tmp_path / "link")], SimpleNamespace(takes=store.select("val")), "val")
    with pytest.raises(EvalError, match="1 of them, t for one, are evaluated here"):
        _check_unseen([str(tmp_path / "link")], SimpleNamespace(takes=store.select("train")), "train")


def test_a_recording_is_not_benchmarked_on_itself(tmp_path):
    walks = {f"train/walk{number}": figure(90, number) for number in range(3)}
    file = motion_file(tmp_path / "walks.npz", walks | {"test/walk3": walks["train/walk1"]})
    with pytest.raises(EvalError, match="walk3 in test is the recording walk1 in training"):
        run_benchmark(BenchOptions(data=(str(file),), methods=("zero_velocity",), out=tmp_path))


# Classes that do not meet


def test_a_layout_that_was_misread_is_named(tmp_path, evaluate):
    class_folder(tmp_path / "tiny" / "train", {"n01": 2, "n02": 2})
    class_folder(tmp_path / "tiny" / "val", {"images": 4}, seed=100)
    class_folder(tmp_path / "sorted", {"n01": 2, "n02": 2}, seed=200)
    code, said = evaluate("knn", "--data_path", tmp_path / "tiny")
    assert code == 2 and "none of the 1 test classes (images)" in said and "tiny-imagenet's val/images" in said
    code, said = evaluate("knn", "--train-data", tmp_path / "tiny", "--data", tmp_path / "sorted")
    assert code == 2 and "--train-data has the folders train and val, which look like splits" in said
    (tmp_path / "deep").mkdir()
    (tmp_path / "sorted").rename(tmp_path / "deep" / "images")
    code, said = evaluate("knn", "--train-data", tmp_path / "tiny" / "train", "--data", tmp_path / "deep")
    assert code == 2 and f"further down, as in {tmp_path}/deep/images" in said
    class_folder(tmp_path / "one", {"images": 4}, seed=300)
    code, said = evaluate("knn", "--train-data", tmp_path / "one", "--data", tmp_path / "tiny" / "val")
    assert code == 2 and "all of one class, 'images': there is nothing to tell apart" in said


def test_labels_of_takes_that_do_not_meet(tmp_path, evaluate):
    for name, split, place in (("a", "train", "hall"), ("b", "train", "attic"), ("c", "val", "cellar")):
        write_take(tmp_path / "s", name, split=split, place=place)
    code, said = evaluate("knn", "--data", tmp_path / "s")
    assert (
        code == 2 and "none of the 1 test classes (cellar); it has 2: attic, hall" in said and "choose another by --label" in said
    )


def test_some_unknown_classes_are_said(tmp_path, caplog):
    class_folder(tmp_path / "train", {"ant": 2, "bee": 2})
    class_folder(tmp_path / "val", {"ant": 2, "cow": 2}, seed=100)
    with caplog.at_level(logging.WARNING):
        check_images(folder(tmp_path / "train"), folder(tmp_path / "val"))
    assert "training knows 1 of 2 test classes" in caplog.text and "cow" in caplog.text


def test_splits_are_for_stores(tmp_path, evaluate):
    class_folder(tmp_path / "train", {"ant": 3, "bee": 3})
    class_folder(tmp_path / "val", {"ant": 2, "bee": 2}, seed=100)
    (tmp_path / "val" / "ant" / "notes.txt").touch()
    folders = ("--train-data", tmp_path / "train", "--data", tmp_path / "val")
    code, said = evaluate("knn", *folders, "--out", tmp_path / "o.json")
    protocol = json.loads((tmp_path / "o.json").read_text())["protocol"]
    assert code == 0 and ", split" not in said and "split" not in protocol and "train_split" not in protocol
    assert protocol["test_folder_notes"] == [f"{tmp_path}/val: other files: 1 (1 .txt)"] and "train_folder_notes" not in protocol
    for words in (["--split", "val"], ["--train-split", "train"], ["--frame-stride", 2]):
        code, said = evaluate("knn", *folders, *words)
        assert code == 2 and words[0] in said and "image folders have no" in said
    for number, place in enumerate(("hall", "attic")):
        write_take(tmp_path / "s", f"t{number}", place=place)
        write_take(tmp_path / "s", f"v{number}", place=place, split="val")
    assert "split val" in evaluate("knn", "--data", tmp_path / "s", "--k", 1)[1]
