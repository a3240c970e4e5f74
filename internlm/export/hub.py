"""A network as a Hugging Face folder: weights, configuration, preprocessing and the code that runs them."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from internlm.data.view import describe_view
from internlm.systems.base import Hub
from internlm.systems.resolve import SHAPE, WEIGHTS

from .errors import ExportError
from .sources import exported_sources

PREPROCESSING = "preprocessor_config.json"
_CHECK_SECONDS = 1800


def write_hf(folder: Path, network: nn.Module, hub: Hub) -> None:
    """Write weights, configuration and code into ``folder``, for ``AutoModel.from_pretrained`` with ``trust_remote_code``."""
    tensors = {f"network.{name}": tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    _write_json(folder / SHAPE, hub.config)
    for name, text in exported_sources(hub.entries, hub.replaced).items():
        (folder / name).write_text(text, encoding="utf-8")


def write_preprocessing(folder: Path, image_size: int, processor: str, *, with_code: bool) -> None:
    """The evaluation view in the keys of image processors; every exported form has this file."""
    code = {"auto_map": {"AutoImageProcessor": processor}} if with_code else {}
    name = processor.rpartition(".")[2]
    _write_json(folder / PREPROCESSING, {"image_processor_type": name, **code, **describe_view(image_size)})


def check_hf(folder: Path, hub: Hub) -> dict[str, float]:
    """Largest difference of every output between the folder, loaded by a process without this package, and the network.

    Raises ExportError when that process fails.
    """
    with tempfile.TemporaryDirectory(prefix="egoagent-export-") as temporary:
        probe = Path(temporary) / "probe.safetensors"
        save_file(hub.probe(), probe)
        offline = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": f"{temporary}/modules", "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-I", str(hub.check), str(folder.resolve()), str(probe.resolve())]
        how = {"cwd": temporary, "env": os.environ | offline, "timeout": _CHECK_SECONDS}
        try:
            done = subprocess.run(command, capture_output=True, text=True, **how)
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"{folder}: loading it took more than {_CHECK_SECONDS} s and was stopped") from error
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise ExportError(f"{folder} cannot be loaded without this package:\n{last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
