"""From a config, or a checkpoint, to the system that it names."""

import json
from pathlib import Path
from types import ModuleType

import torch

from internlm.checkpoint.manager import CheckpointError, find_checkpoint
from internlm.checkpoint.run_config import settled_values
from internlm.config.resolve import DEFAULT, parse_config, system_module, system_names
from internlm.config.schema import Config
from internlm.core.boxes import Share

from .base import System

# Files of an exported folder. A record without ``system`` is of the default one; only the Hugging Face format has a shape.
RECORD, RUN_CONFIG, SHAPE, WEIGHTS = "export.json", "training_config.yaml", "config.json", "model.safetensors"


def build_system(config: Config) -> System:
    """The system of a config, freshly initialised on the current default device. Raises ConfigError for an unknown name."""
    return system_module(config.system, "system").build(config)


def build_system_on_meta(config: Config) -> System:
    """The same with shapes alone: nothing is drawn or allocated."""
    with torch.device("meta"):
        return build_system(config)


def load_system(path: str | Path, device: torch.device | str = "cpu") -> tuple[System, int]:
    """The system of a run folder or checkpoint folder with its weights, in evaluation mode on a device, and its step.

    An exported Hugging Face folder is read too, by its system's ``hf.reading``, which says what it stands for.
    Raises CheckpointError where there is no intact checkpoint, or one of another system.
    """
    exported = all((Path(path) / name).is_file() for name in (RECORD, SHAPE))
    system, step = _of_export(Path(path)) if exported else _of_checkpoint(path)
    for part in system.parts().values():
        part.module.to(device).eval()
    return system, step


def _of_checkpoint(path: str | Path) -> tuple[System, int]:
    newest = find_checkpoint(path, ())
    system = build_system(parse_config(settled_values(newest)))
    # Of what only training needs, an imported checkpoint may lack some.
    needed = {name: part.trained or part.follows for name, part in system.parts().items()}
    checkpoint = find_checkpoint(path, [name for name, always in needed.items() if always or name in newest.there])
    for name, stored in checkpoint.index.items():
        own = system.parts()[name].module.state_dict()
        shares = {key: Share.whole(tensor) for key, tensor in own.items() if needed[name] or key in stored}
        checkpoint.fill(name, shares, exact=bool(needed[name]))
    return system, checkpoint.step


def _of_export(folder: Path) -> tuple[System, int]:
    try:
        record = json.loads((folder / RECORD).read_bytes())
        system = str(record.get("system", DEFAULT))
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / RECORD} is damaged: {error}") from error
    return system_module(system, "hf.reading").read_folder(folder, record)


def foreign_layout(folder: str | Path) -> ModuleType | None:
    """``upstream.importing`` of the system that reads a folder in another project's layout; None where no system does.

    It has ``is_upstream(folder)``, ``import_upstream``, and ``open_branch(folder, branch, rename)``, which gives the folder of a
    step, a system whose config is right about the network alone and that has weights in one branch, that branch, and the step.
    """
    modules = (system_module(system, "upstream.importing") for system in system_names("upstream/importing.py"))
    return next((module for module in modules if module.is_upstream(folder)), None)
