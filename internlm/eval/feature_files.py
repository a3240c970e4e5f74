"""Features of any model as files, so that a peer is measured by the same code: .npz or .safetensors, no pickle.

Labelled images: ``train_features`` [M, D], ``train_labels`` [M], ``test_features`` [N, D], ``test_labels`` [N]; labels are
integers from 0 on, or names (.npz). Optional ``train_<choice>`` and ``test_<choice>`` with the same rows are further features
that the linear probe may choose from. Optional ``classes``: names of the labels 0, 1, … (.npz: array; .safetensors: metadata,
JSON list); without it the classes are the integers that occur.

Frames of takes: ``features`` [F, D], ``takes`` [F] (integers, or names in .npz), ``frame_numbers`` [F], and optionally
``predictions`` [F, D], what the model expects after each frame.
"""

import json
import zipfile
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
    """ "train" and "test" features of a file. Raises EvalError naming the file and what is wrong in it."""
    arrays, classes = _read(Path(path))
    labels = {part: _labels(_need(arrays, f"{part}_labels", path), path, part) for part in ("train", "test")}
    if any(isinstance(found, list) for found in labels.values()):
        if not all(isinstance(found, list) for found in labels.values()):
            raise EvalError(f"{path}: labels are names in one part and numbers in the other; use one of them")
        names = {part: tuple(sorted(set(found))) for part, found in labels.items()}
        number = {part: {name: row for row, name in enumerate(known)} for part, known in names.items()}
        rows = {part: torch.tensor([number[part][name] for name in found]) for part, found in labels.items()}
    elif classes:
        if (highest := max(int(found.max()) for found in labels.values())) >= len(classes):
            raise EvalError(f"{path}: a label is {highest}, and the file has classes 0..{len(classes) - 1}")
        names, rows = dict.fromkeys(labels, tuple(classes)), labels
    else:
        numbers = {part: found.unique(return_inverse=True) for part, found in labels.items()}
        names = {part: tuple(map(str, known.tolist())) for part, (known, _) in numbers.items()}
        rows = {part: row for part, (_, row) in numbers.items()}
    found = {part: _features(arrays, part, rows[part], names[part], path) for part in ("train", "test")}
    sizes = {part: {name: values.shape[1] for name, values in found[part].values.items()} for part in found}
    if sizes["train"] != sizes["test"]:
        raise EvalError(f"{path}: numbers a row, by feature, are {sizes['train']} in training and {sizes['test']} in test")
    return found


def read_frames(path: str | Path) -> FrameFeatures:
    """Features of frames of takes. Raises EvalError naming the file and what is wrong in it."""
    arrays, _ = _read(Path(path))
    features = _matrix(_need(arrays, "features", path), "features", path)
    takes, numbers = (_integers_or_names(_need(arrays, name, path), name, path) for name in ("takes", "frame_numbers"))
    if not takes.shape == numbers.shape == features.shape[:1]:
        shapes = f"features {tuple(features.shape)}, takes {takes.shape}, frame_numbers {numbers.shape}"
        raise EvalError(f"{path}: shapes are {shapes}; need one of each a row")
    if numbers.dtype.kind == "U":
        raise EvalError(f"{path}: frame_numbers are names; they must be integers")
    rows = np.unique(takes, return_inverse=True)[1]
    predictions = None
    if "predictions" in arrays:
        predictions = _matrix(arrays["predictions"], "predictions", path)
        if predictions.shape != features.shape:
            shapes = f"predictions {tuple(predictions.shape)}, features {tuple(features.shape)}"
            raise EvalError(f"{path}: {shapes}; they must be of one shape")
    return FrameFeatures(features, torch.from_numpy(rows), torch.from_numpy(numbers.astype(np.int64)), predictions)


def _read(path: Path) -> tuple[dict[str, np.ndarray | Tensor], list[str]]:
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
    kind = path.suffix.lower()
    if kind not in readers:
        raise EvalError(f"{path}: stored features are .npz or .safetensors files")
    if not path.is_file():
        raise EvalError(f"{path}: {'is no file' if path.exists() else 'does not exist'}")
    try:
        arrays, classes = readers[kind](path)
    except Exception as error:  # of damaged files zipfile, zlib, numpy, safetensors and json raise a dozen kinds
        how = "without pickle " if kind == ".npz" else ""
        why = f"{path} cannot be read as {kind} {how}({path.stat().st_size} bytes): {error or type(error).__name__}"
        raise EvalError(f"{why}. If it was copied or cut off, write it again") from None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes) or len(set(classes)) < len(classes):
        raise EvalError(f"{path}: classes must be a list of names, each once")
    return arrays, classes


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no archive of arrays, or breaks off")
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    classes = np.asarray(arrays.pop("classes", []))
    return arrays, [str(name) for name in np.atleast_1d(_text(classes)).tolist()]


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(about.get("classes", "[]"))


def _text(array: np.ndarray) -> np.ndarray:
    """Names stored as bytes become text."""
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def _need(arrays: dict, name: str, path: str | Path):
    if name not in arrays:
        raise EvalError(f"{path} has no {name}; it holds {', '.join(sorted(arrays)) or 'nothing'}")
    return arrays[name]


def _labels(found, path: str | Path, part: str) -> Tensor | list[str]:
    array = _integers_or_names(found, f"{part}_labels", path)
    if array.ndim != 1 or not len(array):
        raise EvalError(f"{path}: {part}_labels have shape {array.shape}; they must be one integer or name a row")
    if array.dtype.kind == "U":
        return array.tolist()
    bad = np.flatnonzero((array < 0) | (array > np.iinfo(np.int64).max))
    if len(bad):
        what = f"{path}: {part}_labels: row {bad[0]} is {array[bad[0]]} ({len(bad)} such rows)"
        raise EvalError(f"{what}; labels are integers from 0 on; leave out rows without a class")
    return torch.from_numpy(array.astype(np.int64))


def _integers_or_names(found, name: str, path: str | Path) -> np.ndarray:
    if isinstance(found, Tensor):
        found = found.numpy() if not found.is_floating_point() and not found.is_complex() else found.float().numpy()
    try:
        array = _text(found)
    except UnicodeDecodeError:
        raise EvalError(f"{path}: {name} are names that are not UTF-8") from None
    if array.dtype.kind not in "iuU":
        raise EvalError(f"{path}: {name} are {array.dtype}; they must be integers or names")
    return array


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
    real = found.is_floating_point() if isinstance(found, Tensor) else found.dtype.kind == "f"
    if found.ndim != 2 or not real or 0 in found.shape:
        raise EvalError(f"{path}: {name} is {found.dtype} of shape {tuple(found.shape)}; need floating point [rows, numbers]")
    with np.errstate(over="ignore"):  # torch knows neither other byte orders nor long doubles, so numpy converts
        tensor = found.float() if isinstance(found, Tensor) else torch.from_numpy(found.astype(np.float32))
    bad = ~torch.isfinite(tensor).all(1)
    if bad.any():
        row, count = int(bad.nonzero()[0]), int(bad.sum())
        raise EvalError(f"{path}: row {row} of {name} is not finite in float32 ({count} such rows); leave them out")
    return tensor
