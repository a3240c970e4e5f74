"""What labelled images must satisfy before a figure of them means anything: classes on both sides, and no image on both."""

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from internlm.data.frames import ImageSource, StoreImages

from ..errors import EvalError
from ..features import Features, digest

SHOWN = 5  # names in a message
SPLITS = ("val", "test", "valid", "validation")
log = logging.getLogger(__name__)


def check_images(train: ImageSource, test: ImageSource) -> None:
    """EvalError unless both sources have labels, classes can be told apart and compared, and no test image is a training image.

    An image is the same where links lead to one file, or where take and frame are the same. Copies are found by
    ``count_equal``, once the pixels have been read.
    """
    for name, source in (("train", train), ("test", test)):
        if not source.classes:
            raise EvalError(f"the {name} images have no labels; open them with a label (a key of the takes, or 'folder')")
    check_classes(train.classes, test.classes, _layout(train, test))
    known = {train.identity(row) for row in range(len(train))}
    shared = [row for row in range(len(test)) if test.identity(row) in known]
    if shared:
        what = f"{len(shared)} of {len(test)} test images are training images as well, {test.name(shared[0])} for one"
        way_out = "Keep the images of --data and --train-data apart; of take stores, --split and --train-split"
        raise EvalError(f"{what}: each would be measured by itself. {way_out}")


def check_classes(train: Sequence[str], test: Sequence[str], layout: str = "") -> None:
    """EvalError when training has fewer than two classes or knows none of the test classes; a warning when it lacks some."""
    if len(train) < 2:
        told = f"the training images are all of one class, {train[0]!r}: there is nothing to tell apart. {layout}"
        raise EvalError(told.rstrip())
    lacking = sorted(set(test) - set(train))
    if len(lacking) == len(set(test)):
        told = f"training knows none of the {len(lacking)} test classes ({_some(lacking)}); it has {len(train)}: {_some(train)}"
        raise EvalError(f"{told}. {layout}".rstrip())
    if lacking:
        log.warning(
            "training knows %d of %d test classes, so that all images of the others count as wrong: %s",
            len(set(test)) - len(lacking), len(set(test)), _some(lacking),
        )  # fmt: skip


def count_equal(train: Tensor, test: Tensor, what: str) -> int:
    """How many test rows [N, ...] are equal to a training row [M, ...] in every bit; a warning when some are."""
    known = {tuple(row) for row in train.tolist()}
    same = [row for row, values in enumerate(test.tolist()) if tuple(values) in known]
    if same:
        log.warning("warning: %d of %d test %s are equal to a training one, row %d for one", len(same), len(test), what, same[0])
    return len(same)


def check_stored(stored: dict[str, Features]) -> int:
    """How many stored test features are equal to a training feature. EvalError as ``check_classes``, for classes that occur."""
    parts = [stored[name] for name in ("train", "test")]
    check_classes(*([part.classes[row] for row in part.labels.unique().tolist()] for part in parts))
    return count_equal(*(digest(part.values[next(iter(part.values))]) for part in parts), "features")


def check_copies(train: Tensor, test: Tensor) -> int:
    """How many test images have the pixels of a training image, by their digests; EvalError when all of them have."""
    equal = count_equal(train, test, "images")
    if equal and equal == len(test):
        copies = f"every one of the {equal} test images has the same pixels as a training image, and would be measured by itself"
        raise EvalError(f"{copies}. Keep the images of --data and --train-data apart")
    return equal


def _layout(train: ImageSource, test: ImageSource) -> str:
    """What is probably wrong where the classes make no sense."""
    if isinstance(train, StoreImages) and isinstance(test, StoreImages):
        return "The classes of takes are the values of a label; choose another by --label, or other takes"
    for option, source, others in (("--train-data", train, test), ("--data", test, train)):
        splits = [name for name in SPLITS if name in source.classes]
        if "train" in source.classes and splits:
            return f"{option} has the folders train and {splits[0]}, which look like splits, not classes; name each by itself"
        parts = Path(source.name(0)).parts[:-1]
        below = [place for place, part in enumerate(parts) if part in others.classes and part not in source.classes]
        if below:
            return f"The class folders of {option} are further down, as in {Path(*parts[: below[-1]])}; name their parent folder"
    return (
        "Class folders are <folder>/<class>/<image> with the same names on both sides; a folder that holds all images together, "
        "as tiny-imagenet's val/images does, must be sorted into class folders by its list of labels first"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(list(names)[:SHOWN]) + (", …" if len(names) > SHOWN else "")
