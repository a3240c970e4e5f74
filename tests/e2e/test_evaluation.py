"""The evaluation commands on a small checkpoint, as a user types them, upstream's arguments and stored features included."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from internlm import cli
from internlm.checkpoint.manager import CheckpointManager
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.network import EgoAgent

MODEL = {
    "hidden_size": 32, "num_layers": 1, "num_heads": 2, "mlp_multiple_of": 16, "image_size": 16, "local_image_size": 16,
    "patch_size": 8, "prototypes": 24, "head_hidden": 32, "head_bottleneck": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint and an image folder with train/ and val/ of three classes."""
    root = tmp_path_factory.mktemp("evaluation")
    config = Config.model_validate({"model": MODEL})
    torch.manual_seed(0)
    agent = EgoAgent(config.model)
    parts = {"predictor": agent.predictor.state_dict(), "observer": agent.observer.state_dict()}
    CheckpointManager(root / "run" / "checkpoints").save(3, parts, {"config": config.model_dump(mode="json")})
    for split, count in (("train", 6), ("val", 3)):
        for number, name in enumerate(("ant", "bee", "cow")):
            (root / "images" / split / name).mkdir(parents=True)
            for index in range(count):
                seed = 100 * number + index + 10 * (split == "val")
                noise = np.random.default_rng(seed).integers(0, 60, (20, 20, 3), dtype=np.uint8)
                noise[..., number] += 150
                buffer = io.BytesIO()
                Image.fromarray(noise).save(buffer, "PNG")
                (root / "images" / split / name / f"{index}.png").write_bytes(buffer.getvalue())
    return root


def evaluated(made, *words) -> dict:
    out = made / "out.json"
    assert cli.main(["eval", *map(str, words), "--device", "cpu", "--out", str(out)]) == 0
    return json.loads(out.read_text())


def folders(made):
    return "--train-data", made / "images" / "train", "--data", made / "images" / "val"


def test_upstreams_arguments(made, root, run_command, tmp_path):
    """The script's name and arguments of the published project, in a process of its own; the printed lines too."""
    words = ["--pretrained_weights", made / "run", "--data_path", made / "images", "--imgnet", 1000, "--knn_t", 0.07]
    done = run_command(["python", root / "eval_knn.py", *words, "--out", tmp_path / "knn.json", "--device", "cpu"])
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "knn.json").read_text())
    assert f"20-NN classifier result: Top1: {report['top1']:.4g}, Top5: {report['top5']:.4g}" in done.stdout
    assert report["protocol"]["classes"] == ["ant", "bee", "cow"] and report["protocol"]["test_images"] == 9
    assert "the data has 3 classes" in done.stdout


def test_upstreams_arguments_that_say_too_little(made, capsys, tmp_path):
    base = ["eval", "knn", "--pretrained_weights", str(made / "run")]
    assert cli.main([*base, "--data_path", str(made / "images"), "--imgnet", "2"]) == 2
    assert "--class-list FILE" in capsys.readouterr().err
    assert cli.main([*base, "--data_path", str(made / "images" / "val")]) == 2
    assert "has no folder train and no val; it holds ['ant', 'bee', 'cow']" in capsys.readouterr().err
    assert cli.main([*base, "--data_path", str(tmp_path / "absent")]) == 2
    assert "it holds nothing" in capsys.readouterr().err


def test_knn_of_some_classes_with_pictures_and_cache(made, capsys):
    (made / "list.txt").write_text("cow\nant\n")
    words = ["knn", "--run", made / "run", *folders(made), "--class-list", made / "list.txt", "--k", 3]
    words += ["--cache", made / "cache", "--pictures", made / "page.html", "--workers", 2]
    first = evaluated(made, *words)
    assert first["protocol"]["classes"] == ["ant", "cow"] and first["protocol"]["test_images"] == 6
    page = (made / "page.html").read_text()
    assert page.count("query: ") == 6 * 2 and "http" not in page  # once as caption, once as the picture's text
    assert evaluated(made, *words) == first and len(list((made / "cache").iterdir())) == 10
    other = evaluated(made, *words, "--which", "predictor", "--feature", "patch", "--dtype", "bfloat16")
    assert other["protocol"]["precision"] == "bfloat16" and other["protocol"]["branch"] == "predictor"


def test_linear_probe_and_few_shot(made):
    report = evaluated(made, "linear", "--run", made / "run", *folders(made), "--epochs", 20, "--shots", 1, 2, "--draws", 2)
    assert report["selected"]["feature"] in ("model.state", "model.patch", "model.bottleneck")
    assert len(report["grid"]) == 3 * 7 and [row["shots"] for row in report["few_shot"]] == [1, 2]
    assert report["floors"]["pixels"] >= 0 and report["figures"][0]["floors"]["chance"] == pytest.approx(100 / 3)


def test_stored_features_of_another_model(made):
    rng = np.random.default_rng(0)
    labels = np.array(["ant", "bee", "cow"])
    arrays = {}
    for part, count in (("train", 6), ("val", 3)):
        names = labels.repeat(count)
        centre = np.eye(3, 8)[np.repeat(np.arange(3), count)]
        key = "test" if part == "val" else part
        arrays |= {f"{key}_features": (centre + 0.01 * rng.normal(size=centre.shape)).astype(np.float32), f"{key}_labels": names}
    np.savez(made / "peer.npz", **arrays)
    knn = evaluated(made, "knn", "--features", made / "peer.npz", *folders(made), "--k", 5)
    assert knn["top1"] == 100 and list(knn["floors"]) == ["pixels"]
    linear = evaluated(made, "linear", "--features", made / "peer.npz", "--epochs", 20)
    assert linear["top1"] == 100 and linear["protocol"]["features"] == str(made / "peer.npz")
    frames = {"features": np.eye(4, dtype=np.float32), "takes": np.zeros(4, np.int64), "frame_numbers": np.arange(4) * 5}
    np.savez(made / "frames.npz", **frames)
    retrieval = evaluated(made, "retrieval", "--features", made / "frames.npz", "--frame-stride", 5)
    assert retrieval["queries"] == 3 and retrieval["gallery_items"] == 4
