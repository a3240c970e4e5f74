"""A network, folders of labelled images and stored features for evaluations."""

import io

import numpy as np
from data_samples import picture
from PIL import Image

from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.config import ModelConfig

MODEL = ModelConfig(
    hidden_size=32, num_layers=1, num_heads=2, mlp_multiple_of=16, image_size=16, local_image_size=16, patch_size=8,
    prototypes=24, head_hidden=32, head_bottleneck=16, init_std=0.2,
)  # fmt: skip


def encoded(image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def class_folder(root, counts: dict[str, int], seed: int = 0):
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            (root / name / f"{index}.png").write_bytes(encoded(picture(seed + 10 * number + index, 20, 24)))
    return root


def configured() -> Config:
    return Config.model_validate({"model": MODEL.model_dump()})


def stored_arrays():
    rng = np.random.default_rng(0)
    return {
        "train_features": rng.normal(size=(8, 5)).astype(np.float32),
        "train_labels": np.arange(8) % 2,
        "test_features": rng.normal(size=(4, 5)).astype(np.float32),
        "test_labels": np.arange(4) % 2,
    }
