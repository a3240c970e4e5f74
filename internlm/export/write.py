"""A trained branch for use elsewhere: Hugging Face folder, ``torch.export`` program, ONNX graph; checked, or not there."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from internlm.checkpoint.manager import find_checkpoint
from internlm.config.load import save_config
from internlm.core.files import sync
from internlm.data.store.unfinished import unfinished
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.network import EgoNetwork

from . import hf_folder, programs
from .card import model_card
from .errors import ExportError
from .hf_folder import RECORD, RUN_CONFIG
from .import_upstream import model_only_config, teacher_of
from .reading import load_agent
from .results import Result, find_results, read_results
from .upstream import is_upstream, read_upstream

FORMATS = ("hf", "torch-export", "onnx")
BRANCHES = ("observer", "predictor")
CARD = "README.md"
# Largest difference from the network, as a share of the output's largest value or of 1: another runtime sums in another order.
TOLERANCE = {"hf": 1e-5, "torch-export": 1e-5, "onnx": 1e-4}
_NEEDED = {"hf": ("transformers",), "torch-export": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}


@dataclass(frozen=True)
class Source:
    """What is exported and where it comes from."""

    path: Path
    network: EgoNetwork  # in eval mode, float32, on the CPU
    branch: str
    config: Config
    recorded: Config  # the same with the data's paths in the run's own words; those of ``config`` are for the working directory
    step: int
    trained_here: bool  # else imported from upstream's layout, with a config that is right about the model alone


@dataclass(frozen=True)
class Exported:
    """Where it lies, and by format the largest difference of each output from the network's."""

    path: Path
    differences: dict[str, dict[str, float]]
    results: tuple[Result, ...]


def export_model(
    source: str | Path,
    out: str | Path,
    *,
    formats: Sequence[str] = ("hf",),
    branch: str | None = None,
    results: Sequence[str | Path] = (),
    overwrite: bool = False,
    rename: Sequence[tuple[str, str]] = (),
) -> Exported:
    """Export a run, a checkpoint or a folder in upstream's layout.

    Args:
        branch: ``observer`` or ``predictor``; None is the observer of a run, and the very weights of an upstream folder.
        results: JSON files of ``egoagent eval --out`` for the model card, beside those in the run folder.
        overwrite: replace an earlier export. Anything else at ``out`` is left alone.

    Raises ExportError for a difference beyond ``TOLERANCE`` (nothing is left behind then) and for what cannot be read or
    exported, CheckpointError for a run that cannot be read, FileExistsError, ModuleNotFoundError.
    """
    out = Path(out).absolute()
    _require_packages(formats)
    _check_target(out, overwrite)
    found = load_source(source, branch, rename)
    shown = (*find_results(found.path, found.step), *read_results(results, found.step))
    out.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(out) as folder:
        differences = _write_formats(folder, found, formats)
        _write_record(folder, found, formats, differences, shown)
        _settle(folder)
    return Exported(out, differences, shown)


def load_source(source: str | Path, branch: str | None = None, rename: Sequence[tuple[str, str]] = ()) -> Source:
    """One branch of a run, a checkpoint or an upstream folder."""
    source = Path(source)
    if not source.exists():
        raise ExportError(f"{source} does not exist; give a run folder, a checkpoint (step_...) or a folder in upstream's layout")
    if not is_upstream(source):
        agent, config, step = load_agent(source)
        branch = branch or "observer"
        meta = find_checkpoint(source, ()).meta
        imported, recorded = "imported" in meta, Config.model_validate(meta["config"])
        network = getattr(agent, branch)
        if config.stage == "pretrain":  # its action parts were never trained
            network = _without_actions(network)
        return Source(source, network, branch, config, recorded, step, not imported)
    loaded = read_upstream(source, rename=rename)
    if branch == "observer":
        teacher = teacher_of(loaded.folder)
        if teacher is None:
            raise ExportError(f"{source} has no teacher beside it; without --network, the weights in it are exported")
        loaded = read_upstream(teacher, model=loaded.model, rename=rename)
    network = EgoNetwork(loaded.model, actions=branch != "observer" and loaded.actions)
    network.load_state_dict({name: loaded.tensors[name] for name in network.state_dict()})
    config = model_only_config(loaded)
    return Source(loaded.folder, network.eval(), branch or "predictor", config, config, loaded.step, False)


