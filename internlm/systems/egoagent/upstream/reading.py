"""Weights in the layout of the published project: one ``model_tp<rank>_pp0.pt`` per tensor-parallel rank, in its names.

``names`` says which tensor is which and how the ranks share it. Files are read with ``weights_only``: they can
hold tensors and plain values, and execute nothing.
"""

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from internlm.config.legacy import translate_model
from internlm.core.errors import ConfigError, UserError

from ..config import ModelConfig
from ..network import EgoNetwork
from .names import CODEBOOK, GAIN, HEAD_SIZES, NAMES, ROTARY, Split

_SHARD = re.compile(r"model_tp(\d+)_pp(\d+)\.pt")
_WRAPPERS = ("model.", "module.")
Rename = Sequence[tuple[str, str]]  # (regular expression of an upstream name, what it is in ``NAMES``)
ACTIONS = ("action_query", "pose_projector.", "pose_head.", "context_projector.")


class UpstreamError(UserError):
    """A folder in upstream's layout that cannot be read completely; the message names the file or the tensor."""


@dataclass(frozen=True)
class UpstreamNetwork:
    """One branch as upstream saved it, in our names."""

    folder: Path
    model: ModelConfig
    tensors: dict[str, Tensor]  # float32, merged over the ranks
    ranks: int  # tensor-parallel
    step: int  # the folder's name where that is a number, else 0
    unused: tuple[str, ...]  # upstream's names
    actions: bool  # whether the action parts are among the tensors


def is_upstream(folder: str | Path) -> bool:
    """Whether a folder, or its newest numbered sub-folder, holds model files of upstream's layout."""
    return bool(_shards(_step_folder(Path(folder))))


def read_upstream(folder: str | Path, *, model: ModelConfig | None = None, rename: Rename = ()) -> UpstreamNetwork:
    """Read and merge one branch.

    Args:
        folder: ``<JOB>/<step>`` or ``<JOB>``, of which the newest step is taken.
        model: shape of the network; None reads ``model_config.pt``.
        rename: regular expressions of whole upstream names and what they are in ``NAMES``; an empty text drops the tensor.

    Raises UpstreamError naming the missing file, the missing or unknown tensors, or the tensor whose shape does not fit.
    """
    folder = _step_folder(Path(folder))
    if not folder.is_dir():
        raise UpstreamError(f"{folder} is not a folder")
    states = [_renamed(_load_shard(path), rename) for path in _complete_shards(folder)]
    mapped, unused, unknown = _sort_names(states)
    model = model or _read_model(folder, states[0])
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in EgoNetwork(model).state_dict().items()}
    actions = any(name.startswith(ACTIONS) for name in mapped)
    if not actions:
        expected = {name: shape for name, shape in expected.items() if not name.startswith(ACTIONS)}
    # Upstream's BatchNorm counter is absent from some versions of PyTorch's files and counts for nothing here.
    missing = [name for name in expected if name not in mapped and not name.endswith("num_batches_tracked")]
    unknown += [upstream for name, (upstream, _) in mapped.items() if name not in expected]
    if missing or unknown:
        raise UpstreamError(_unmatched(folder, missing, unknown))
    tensors = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in expected.items() if name not in mapped}
    for name, (upstream, split) in mapped.items():
        tensors[name] = _merge(folder, upstream, [s[upstream] for s in states if upstream in s], split, expected[name])
    _check_computed(folder, states, model)
    step = int(folder.name) if folder.name.isdigit() else 0
    return UpstreamNetwork(folder, model, tensors, len(states), step, tuple(sorted(unused)), actions)


def _step_folder(folder: Path) -> Path:
    if not folder.is_dir() or _shards(folder):
        return folder
    steps = [path for path in folder.iterdir() if path.name.isdigit() and path.is_dir() and _shards(path)]
    return max(steps, key=lambda path: int(path.name), default=folder)


def _shards(folder: Path) -> dict[tuple[int, int], Path]:
    """(tensor-parallel rank, pipeline rank) -> file."""
    found = ((_SHARD.fullmatch(path.name), path) for path in folder.glob("*.pt"))
    return {(int(match[1]), int(match[2])): path for match, path in found if match}


def _complete_shards(folder: Path) -> list[Path]:
    shards = _shards(folder)
    if not shards:
        raise UpstreamError(f"{folder} holds no model_tp<rank>_pp<rank>.pt, nor does a numbered sub-folder of it")
    stages = 1 + max(pp for _, pp in shards)
    if stages > 1:
        raise UpstreamError(f"{folder} is split over {stages} pipeline stages; only a single stage, as published, is read")
    ranks = 1 + max(tp for tp, _ in shards)
    missing = [f"model_tp{tp}_pp0.pt" for tp in range(ranks) if (tp, 0) not in shards]
    if missing:
        raise UpstreamError(f"{folder} has shards up to tensor-parallel rank {ranks - 1} but lacks {', '.join(missing)}")
    return [shards[tp, 0] for tp in range(ranks)]


# Where upstream's versions keep their config class, a dict with attributes; plain dicts are made in its place.
_CONFIG_CLASSES = ("internlm.core.context.parallel_context.Config", "internlm.core.context.Config")


