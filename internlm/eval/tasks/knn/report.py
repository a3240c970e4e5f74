"""kNN of labelled images: a model or stored features in, a result with floors and protocol out."""

from dataclasses import replace
from typing import Any

import torch

from internlm.core.collectives import rank
from internlm.data.frames import ImageSource
from internlm.data.view import short_side
from internlm.systems.base import Embeds

from ...errors import EvalError
from ...features import PIXELS, Features, branch, encoder
from ...images.checks import check_images, check_stored
from ...images.classes import confusions, match_classes, per_class
from ...images.floors import both, random_encoders
from ...ranks import from_first
from ...report.page import Figure
from ...report.summary import named_floors
from .options import KnnOptions
from .vote import HEADLINE_K, decide

PIXEL_VIEW = 224  # side of the view behind the pixel floor where no model sets one
PLAIN = KnnOptions()


def knn_report(
    system: Embeds, train: ImageSource, test: ImageSource, options: KnnOptions = PLAIN
) -> tuple[dict[str, Any], dict[str, Features]]:
    """kNN accuracy in per cent beside the random-weights and the pixel floor, and the features of both sources.

    ``top1`` and ``top5`` are those of k = 20 (or the only k). Under torchrun only process 0 gets a report; the others get an
    empty one. Raises EvalError where ``check_images`` does.
    """
    which, kind = options.which or system.branches[0], options.feature or system.features[0]
    size = system.image_size
    check_images(train, test)
    random, calibrated = random_encoders(system, train, kind, options)
    own = encoder(system, branch(system, which), kind, options)
    found, copies = both(train, test, [own, *random, PIXELS], size, options)
    if rank():
        return {}, found
    report = score(found, options)
    report["protocol"] |= {
        "branch": which,
        "feature": kind,
        "precision": str(options.precision).removeprefix("torch."),
        "test_images_equal_to_a_training_image": copies,
        "view": f"short side to {short_side(size)}, bicubic with antialiasing, central {size}",
        "pixel_floor": "32x32 pixels, centred per image, same search and vote",
        "random_floor": "the untrained network of the same config, same protocol"
        + (f"; BatchNorm statistics from {calibrated} training images (uncalibrated: as initialised)" if calibrated else ""),
    }
    return report, found


def stored_report(
    stored: dict[str, Features], sources: tuple[ImageSource, ImageSource] | None, options: KnnOptions = PLAIN
) -> tuple[dict[str, Any], dict[str, Features]]:
    """The same for stored features "train" and "test" of any model.

    With the images they come from, in the same order, the pixel floor stands beside them. Raises EvalError when the images
    are others than the labels say. Under torchrun only process 0 gets a report.
    """
    found = {part: replace(features, values={"model": features.values["model"]}) for part, features in stored.items()}
    equal = from_first(lambda: check_stored(stored))
    if sources is not None:
        check_images(*sources)
        pixels, _ = both(*sources, [PIXELS], PIXEL_VIEW, options)
        if rank():
            return {}, pixels
        for part, features in found.items():
            _check_same_images(part, features, pixels[part])
            features.values["pixels"] = pixels[part].values["pixels"]
    if rank():
        return {}, found
    report = score(found, options)
    report["protocol"] |= {"branch": "stored", "feature": "as stored", "test_features_equal_to_a_training_feature": equal}
    report["protocol"]["pixel_floor"] = "32x32 pixels, centred per image" if sources else "none: no images were given"
    return report, found


def _check_same_images(part: str, stored: Features, images: Features) -> None:
    if len(stored.labels) != len(images.labels):
        counts = f"{len(stored.labels)} stored {part} features for {len(images.labels)} images"
        raise EvalError(f"{counts}: the pixel floor needs the same images in the same order; give them, or none")
    names = [[source.classes[label] for label in source.labels.tolist()] for source in (stored, images)]
    if names[0] != names[1] and not stored.classes[0].isdigit():
        row = next(i for i, (a, b) in enumerate(zip(*names, strict=True)) if a != b)
        stored_name, image_name = names[0][row], names[1][row]
        raise EvalError(f"stored {part} feature {row} is of class {stored_name!r}, image {row} of {image_name!r}: another order")


def score(found: dict[str, Features], options: KnnOptions = PLAIN) -> dict[str, Any]:
    """The report of features that are there: "model" is judged, every other name is a floor."""
    train, test = found["train"], found["test"]
    labels = match_classes(test.labels, test.classes, train.classes)
    headline = HEADLINE_K if HEADLINE_K in options.k else options.k[0]
    by_k, tables = {}, {}
    how = {"ks": options.k, "temperature": options.temperature, "backend": options.backend}
    for name in test.values:
        outcome = decide(train.values[name], train.labels, test.values[name].to(options.place), len(train.classes), **how)
        by_k[name] = {str(k): scores for k, scores in outcome.scores(labels).items()}
        if name == "model":
            ranked = outcome.ranked[headline].cpu()
            tables = {
                "per_class": per_class(ranked, test.labels, train.labels, test.classes, train.classes),
                "confusions": confusions(ranked[:, 0], test.labels, test.classes, train.classes),
            }
    occupied = torch.bincount(train.labels, minlength=len(train.classes))
    return {
        **by_k["model"][str(headline)],
        "k": headline,
        "floors": {name: rows[str(headline)]["top1"] for name, rows in by_k.items() if name != "model"},
        "chance": 100 / len(train.classes),
        "by_k": by_k,
        **tables,
        "protocol": {
            "unit": "per cent",
            "similarity": "cosine, exact search; ties to the lower index of the training images",
            "vote": f"exp(similarity / {options.temperature}), k above the number of training images uses all",
            "train_images": len(train.rows),
            "test_images": len(test.rows),
            "unreadable_images": train.unreadable + test.unreadable,
            "classes": list(train.classes),
            "classes_of_one_train_image": int((occupied == 1).sum()),
            "classes_without_train_image": [train.classes[i] for i in (occupied == 0).nonzero()[:, 0].tolist()],
            "test_images_of_unseen_classes": int((labels < 0).sum()),
        },
    }


def figures(report: dict[str, Any]) -> list[Figure]:
    """The printed rows of a report."""
    meaning = f"place class of a frame, k = {report['k']}; top-5 is {report['top5']:.1f} %"
    return [Figure("kNN top-1", report["top1"], "%", named_floors(report), meaning=meaning)]
