"""Features: order, cache, hostile images, stored features of other models, class lists, calibration of the random floor."""

import json

import numpy as np
import pytest
import torch
from data_samples import jpeg, picture, write_take
from feature_samples import MODEL, class_folder, configured, encoded, stored_arrays
from PIL import Image
from safetensors.torch import save_file

from internlm.data.decode import MAX_PIXELS, decode
from internlm.data.frames import DataError, ImageFolder, open_images
from internlm.data.view import eval_transform
from internlm.eval import feature_files, features
from internlm.eval.feature_cache import fingerprint
from internlm.eval.images import floors
from internlm.eval.images.classes import confusions, per_class, read_class_list, restrict
from internlm.eval.options import Extraction
from internlm.eval.tasks.knn.options import KnnOptions
from internlm.eval.tasks.knn.report import knn_report, stored_report
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.network import EgoNetwork
from internlm.systems.resolve import build_system


def mean_colour(images):
    return {"colour": images.float().mean((2, 3))}


COLOUR = features.Encoder(mean_colour, ("colour",), "mean colour")


# hostile images


def test_16_bits_keep_their_picture():
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    decoded = decode(encoded(Image.fromarray(grey)))
    np.testing.assert_array_equal(decoded, np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, -1))


def test_an_animation_gives_its_first_picture():
    first, second = picture(0), picture(1)
    data = encoded(Image.fromarray(first), "PNG", save_all=True, append_images=[Image.fromarray(second)])
    np.testing.assert_array_equal(decode(data), first)


def test_huge_images_are_refused_before_they_are_decoded():
    side = int(MAX_PIXELS**0.5) + 9
    header = bytearray(jpeg(picture(0)))
    start = header.index(b"\xff\xc0") + 5  # the frame header's height and width
    header[start : start + 4] = side.to_bytes(2, "big") * 2
    with pytest.raises(ValueError, match=f"{side} x {side} pixels"):
        decode(bytes(header))
    bomb = encoded(Image.new("1", (2 * side, side)))
    assert len(bomb) < 100_000
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(bomb)


def test_every_hostile_image_is_a_feature_or_a_counted_skip(tmp_path):
    good = picture(0)
    files = {
        "a_good.jpg": jpeg(good),
        "b_one_pixel.png": encoded(picture(0, 1, 1)),
        "c_line.png": encoded(np.full((1, 1_000_000, 3), 9, np.uint8)),
        "d_cmyk.jpg": encoded(Image.fromarray(good).convert("CMYK"), "JPEG"),
        "e_16bit.png": encoded(Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 100)),
        "f_animated.webp": encoded(Image.fromarray(good), "WEBP", save_all=True, append_images=[Image.fromarray(picture(1))]),
        "g_truncated.jpg": jpeg(good)[:300],
        "h_empty.png": b"",
        "i_text.jpg": b"not an image",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    source = ImageFolder(tmp_path)
    found = features.extract(source, [COLOUR], 16, Extraction(batch=2, max_broken_share=0.5))
    assert found.rows.tolist() == [0, 1, 2, 3, 4, 5] and found.unreadable == 3
    assert torch.isfinite(found.values["colour"]).all()
    with pytest.raises(DataError, match="more than data.max_broken_share"):
        features.extract(source, [COLOUR], 16, Extraction(batch=2, max_broken_share=0.1))
    for path in tmp_path.glob("[a-f]_*"):
        path.unlink()
    with pytest.raises(DataError, match=r"none of the 3 images can be read, the first is .*g_truncated.jpg"):
        features.extract(ImageFolder(tmp_path), [COLOUR], 16, Extraction(max_broken_share=1.0))


def test_a_feature_that_is_not_finite_names_the_image(tmp_path):
    source = ImageFolder(class_folder(tmp_path, {"cat": 5}))
    calls = []

    def run(images):
        calls.append(len(images))
        values = torch.ones(len(images), 2)
        if len(calls) == 2:
            values[1, 0] = torch.nan
        return {"model": values}

    with pytest.raises(ValueError, match=r"feature 'model' of .*cat/3.png is not finite \(1 of 2"):
        features.extract(source, [features.Encoder(run, ("model",))], 16, Extraction(batch=2))


def test_few_images_and_odd_classes_are_measured(tmp_path):
    """Seven training images, a class with one, a test class that training lacks, a training class that the test lacks."""
    train = ImageFolder(class_folder(tmp_path / "train", {"ant": 4, "bee": 1, "cow": 2}), labelled=True)
    test = ImageFolder(class_folder(tmp_path / "val", {"ant": 2, "dog": 1}, seed=500), labelled=True)
    (tmp_path / "train" / "empty").mkdir()
    report, _ = knn_report(build_system(configured()), train, test)
    protocol = report["protocol"]
    assert protocol["classes_of_one_train_image"] == 1 and protocol["test_images_of_unseen_classes"] == 1
    assert [row["class"] for row in report["per_class"]] == ["ant", "dog"]
    assert report["per_class"][1]["train_images"] == 0 and report["per_class"][1]["top1"] == 0
    assert report["top1"] <= 200 / 3 and set(report["floors"]) == {"random_weights", "random_weights_uncalibrated", "pixels"}
    with pytest.raises(ValueError, match="have no labels"):
        knn_report(build_system(configured()), ImageFolder(tmp_path / "train"), test)


