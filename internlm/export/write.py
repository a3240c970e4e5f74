"""A trained branch for use elsewhere: Hugging Face folder, ``torch.export`` program, ONNX graph; checked, or not there."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from internlm.config.load import save_config
from internlm.core.files import sync
from internlm.data.store.unfinished import unfinished
from internlm.systems.resolve import RECORD, RUN_CONFIG

from . import hub, programs
from .card import model_card
from .errors import ExportError
from .formats import require_packages
from .programs import Differences
from .results import Result, find_results, read_results
from .source import Source, load_source

CARD = "README.md"
# Largest difference from the network, as a share of the output's largest value or of 1: another runtime sums in another order.
TOLERANCE = {"hf": 1e-5, "torch-export": 1e-5, "onnx": 1e-4}


@dataclass(frozen=True)
class Exported:
    """Where it lies, and by format the largest difference of each output from the network's."""

    path: Path
    differences: Differences
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
        branch: of the system; None is a run's usual one for features, and the very weights of an upstream folder.
        results: JSON files of ``egoagent eval --out`` for the model card, beside those in the run folder.
        overwrite: replace an earlier export. Anything else at ``out`` is left alone.

    Raises ExportError for a difference beyond ``TOLERANCE`` (nothing is left behind then) and for what cannot be exported,
    CheckpointError or the layout's own error for a source that cannot be read, FileExistsError, ModuleNotFoundError.
    """
    out = Path(out).absolute()
    require_packages(formats)
    _check_target(out, overwrite)
    found = load_source(source, branch, rename)
    shown = (*find_results(found.path, found.step), *read_results(results, found.step))
    out.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(out) as folder:
        differences = _write_formats(folder, found, formats)
        _write_record(folder, found, formats, differences, shown)
        _settle(folder)
    return Exported(out, differences, shown)


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / RECORD).is_file():
        raise FileExistsError(f"{out} exists and is not an export; give a new folder")
    if not overwrite:
        raise FileExistsError(f"{out} holds an export already; give --overwrite to replace it")


def _write_formats(folder: Path, source: Source, formats: Sequence[str]) -> Differences:
    """Write and check each format; returns the differences. ExportError where one is too large or no number."""
    system, network, size, found = source.system, source.network, source.system.image_size, {}
    about = system.hub(network, source.branch)
    hub.write_preprocessing(folder, size, about.processor, with_code="hf" in formats)
    if "hf" in formats:
        hub.write_hf(folder, network, about)
        found["hf"] = hub.check_hf(folder, about)
    encoder = programs.Encoder(system, network, system.outputs)
    found |= programs.write_programs(folder, encoder, formats)
    with torch.no_grad():
        outputs = encoder(torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)))
    for name, differences in found.items():
        allowed = TOLERANCE[name] * max(1.0, *(output.abs().max().item() for output in outputs))
        wrong = {output: value for output, value in differences.items() if not value <= allowed}
        if wrong:
            raise ExportError(f"format {name} differs from the network by {wrong}, allowed is {allowed:.1e}; nothing was kept")
    return found


def _write_record(folder: Path, source: Source, formats: Sequence[str], found: Differences, results: Sequence[Result]) -> None:
    """What the folder is: the card for people, the record for programs, the run's config."""
    from internlm import __version__

    config = source.system.config
    save_config(config, folder / RUN_CONFIG, nameless=True)
    record: dict[str, Any] = {
        "format": "egoagent-export",
        "version": 1,
        "package": __version__,
        "torch": torch.__version__,
        "system": config.system,
        "source": source.path.name,
        "job": config.job_name,
        "step": source.step,
        "network": source.branch,
        "formats": list(formats),
        "largest_difference": found,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(model_card(source, formats, found, results), encoding="utf-8")


def _settle(folder: Path) -> None:
    """Flush every file to the disk; safetensors writes files that only their owner can read, give what the umask allows."""
    mode = (folder / RECORD).stat().st_mode
    for path in folder.iterdir():
        path.chmod(mode)
        sync(path)
