"""Features of any model as files, so that a peer is measured by the same code: .npz or .safetensors, no pickle.

Labelled images: ``train_features`` [M, D], ``train_labels`` [M], ``test_features`` [N, D], ``test_labels`` [N]; labels are
integers, or names (.npz). Optional ``train_<choice>`` and ``test_<choice>`` with the same rows are further features that the
linear probe may choose from. Optional ``classes``: names of the integer labels (.npz: array; .safetensors: metadata, JSON list).

Frames of takes: ``features`` [F, D], ``takes`` [F] (integers, or names in .npz), ``frame_numbers`` [F], and optionally
``predictions`` [F, D], what the model expects after each frame.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import EvalError
from .features import Features


@dataclass(frozen=True)
class FrameFeatures:
    """Features of frames of takes."""

    features: Tensor  # float32 [F, D]
    takes: Tensor  # int64 [F]
    frame_numbers: Tensor  # int64 [F]
    predictions: Tensor | None  # float32 [F, D]


def read_labelled(path: str | Path) -> dict[str, Features]:
    """"train" and "test" features of a file. Raises EvalError naming the file and what is wrong in it."""
    arrays, classes = _read(Path(path))
    labels = {part: _labels(_need(arrays, f"{part}_labels", path), path, part) for part in ("train", "test")}
    if any(isinstance(found, list) for found in labels.values()):
        if not all(isinstance(found, list) for found in labels.values()):
            raise EvalError(f"{path}: labels are names in one part and numbers in the other; use one of them")
        names = {part: tuple(sorted(set(found))) for part, found in labels.items()}
        number = {part: {name: row for row, name in enumerate(known)} for part, known in names.items()}
        rows = {part: torch.tensor([number[part][name] for name in found]) for part, found in labels.items()}
    else:
        count = 1 + max(int(found.max()) for found in labels.values())
        known = classes or [str(number) for number in range(count)]
        if count > len(known) or min(int(found.min()) for found in labels.values()) < 0:
            raise EvalError(f"{path}: labels must lie in 0..{len(known) - 1}, the {len(known)} classes of the file")
        names, rows = dict.fromkeys(labels, tuple(known)), labels
    return {part: _features(arrays, part, rows[part], names[part], path) for part in ("train", "test")}


def read_frames(path: str | Path) -> FrameFeatures:
    """Features of frames of takes. Raises EvalError naming the file and what is wrong in it."""
    arrays, _ = _read(Path(path))
    features = _matrix(_need(arrays, "features", path), "features", path)
    takes, numbers = (np.asarray(_need(arrays, name, path)) for name in ("takes", "frame_numbers"))
    if not len(takes) == len(numbers) == len(features):
        raise EvalError(f"{path}: {len(features)} features, {len(takes)} takes, {len(numbers)} frame numbers; need one each")
    if numbers.dtype.kind not in "iu":
        raise EvalError(f"{path}: frame_numbers are {numbers.dtype}; they must be integers")
    rows = np.unique(takes, return_inverse=True)[1]
    predictions = None
    if "predictions" in arrays:
        predictions = _matrix(arrays["predictions"], "predictions", path)
        if predictions.shape != features.shape:
            shapes = f"predictions {tuple(predictions.shape)}, features {tuple(features.shape)}"
            raise EvalError(f"{path}: {shapes}; they must be of one shape")
    return FrameFeatures(features, torch.from_numpy(rows), torch.from_numpy(numbers.astype(np.int64)), predictions)


def _read(path: Path) -> tuple[dict[str, np.ndarray | Tensor], list[str]]:
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError) as error:
            raise EvalError(f"{path} cannot be read as .npz without pickle: {error}") from None
        classes = [str(name) for name in arrays.pop("classes", [])]
        return arrays, classes
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                return {name: file.get_tensor(name) for name in file.keys()}, list(json.loads(about.get("classes", "[]")))
        except (OSError, SafetensorError, ValueError) as error:
            raise EvalError(f"{path} cannot be read as .safetensors: {error}") from None
    raise EvalError(f"{path}: stored features are .npz or .safetensors files")


def _need(arrays: dict, name: str, path: str | Path):
    if name not in arrays:
        raise EvalError(f"{path} has no {name}; it holds {', '.join(sorted(arrays)) or 'nothing'}")
    return arrays[name]


def _labels(found, path: str | Path, part: str) -> Tensor | list[str]:
    array = np.asarray(found)
    if array.ndim != 1 or array.dtype.kind not in "iuU" or not len(array):
        raise EvalError(f"{path}: {part}_labels are {array.dtype} of shape {array.shape}; they must be one integer or name a row")
    return array.tolist() if array.dtype.kind == "U" else torch.from_numpy(array.astype(np.int64))


def _features(arrays: dict, part: str, labels: Tensor, classes: tuple[str, ...], path: str | Path) -> Features:
    prefix, values = f"{part}_", {}
    for name in sorted(arrays):
        if name.startswith(prefix) and name != f"{part}_labels":
            key = "model" if name == f"{part}_features" else name.removeprefix(prefix)
            values[key] = _matrix(arrays[name], name, path)
            if len(values[key]) != len(labels):
                raise EvalError(f"{path}: {name} has {len(values[key])} rows, {part}_labels has {len(labels)}")
    if not values:
        raise EvalError(f"{path} has no {part}_features; it holds {', '.join(sorted(arrays))}")
    return Features(values, labels, classes, torch.arange(len(labels)), 0)


def _matrix(found, name: str, path: str | Path) -> Tensor:
    tensor = torch.as_tensor(found)
    if tensor.dim() != 2 or not tensor.is_floating_point() or not tensor.numel():
        raise EvalError(f"{path}: {name} is {tensor.dtype} of shape {tuple(tensor.shape)}; need floating point [rows, numbers]")
    tensor = tensor.float()
    bad = ~torch.isfinite(tensor).all(1)
    if bad.any():
        row, count = int(bad.nonzero()[0]), int(bad.sum())
        raise EvalError(f"{path}: row {row} of {name} is not finite ({count} such rows); leave them out")
    return tensor