def _load(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([(OrderedDict, name) for name in _CONFIG_CLASSES]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        reason = found[1] if found else str(error).splitlines()[0]
        raise UpstreamError(f"{path} holds more than tensors and plain values, or is damaged: {reason}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UpstreamError(f"{path} cannot be read: {reason}") from error


def _load_shard(path: Path) -> dict[str, Tensor]:
    state = _load(path)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UpstreamError(f"{path} is not a dict of tensors by name")
    for wrapper in _WRAPPERS:  # of mixed precision and of data parallelism
        if all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    return state


def _renamed(state: dict[str, Tensor], rename: Rename) -> dict[str, Tensor]:
    result = {}
    for name, tensor in state.items():
        for pattern, replacement in rename:
            if match := re.fullmatch(pattern, name):
                name = match.expand(replacement)
                break
        if name in result:
            raise UpstreamError(f"--rename gives two tensors the name {name}")
        if name:
            result[name] = tensor
    return result


def _sort_names(states: list[dict[str, Tensor]]) -> tuple[dict[str, tuple[str, Split]], list[str], list[str]]:
    """Our name -> (upstream's name, split); names without use; unknown names."""
    mapped: dict[str, tuple[str, Split]] = {}
    unused, unknown = [], []
    for name in dict.fromkeys(name for state in states for name in state):
        if ROTARY.fullmatch(name) or GAIN.fullmatch(name) or CODEBOOK.fullmatch(name):
            unused.append(name)
            continue
        for pattern, ours, split in NAMES:
            if match := re.fullmatch(pattern, name):
                target = match.expand(ours)
                if target in mapped:
                    raise UpstreamError(f"{name} and {mapped[target][0]} both stand for {target}; drop one with rename")
                mapped[target] = (name, split)
                break
        else:
            unknown.append(name)
    return mapped, unused, unknown


def _unmatched(folder: Path, missing: list[str], unknown: list[str]) -> str:
    parts = [f"{folder} does not fit the network."]
    if missing:
        parts.append(f"Missing, in our names ({len(missing)}): {_listed(missing)}.")
    if unknown:
        parts.append(f"Unknown, in upstream's names ({len(unknown)}): {_listed(unknown)}.")
    parts.append("Give another name its meaning with --rename 'PATTERN=NAME', or drop a tensor with --rename 'PATTERN='.")
    return "\n".join(parts)


def _listed(names: list[str], most: int = 40) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _merge(folder: Path, name: str, parts: list[Tensor], split: Split, shape: torch.Size) -> Tensor:
    """One tensor from the ranks' parts, in float32 (counters keep their type)."""
    if split == "copy or rows":
        split = "copy" if parts[0].shape == shape else "rows"
    if split in ("copy", "first") and not all(torch.equal(part, parts[0]) for part in parts[1:]):
        raise UpstreamError(f"{folder}: the ranks hold different copies of {name}")
    try:
        if split == "rows":
            merged = torch.cat(parts)
        elif split == "columns":
            merged = torch.cat(parts, dim=1)
        elif split == "qkv":
            merged = torch.cat([part.unflatten(0, (3, -1)) for part in parts], dim=1).flatten(0, 1)
        else:
            merged = parts[0]
        # Summary tokens carry leading dimensions of 1 there.
        merged = merged.reshape(shape) if merged.numel() == shape.numel() and len(shape) == 1 else merged
    except RuntimeError as error:
        raise UpstreamError(f"{folder}: the {len(parts)} parts of {name} cannot be joined: {error}") from error
    if merged.shape != shape:
        joined = f"{folder}: {name} joined from {len(parts)} of the ranks' parts is {tuple(merged.shape)}"
        raise UpstreamError(f"{joined}, the network's is {tuple(shape)}; shards are missing, or the config is another model's")
    return merged.float().contiguous() if merged.is_floating_point() else merged.contiguous()


def _read_model(folder: Path, state: Mapping[str, Tensor]) -> ModelConfig:
    """The network's shape from ``model_config.pt``, the head's from its tensors."""
    path = folder / "model_config.pt"
    if not path.is_file():
        raise UpstreamError(f"{folder} has no model_config.pt; give the run's config with --config FILE")
    section = _load(path)
    if not isinstance(section, dict):
        raise UpstreamError(f"{path} holds a {type(section).__name__}, not the model section of a config; give --config FILE")
    try:
        values = translate_model(section, str(path))
        for key, pattern in HEAD_SIZES.items():
            sizes = [len(tensor) for name, tensor in state.items() if pattern.fullmatch(name)]
            values |= {key: sizes[0]} if sizes else {}
        values |= {"local_image_size": values["image_size"] // 2} if "image_size" in values else {}
        return ModelConfig.model_validate(values)
    except (ConfigError, ValueError) as error:
        raise UpstreamError(f"{path} cannot become a model config: {error}; give --config FILE") from error


def _check_computed(folder: Path, states: list[dict[str, Tensor]], model: ModelConfig) -> None:
    """What upstream stores and this network computes must agree: rotary frequencies, and the prototypes' gain of 1."""
    size = model.hidden_size // model.num_heads
    frequencies = model.rope_base ** -(torch.arange(0, size, 2, dtype=torch.float32) / size)
    for state in states:
        for name, tensor in state.items():
            if ROTARY.fullmatch(name) and not (
                tensor.shape == frequencies.shape and torch.allclose(tensor.float(), frequencies, rtol=2e-3, atol=1e-6)
            ):
                raise UpstreamError(f"{folder}: {name} are not the frequencies of head size {size} and base {model.rope_base:g}")
            if GAIN.fullmatch(name) and not torch.equal(tensor.float(), torch.ones_like(tensor, dtype=torch.float32)):
                raise UpstreamError(f"{folder}: {name} is not 1 everywhere; this head's prototypes have no gain")
