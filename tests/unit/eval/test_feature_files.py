"""Stored features of other models: labels of any kind, what does not fit, and files that are damaged."""

import json
import time
import zipfile

import numpy as np
import pytest
import torch
from feature_samples import stored_arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from internlm import cli
from internlm.eval.errors import EvalError
from internlm.eval.feature_files import read_frames, read_labelled
from internlm.eval.tasks.knn.options import KnnOptions
from internlm.eval.tasks.knn.report import stored_report


@pytest.fixture
def evaluate(capsys):
    """The commands on a feature file: exit code and standard error."""

    def call(task, path, *words):
        code = cli.main(["eval", task, "--device", "cpu", "--features", str(path), *map(str, words)])
        return code, capsys.readouterr().err

    return call


def written(path, arrays, classes=None):
    if path.suffix == ".npz":
        np.savez(path, **arrays, **({} if classes is None else {"classes": np.array(classes)}))
    else:
        tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
        save_file(tensors, path, None if classes is None else {"classes": json.dumps(classes)})
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_labels_may_be_any_numbers_and_cost_what_their_classes_cost(tmp_path, suffix, evaluate):
    arrays = stored_arrays()
    scores = []
    for name, by in (("small", 1), ("large", 1_440_764), ("huge", 2**62 - 1)):
        changed = arrays | {f"{part}_labels": by * arrays[f"{part}_labels"].astype(np.int64) for part in ("train", "test")}
        path, start = written(tmp_path / f"{name}{suffix}", changed), time.perf_counter()
        for task, words in (("knn", ("--k", 3)), ("linear", ("--epochs", 5, "--shots", 1))):
            assert evaluate(task, path, *words, "--out", tmp_path / "o.json")[0] == 0
            report = json.loads((tmp_path / "o.json").read_text())
            scores.append([report[key] for key in ("top1", "top5", "chance")])
            assert report["protocol"]["classes"] == ["0", str(by)]
        assert time.perf_counter() - start < 20
    assert scores[:2] == scores[2:4] == scores[4:]


def test_labels_that_training_lacks_are_unseen_classes(tmp_path):
    arrays = stored_arrays() | {"test_labels": np.array([0, 1, 900_001, 1])}
    report, _ = stored_report(read_labelled(written(tmp_path / "f.npz", arrays)), None)
    assert report["protocol"]["test_images_of_unseen_classes"] == 1 and report["chance"] == 50
    for labels, message in ((np.full(4, 7), "training knows none of the 1 test classes"), (np.zeros(4, int), None)):
        arrays["test_labels"] = labels
        found = read_labelled(written(tmp_path / "f.npz", arrays))
        if message:
            with pytest.raises(EvalError, match=message):
                stored_report(found, None)
        else:
            stored_report(found, None)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0] * 8, [0] * 4, "all of one class, 'ant'"),
        ([0, 1] * 4, [2] * 4, r"none of the 1 test classes \(cow\); it has 2: ant, bee"),
    ],
)
def test_a_table_of_classes_does_not_hide_that_they_do_not_meet(tmp_path, train, test, message):
    arrays = stored_arrays() | {"train_labels": np.array(train), "test_labels": np.array(test)}
    stored = read_labelled(written(tmp_path / "f.npz", arrays, ["ant", "bee", "cow"]))
    with pytest.raises(EvalError, match=message):
        stored_report(stored, None)


def test_many_classes_are_quick(tmp_path):
    """20,000 classes, as ImageNet-21k has: tables of classes by classes would not end."""
    rng = np.random.default_rng(0)
    labels = np.arange(20_000)
    arrays = {"train_features": rng.normal(size=(20_000, 4)), "train_labels": labels, "test_labels": labels[:300]}
    arrays["test_features"] = arrays["train_features"][:300] + 1e-4
    start = time.perf_counter()
    stored = read_labelled(written(tmp_path / "f.npz", arrays))
    report, _ = stored_report(stored, None, KnnOptions(k=(1,)))
    assert report["top1"] > 95 and len(report["per_class"]) == 300 and time.perf_counter() - start < 20


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1] * 3 + [-1, 1]), r"row 6 is -1 \(1 such rows\)"),
        (np.array([0, 1] * 3 + [2**63, 1], np.uint64), "row 6 is 9223372036854775808"),
        (np.array([0.0, 1.0] * 4), "train_labels are float64; they must be integers or names"),
        (np.array([0.5, np.nan] * 4), "they must be integers or names"),
        (np.array([True, False] * 4), "they must be integers or names"),
        (np.array([1 + 1j] * 8), "they must be integers or names"),
        (np.zeros((8, 2), int), r"have shape \(8, 2\)"),
        (np.array(5), r"have shape \(\)"),
        (np.zeros(0, int), r"have shape \(0,\)"),
        (np.array([b"\xff", b"a"] * 4), "names that are not UTF-8"),
        (np.array(["a", "b"] * 4), "names in one part and numbers in the other"),
        (np.array([{}, None] * 4), "cannot be read as .npz without pickle"),
        (np.array(["2024-01-01"] * 8, "datetime64[D]"), "they must be integers or names"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, labels, message):
    np.savez(tmp_path / "f.npz", **stored_arrays() | {"train_labels": labels})
    with pytest.raises(EvalError, match=message):
        read_labelled(tmp_path / "f.npz")