# cache


def test_cache_is_found_again_and_misses_what_changed(tmp_path):
    folder = class_folder(tmp_path / "images", {"cat": 3, "dog": 3})
    source = ImageFolder(folder, labelled=True)
    cache, calls = tmp_path / "cache", []

    def counting(images):
        calls.append(len(images))
        return mean_colour(images)

    def extracted(identity="a", size=16, limit=None, source=source):
        encoder = features.Encoder(counting, ("colour",), identity)
        before = len(calls)
        found = features.extract(source, [encoder, features.PIXELS], size, Extraction(cache=cache, limit=limit))
        return found, len(calls) > before

    first, computed = extracted()
    again, repeated = extracted()
    assert computed and not repeated
    assert torch.equal(first.values["colour"], again.values["colour"]) and torch.equal(first.labels, again.labels)
    assert all(extracted(**change)[1] for change in ({"identity": "b"}, {"size": 8}, {"limit": 4}))
    (folder / "cat" / "0.png").write_bytes(encoded(picture(77, 31, 31)))
    assert extracted()[1], "a changed file is another image"
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(file.read_bytes()[:40])
    assert extracted()[1], "a damaged file is computed again"
    assert not extracted()[1] and not [p for p in (tmp_path / "cache").iterdir() if p.name.startswith(".")]
    files = len(list((tmp_path / "cache").iterdir()))
    features.extract(source, [features.Encoder(counting, ("colour",))], 16, Extraction(cache=cache))
    assert len(list((tmp_path / "cache").iterdir())) == files, "without an identity nothing is kept"


def test_fingerprint_of_stores_follows_their_frames(tmp_path):
    write_take(tmp_path / "s", "a")
    write_take(tmp_path / "s", "b", place="kitchen")
    sources = [open_images([tmp_path / "s"], "train", stride, "place") for stride in (1, 1, 2)]
    prints = [fingerprint(source) for source in sources]
    assert prints[0] == prints[1] != prints[2]
    subset, _ = restrict(sources[0], sources[1], _list(tmp_path, "hall"))
    assert fingerprint(subset) != prints[0] and len(subset) == 12
    assert subset.group(0) == str(tmp_path / "s" / "takes" / "a")


@pytest.mark.parametrize(("key", "value"), [("sequence", "block"), ("num_heads", 4), ("rope_base", 20.0), ("norm_eps", 0.1)])
def test_networks_that_differ_in_config_alone_share_no_features(key, value, tmp_path):
    source = ImageFolder(class_folder(tmp_path / "images", {"a": 2, "b": 2}))

    def configured(**changes):  # two layers, so that the mask between patches reaches the state
        return Config.model_validate({"model": MODEL.model_dump() | {"num_layers": 2} | changes})

    def floor(config, cache):
        how, system = Extraction(batch=4, cache=cache), build_system(config)
        encoders, _ = floors.random_encoders(system, source, "state", how)
        system.agent.observer.load_state_dict(floors.untrained(build_system(configured())).state_dict())
        encoders.append(features.encoder(system, system.branch("observer"), "state", how))
        return features.extract(source, encoders, 16, how).values

    kept = tmp_path / "cache"
    floor(configured(), kept)
    other = configured(**{key: value})
    cached, fresh = floor(other, kept), floor(other, None)
    assert len(fresh) == 3 and all(torch.equal(cached[name], values) for name, values in fresh.items())


def test_weights_decide_the_identity():
    network = EgoNetwork(MODEL, actions=False)
    before = features.network_identity(network)
    with torch.no_grad():
        network.state_query[3] += 1e-6
    assert features.network_identity(network) != before


# random floor


