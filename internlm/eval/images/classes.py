"""Classes of a result: subsets by list file, per-class scores, and which class is taken for which."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from internlm.data.frames import ImageSource, ImageSubset

from ..errors import EvalError


def read_class_list(path: str | Path, known: tuple[str, ...]) -> list[str]:
    """Class names of a list file, one a line; blank lines and those that start with # do not count.

    A line is a class of ``known`` as a whole or by its first word (ImageNet's lists have the words after the number). Raises
    EvalError for an empty list; a name that is not in ``known`` is kept, so that whoever uses it can say where it is missing.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"class list {path} cannot be read: {error}") from None
    names = [line if line in known else line.replace(",", " ").split()[0] for line in lines if line and not line.startswith("#")]
    if not names:
        raise EvalError(f"class list {path} names no class; it needs one class folder's name a line")
    return list(dict.fromkeys(names))


def restrict(train: ImageSource, test: ImageSource, path: str | Path) -> tuple[ImageSource, ImageSource]:
    """Both sources with the classes of a list file only. Raises DataError when one of them lacks a listed class."""
    return tuple(ImageSubset(source, read_class_list(path, source.classes)) for source in (train, test))


def match_classes(labels: Tensor, classes: tuple[str, ...], wanted: tuple[str, ...]) -> Tensor:
    """Renumber labels of ``classes`` as those of ``wanted``, by name: int64 [N], -1 for a class (or label) that is not there."""
    number = {name: i for i, name in enumerate(wanted)}
    table = torch.tensor([number.get(name, -1) for name in classes] + [-1])
    return table[labels.where(labels >= 0, torch.full_like(labels, len(classes)))]


def per_class(
    ranked: Tensor, truth: Tensor, train_labels: Tensor, classes: tuple[str, ...], wanted: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Scores of each class of the test images, in per cent.

    ranked int64 [N, r] = the best classes of each image as numbers of ``wanted``, -1 where there is none; truth int64 [N] and
    train_labels as numbers of ``classes`` and ``wanted``. ``train_images`` of a class: 0 explains a score of 0.
    """
    right = (ranked == match_classes(truth, classes, wanted)[:, None]) & (ranked >= 0)
    voters = torch.bincount(train_labels[train_labels >= 0], minlength=len(wanted)).tolist()
    number = {name: i for i, name in enumerate(wanted)}
    known = truth >= 0
    images, first, any_of_five = (
        torch.bincount(truth[chosen], minlength=len(classes)).tolist()
        for chosen in (known, known & right[:, 0], known & right.any(1))
    )
    return [
        {
            "class": name,
            "images": images[label],
            "train_images": voters[number[name]] if name in number else 0,
            "top1": 100 * (first[label] / images[label]),
            "top5": 100 * (any_of_five[label] / images[label]),
        }
        for label, name in enumerate(classes)
        if images[label]
    ]


def confusions(
    predicted: Tensor, truth: Tensor, classes: tuple[str, ...], wanted: tuple[str, ...], *, most: int = 20
) -> list[dict[str, Any]]:
    """The most frequent mistakes: true class, predicted class, how many images, their share of the true class in per cent.

    predicted int64 [N] as numbers of ``wanted``, truth int64 [N] as numbers of ``classes``.
    """
    wrong = (truth >= 0) & (predicted >= 0) & (match_classes(truth, classes, wanted) != predicted)
    pairs, counts = torch.stack([truth[wrong], predicted[wrong]], 1).unique(dim=0, return_counts=True)
    total = torch.bincount(truth[truth >= 0], minlength=len(classes))
    order = counts.argsort(descending=True, stable=True)[:most].tolist()
    return [
        {
            "true": classes[int(pairs[i, 0])],
            "predicted": wanted[int(pairs[i, 1])],
            "images": int(counts[i]),
            "share": 100 * int(counts[i]) / int(total[pairs[i, 0]]),
        }
        for i in order
    ]
