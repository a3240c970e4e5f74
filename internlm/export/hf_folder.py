"""A network as a Hugging Face folder: weights, configuration, preprocessing and the code that runs them."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from internlm.checkpoint.manager import CheckpointError
from internlm.config.load import load_config
from internlm.data.view import describe_view, eval_transform, normalise
from internlm.systems.egoagent.config import ModelConfig
from internlm.systems.egoagent.network import EgoNetwork

from .errors import ExportError
from .sources import exported_sources, source_of

WEIGHTS, CONFIG, PREPROCESSING = "model.safetensors", "config.json", "preprocessor_config.json"
RECORD, RUN_CONFIG = "export.json", "training_config.yaml"
_CHECK_SECONDS = 1800


def write_hf(folder: Path, network: EgoNetwork, config: ModelConfig, branch: str) -> None:
    """Write weights, configuration and code into ``folder``, for ``AutoModel.from_pretrained`` with ``trust_remote_code``."""
    tensors = {f"network.{name}": tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    _write_json(
        folder / CONFIG,
        {
            "architectures": ["EgoAgentModel"],
            "auto_map": {
                "AutoConfig": "configuration_egoagent.EgoAgentConfig",
                "AutoModel": "modeling_egoagent.EgoAgentModel",
            },
            "model_type": "egoagent",
            "dtype": "float32",
            "torch_dtype": "float32",  # the key's name before transformers 5
            "network": branch,
            "actions": hasattr(network, "action_query"),
            **config.model_dump(mode="json"),
        },
    )
    for name, text in exported_sources().items():
        (folder / name).write_text(text, encoding="utf-8")


def write_preprocessing(folder: Path, image_size: int, *, with_code: bool) -> None:
    """The evaluation view in the keys of image processors; every exported form has this file."""
    name = "EgoAgentImageProcessor"
    code = {"auto_map": {"AutoImageProcessor": f"image_processing_egoagent.{name}"}} if with_code else {}
    _write_json(folder / PREPROCESSING, {"image_processor_type": name, **code, **describe_view(image_size)})


@dataclass(frozen=True)
class HfFolder:
    """An exported folder, read back."""

    model: ModelConfig
    data: dict[str, Any]  # the run's data section
    branch: str
    job: str
    step: int
    tensors: dict[str, Tensor]  # in the network's own names


def is_export(folder: str | Path) -> bool:
    """Whether a folder is an export that holds the Hugging Face format."""
    return (Path(folder) / RECORD).is_file() and (Path(folder) / CONFIG).is_file()


def read_hf(folder: Path) -> HfFolder:
    """Read an exported folder with this package's own network. Raises CheckpointError naming the file that is damaged."""
    try:
        record, shape = json.loads((folder / RECORD).read_bytes()), json.loads((folder / CONFIG).read_bytes())
        model = ModelConfig.model_validate({name: shape[name] for name in ModelConfig.model_fields if name in shape})
        data = load_config(folder / RUN_CONFIG, quiet=True).data.model_dump()
        branch, job, step = str(record["network"]), str(record["job"]), int(record["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: {RECORD}, {CONFIG} or {RUN_CONFIG} is missing or damaged: {error}") from error
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} is missing, cut short or damaged: {error}") from error
    return HfFolder(model, data, branch, job, step, {name.removeprefix("network."): t for name, t in tensors.items()})


def check_hf(folder: Path, network: EgoNetwork, config: ModelConfig) -> dict[str, float]:
    """Largest difference of every output between the folder, loaded by a process without this package, and the network.

    Raises ExportError when that process fails.
    """
    with tempfile.TemporaryDirectory(prefix="egoagent-export-") as temporary:
        probe = Path(temporary) / "probe.safetensors"
        save_file(probe_of(network, config), probe)
        return run_check(folder, probe, Path(temporary) / "modules")


def run_check(folder: Path, probe: Path, modules: Path) -> dict[str, float]:
    """Run ``hf/check_folder.py`` on a folder and a probe, offline, with ``modules`` as the cache of remote code."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(modules), "HF_HUB_DISABLE_TELEMETRY": "1"}
    script = source_of("internlm.export.hf.check_folder")
    command = [sys.executable, "-I", str(script), str(folder.resolve()), str(probe.resolve())]
    try:
        done = subprocess.run(
            command, cwd=probe.parent, env=os.environ | offline, capture_output=True, text=True, timeout=_CHECK_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"{folder}: loading it took more than {_CHECK_SECONDS} s and was stopped") from error
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise ExportError(f"{folder} cannot be loaded without this package:\n{last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


@torch.no_grad()
def probe_of(network: EgoNetwork, config: ModelConfig, images: list[np.ndarray] | None = None) -> dict[str, Tensor]:
    """Inputs and the network's outputs for ``hf/check_folder.py``; ``images`` uint8 [H, W, 3], by default three random ones."""
    size = config.image_size
    rng = np.random.default_rng(0)
    if images is None:
        shapes = ((size, size), (size * 4 // 3 + 1, size * 2 + 3), (size * 2 + 3, size // 2 + 2))
        images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    pixels = normalise(torch.from_numpy(np.stack([eval_transform(image, size) for image in images])))
    patches, state = network.tokens(pixels)
    probe = {f"image.{index:04d}": torch.from_numpy(image) for index, image in enumerate(images)}
    probe |= {
        "pixel_values": pixels,
        "last_hidden_state": torch.cat((patches, state[:, None]), 1),
        "pooler_output": state,
        "bottleneck": network.head.bottleneck(state),
    }
    if hasattr(network, "action_query"):
        clip = _random_clip(rng, config)
        read = network.forward_clip(**clip)
        probe |= {f"clip.{name}": tensor for name, tensor in clip.items()}
        probe |= {f"predict.{name}": tensor for name, tensor in vars(read).items()}
    return {name: tensor.contiguous() for name, tensor in probe.items()}


def _random_clip(rng: np.random.Generator, config: ModelConfig, steps: int = 2) -> dict[str, Tensor]:
    shape = (1, steps, config.poses_per_step, config.num_joints)
    visible, past_visible = (torch.from_numpy(rng.random(shape) < 0.8) for _ in range(2))
    poses, past_poses = (torch.from_numpy(rng.normal(size=(*shape, 3)).astype(np.float32)) for _ in range(2))
    images = torch.from_numpy(rng.normal(size=(1, steps, 3, config.image_size, config.image_size)).astype(np.float32))
    return {"images": images, "poses": poses, "visible": visible, "past_poses": past_poses, "past_visible": past_visible}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