def _without_actions(network: EgoNetwork) -> EgoNetwork:
    images_only = EgoNetwork(network.config, actions=False)
    tensors = network.state_dict()
    images_only.load_state_dict({name: tensors[name] for name in images_only.state_dict()})
    return images_only.eval()


def _require_packages(formats: Sequence[str]) -> None:
    import importlib.util

    for name in formats:
        if name not in FORMATS:
            raise ExportError(f"format {name!r} is unknown; choose from {', '.join(FORMATS)}")
        for package in _NEEDED[name]:
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(
                    f"format {name} needs the package {package}: pip install 'egoagent[export]'", name=package
                )


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / RECORD).is_file():
        raise FileExistsError(f"{out} exists and is not an export; give a new folder")
    if not overwrite:
        raise FileExistsError(f"{out} holds an export already; give --overwrite to replace it")


def _write_formats(folder: Path, source: Source, formats: Sequence[str]) -> dict[str, dict[str, float]]:
    """Write and check each format; returns the differences."""
    network, model = source.network, source.config.model
    size, found = model.image_size, {}
    hf_folder.write_preprocessing(folder, size, with_code="hf" in formats)
    if "hf" in formats:
        hf_folder.write_hf(folder, network, model, source.branch)
        found["hf"] = _checked("hf", lambda: hf_folder.check_hf(folder, network, model), network, size)
    if {"torch-export", "onnx"} & set(formats):
        program = programs.trace(network, size)
    if "torch-export" in formats:
        path = folder / programs.TORCH_PROGRAM
        programs.write_torch_program(program, path)
        found["torch-export"] = _checked("torch-export", lambda: programs.check_torch_program(path, network, size), network, size)
    if "onnx" in formats:
        path = folder / programs.ONNX_PROGRAM
        programs.write_onnx(program, path)
        found["onnx"] = _checked("onnx", lambda: programs.check_onnx(path, network, size), network, size)
    return found


def _checked(name: str, check: Callable[[], dict[str, float]], network: EgoNetwork, size: int) -> dict[str, float]:
    """The differences that a check finds. ExportError where one is too large or no number."""
    differences = check()
    with torch.no_grad():
        patches, state = network.tokens(torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)))
    allowed = TOLERANCE[name] * max(1.0, patches.abs().max().item(), state.abs().max().item())
    wrong = {output: value for output, value in differences.items() if not value <= allowed}
    if wrong:
        raise ExportError(f"format {name} differs from the network by {wrong}, allowed is {allowed:.1e}; nothing was kept")
    return differences


def _write_record(
    folder: Path, source: Source, formats: Sequence[str], differences: dict[str, dict[str, float]], results: Sequence[Result]
) -> None:
    """What the folder is: the card for people, the record for programs, the run's config."""
    from internlm import __version__

    save_config(source.config, folder / RUN_CONFIG, nameless=True)
    record: dict[str, Any] = {
        "format": "egoagent-export",
        "version": 1,
        "package": __version__,
        "torch": torch.__version__,
        "source": source.path.name,
        "job": source.config.job_name,
        "step": source.step,
        "network": source.branch,
        "formats": list(formats),
        "largest_difference": differences,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(model_card(source, formats, differences, results), encoding="utf-8")


def _settle(folder: Path) -> None:
    """Flush every file to the disk; safetensors writes files that only their owner can read, give what the umask allows."""
    mode = (folder / RECORD).stat().st_mode
    for path in folder.iterdir():
        path.chmod(mode)
        sync(path)