def test_names_as_bytes_and_narrow_integers_are_labels(tmp_path):
    arrays = stored_arrays()
    for kind in (np.uint8, np.int16, ">i4", "S"):
        changed = {f"{part}_labels": arrays[f"{part}_labels"].astype(kind) for part in ("train", "test")}
        found = read_labelled(written(tmp_path / "f.npz", arrays | changed))
        assert found["train"].classes == ("0", "1") and found["train"].labels.tolist() == [0, 1] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_features": np.ones((4, 6), np.float32)}, r"numbers a row.*\{'model': 5\} in training and \{'model': 6\}"),
        ({"train_extra": np.ones((8, 2), np.float32)}, r"'extra': 2.* in training and \{'model': 5\} in test"),
        ({"train_features": np.ones((8, 5, 1), np.float32)}, "need floating point"),
        ({"train_features": np.ones(8, np.float32)}, "need floating point"),
        ({"train_features": np.ones((8, 0), np.float32)}, "need floating point"),
        ({"train_features": np.ones((8, 5), np.complex64)}, "need floating point"),
        ({"train_features": np.array([["x"] * 5] * 8)}, "need floating point"),
        ({"train_features": np.full((8, 5), 1e300)}, "not finite in float32"),
        ({"test_features": np.array([[np.inf] * 5] * 4)}, "row 0 of test_features is not finite"),
        ({"classes": np.array(["ant"])}, "a label is 1, and the file has classes 0..0"),
        ({"classes": np.array(["ant", "ant"])}, "classes must be a list of names, each once"),
        ({"classes": np.array([{}, {}])}, "without pickle"),
    ],
)
def test_features_that_do_not_fit_are_refused(tmp_path, change, message):
    np.savez(tmp_path / "f.npz", **stored_arrays() | change)
    with pytest.raises(EvalError, match=message):
        read_labelled(tmp_path / "f.npz")


def test_floating_point_of_any_kind_is_a_feature(tmp_path):
    arrays = stored_arrays()
    right = torch.from_numpy(arrays["train_features"])
    for kind in (np.float16, np.float64, ">f4", np.longdouble):
        found = read_labelled(written(tmp_path / "f.npz", arrays | {"train_features": arrays["train_features"].astype(kind)}))
        torch.testing.assert_close(found["train"].values["model"], right, atol=1e-3, rtol=1e-3)
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    save_file(tensors | {"train_features": right.bfloat16()}, tmp_path / "f.SafeTensors")
    assert read_labelled(tmp_path / "f.SafeTensors")["train"].values["model"].dtype == torch.float32
    save_file(tensors | {"train_labels": tensors["train_labels"].bfloat16()}, tmp_path / "g.safetensors")
    with pytest.raises(EvalError, match="they must be integers or names"):
        read_labelled(tmp_path / "g.safetensors")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_feature_files_are_a_message(tmp_path, suffix, compressed, evaluate):
    path = written(tmp_path / f"f{suffix}", stored_arrays(), ["ant", "bee"])
    if compressed and suffix == ".npz":
        np.savez_compressed(path, **stored_arrays())
    whole = path.read_bytes()

    @settings(max_examples=250, deadline=None, derandomize=True)
    @given(st.integers(0, len(whole) - 1), st.sampled_from(("cut", "flip", "zeros", "head")), st.integers(1, 255))
    def case(at, way, flipped):
        changed = {
            "cut": whole[:at],
            "flip": whole[:at] + bytes([whole[at] ^ flipped]) + whole[at + 1 :],
            "zeros": whole[:at] + bytes(min(512, len(whole) - at)) + whole[at + 512 :],
            "head": whole[at:],
        }[way]
        path.write_bytes(changed)
        for read in (read_labelled, read_frames):
            try:
                read(path)
            except EvalError as error:
                assert str(path) in str(error)

    case()
    for data in (whole[:-200], b"", whole[: len(whole) // 2], b"\0" * 4000, b"[1, 2]"):
        path.write_bytes(data)
        for task, words in (("knn", ()), ("linear", ()), ("retrieval", ("--frame-stride", 5))):
            code, said = evaluate(task, path, *words)
            assert code == 2 and f"{path} cannot be read as {suffix}" in said


def test_other_things_that_are_no_feature_files(tmp_path):
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("train_features", "hello")
    (tmp_path / "folder.npz").mkdir()
    save_file({"x": torch.ones(1)}, tmp_path / "odd.safetensors", {"classes": "5"})
    for name, message in (
        ("array.npz", "no archive of arrays"), ("zip.npz", "."), ("folder.npz", "is no file"), ("absent.npz", "does not exist"),
        ("odd.safetensors", "classes must be a list of names"),
    ):  # fmt: skip
        with pytest.raises(EvalError, match=f"{name}.*{message}"):
            read_labelled(tmp_path / name)