def test_calibration_gives_batch_norm_the_statistics_of_the_images(tmp_path):
    source = ImageFolder(class_folder(tmp_path, {"cat": 9}))
    system = build_system(configured())
    network = system.fresh_branch().eval()
    assert features.calibrate(system, network, source, Extraction()) == 9 and not network.training
    first, norm = network.stem.layers[0], network.stem.layers[1]
    images = torch.stack([torch.from_numpy(eval_transform(source.read(i), 16)) for i in range(9)])
    with torch.no_grad():
        seen = first(features.normalise(images))
    torch.testing.assert_close(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
    assert features.calibrate(system, EgoNetwork(MODEL.model_copy(update={"stem_norm": "layer"})), source, Extraction()) == 0


# class lists and tables


def _list(folder, *lines):
    path = folder / "classes.txt"
    path.write_text("\n".join(lines))
    return path


def test_class_lists(tmp_path):
    train = ImageFolder(class_folder(tmp_path / "t", {"ant": 2, "sea horse": 2, "n01": 1}), labelled=True)
    path = _list(tmp_path, "# chosen", "n01 tench, Tinca", "", "sea horse", "sea horse")
    assert read_class_list(path, train.classes) == ["n01", "sea horse"]
    subset, _ = restrict(train, train, path)
    assert subset.classes == ("n01", "sea horse") and len(subset) == 3
    assert [subset.label(i) for i in range(3)] == [0, 1, 1] and "sea horse/1" in subset.name(2)
    with pytest.raises(DataError, match="1 of 2 listed classes are not among the 3 .*: wolf"):
        restrict(train, train, _list(tmp_path, "ant", "wolf"))
    with pytest.raises(ValueError, match="names no class"):
        read_class_list(_list(tmp_path, "# nothing"), train.classes)


def test_tables_by_hand():
    classes, wanted = ("ant", "bee", "dog"), ("bee", "ant")
    truth = torch.tensor([0, 0, 0, 1, 2])
    ranked = torch.tensor([[1, 0], [0, 1], [0, -1], [0, 1], [1, 0]])
    rows = per_class(ranked, truth, torch.tensor([0, 0, 1]), classes, wanted)
    assert [(r["class"], r["images"], r["train_images"]) for r in rows] == [("ant", 3, 1), ("bee", 1, 2), ("dog", 1, 0)]
    assert [round(r["top1"]) for r in rows] == [33, 100, 0] and [round(r["top5"]) for r in rows] == [67, 100, 0]
    pairs = confusions(ranked[:, 0], truth, classes, wanted)
    assert [(p["true"], p["predicted"], p["images"]) for p in pairs] == [("ant", "bee", 2), ("dog", "ant", 1)]


# stored features


def test_stored_features_in_both_formats_are_the_same(tmp_path):
    arrays = stored_arrays()
    np.savez(tmp_path / "f.npz", **arrays, classes=np.array(["ant", "bee"]))
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    save_file(tensors, tmp_path / "f.safetensors", {"classes": json.dumps(["ant", "bee"])})
    names = {**arrays, "train_labels": np.array(["ant", "bee"] * 4), "test_labels": np.array(["ant", "bee"] * 2)}
    np.savez(tmp_path / "names.npz", **names)
    reports = []
    for name in ("f.npz", "f.safetensors", "names.npz"):
        report, _ = stored_report(feature_files.read_labelled(tmp_path / name), None, KnnOptions(k=(3,)))
        assert report["protocol"]["classes"] == ["ant", "bee"] and not report["floors"]
        reports.append(report)
    assert reports[0] == reports[1] == reports[2]


def test_stored_features_beside_their_images_get_the_pixel_floor(tmp_path):
    source = ImageFolder(class_folder(tmp_path / "i", {"ant": 2, "bee": 2}), labelled=True)
    nearly = ImageFolder(class_folder(tmp_path / "n", {"ant": 2, "bee": 2}), labelled=True)
    for path in (tmp_path / "n").rglob("*.png"):
        pixels = np.array(Image.open(path))
        pixels[5:9, 5:9] ^= 1
        path.write_bytes(encoded(pixels))
    rows, labels = np.eye(4, dtype=np.float32), np.array(["ant", "ant", "bee", "bee"])
    train = {"train_features": rows, "train_labels": labels}
    np.savez(tmp_path / "f.npz", **train, test_features=2 * rows, test_labels=labels)
    stored = feature_files.read_labelled(tmp_path / "f.npz")
    report, _ = stored_report(stored, (source, nearly), KnnOptions(k=(1,)))
    assert report["top1"] == report["floors"]["pixels"] == 100
    assert report["protocol"]["test_features_equal_to_a_training_feature"] == 0
    with pytest.raises(ValueError, match="4 of 4 test images are training images as well"):
        stored_report(stored, (source, source))
    other = ImageFolder(class_folder(tmp_path / "j", {"ant": 1, "bee": 3}), labelled=True)
    with pytest.raises(ValueError, match="feature 1 is of class 'ant', image 1 of 'bee'"):
        stored_report(stored, (other, nearly))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_features": None}, "has no train_features"),
        ({"test_labels": None}, "has no test_labels; it holds"),
        ({"train_features": np.full((8, 5), np.nan, np.float32)}, "row 0 of train_features is not finite"),
        ({"train_features": np.zeros((8, 5), np.int64)}, "need floating point"),
        ({"train_labels": np.arange(7)}, "train_features has 8 rows, train_labels has 7"),
        ({"train_labels": np.zeros(8)}, "float64; they must be integers or names"),
        ({"train_labels": -np.ones(8, np.int64)}, r"row 0 is -1 \(8 such rows\); labels are integers from 0 on"),
        ({"train_labels": np.array([{}] * 8)}, "cannot be read as .npz without pickle"),
    ],
)
def test_bad_stored_features_are_named(change, message, tmp_path):
    arrays = {name: value for name, value in {**stored_arrays(), **change}.items() if value is not None}
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        feature_files.read_labelled(tmp_path / "f.npz")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "f.safetensors").write_bytes(b"\x10")
    (tmp_path / "f.pt").write_bytes(b"")
    for name in ("f.safetensors", "f.pt", "absent.npz"):
        with pytest.raises(ValueError, match=f"{name}"):
            feature_files.read_labelled(tmp_path / name)
