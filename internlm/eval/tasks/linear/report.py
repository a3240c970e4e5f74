"""Linear probe and few-shot: a model or stored features in, a result with floors and protocol out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from internlm.core.collectives import rank
from internlm.data.augment import resize_crop
from internlm.data.frames import ImageSource
from internlm.systems.base import Embeds

from ...encoders import Encoder
from ...features import PIXELS, Features, branch, encoder, extract
from ...images.checks import check_images, check_stored
from ...images.classes import confusions, match_classes, per_class
from ...images.floors import RANDOM, both, random_encoders
from ...ranks import from_first
from ...report.page import Figure
from ...report.summary import named_floors
from . import probe as linear
from .options import LinearOptions

SEPARATOR = "."
PLAIN = LinearOptions()
Epochs = Callable[[int], dict[str, Tensor]]  # the model's features of an epoch, extracted by all processes together


def probe_report(system: Embeds, train: ImageSource, test: ImageSource, options: LinearOptions = PLAIN) -> dict[str, Any]:
    """Linear probe in per cent beside the same probe on an untrained network's features and on pixels.

    ``augment``: every epoch sees each training image in a new random crop (25 to 100 % of the area) and perhaps mirrored, its
    features extracted anew; the floors keep the plain view. Under torchrun process 0 gets the report, the others an empty one.
    """
    which, kinds, size = options.which or system.branches[0], options.feature or system.features, system.image_size
    check_images(train, test)
    own = encoder(system, branch(system, which), {f"model{SEPARATOR}{kind}": kind for kind in kinds}, options)
    random, calibrated = random_encoders(system, train, kinds[0], options)
    found, copies = both(train, test, [own, random[0], PIXELS], size, options)
    epochs = _augmented(train, own, size, options) if options.augment else None
    report = score(found, [train.group(row) for row in found["train"].rows.tolist()], options, epochs)
    if report:
        report["protocol"] |= {
            "branch": which,
            "test_images_equal_to_a_training_image": copies,
            "augmented": "random resized crop (25-100 % of the area) and mirroring, new in each epoch" if epochs else "no",
            "random_floor": f"untrained network, feature {kinds[0]}"
            + (f", BatchNorm statistics from {calibrated} training images" if calibrated else ""),
            "pixel_floor": "32x32 pixels, centred per image",
        }
    return report


def stored_report(stored: dict[str, Features], options: LinearOptions = PLAIN) -> dict[str, Any]:
    """The same for stored features "train" and "test" of any model, each of which is a choice; without floors."""
    equal = from_first(lambda: check_stored(stored))
    groups = [str(row) for row in range(len(stored["train"].rows))]
    # Their names as ``score`` takes them for choices of the model.
    named = {part: {f"model{SEPARATOR}{name}": x for name, x in each.values.items()} for part, each in stored.items()}
    report = score({part: replace(stored[part], values=values) for part, values in named.items()}, groups, options)
    if report:
        report["protocol"]["test_features_equal_to_a_training_feature"] = equal
    return report


def score(
    found: dict[str, Features], groups: list[str], recipe: LinearOptions = PLAIN, epochs: Epochs | None = None
) -> dict[str, Any]:
    """The report of features that are there: "model" and "model.<choice>" are judged, every other name is a floor.

    ``groups`` names what must not be parted among the training images.
    """
    train, test = found["train"], found["test"]
    held = from_first(lambda: linear.hold_out(train.labels, groups, recipe.held_out, recipe.seed))
    task = _Task(train, test, match_classes(test.labels, test.classes, train.classes), held, recipe)
    parts: dict[str, list[str]] = {}
    for name in test.values:
        parts.setdefault(name.partition(SEPARATOR)[0], []).append(name)
    results = {part: _choose_and_test(task, names, epochs if part == "model" else None) for part, names in parts.items()}
    if rank():
        return {}
    report = results.pop("model")
    top = report.pop("top")
    report |= {
        "floors": {name: result["top1"] for name, result in results.items()},
        "chance": 100 / task.classes,
        "per_class": per_class(top, test.labels, train.labels, test.classes, train.classes),
        "confusions": confusions(top[:, 0], test.labels, test.classes, train.classes),
        "protocol": _protocol(task),
    }
    if recipe.shots:
        report["few_shot"] = [_few_shot(task, report["selected"]["feature"], shots) for shots in recipe.shots]
    return report


@dataclass(frozen=True)
class _Task:
    """What probes are trained on, chosen by and tested on, and how."""

    train: Features
    test: Features
    truth: Tensor  # int64 [N]: the test labels as the training's, -1 for a class that it never saw
    held: Tensor  # bool [M]: the training images to choose by
    recipe: LinearOptions

    @property
    def classes(self) -> int:
        return len(self.train.classes)


def _choose_and_test(task: _Task, names: list[str], epochs: Epochs | None) -> dict[str, Any]:
    """Train the grid on what is not held out, choose on what is, train the choice on everything, test it once."""
    train, held = task.train, task.held
    values = {name: train.values[name] for name in names}
    grid = _train(task, values, ~held, task.recipe, epochs)
    rows = [] if rank() else grid.held_out({name: value[held] for name, value in values.items()}, train.labels[held])
    best = from_first(lambda: min(rows, key=lambda row: (-row["held_out_top1"], row["held_out_loss"])))
    chosen, rates = {best["feature"]: values[best["feature"]]}, replace(task.recipe, rates=(best["rate"],))
    final = _train(task, chosen, torch.ones_like(held), rates, epochs)
    if rank():
        return {}
    top = final.top({name: task.test.values[name] for name in chosen})[best["feature"]]
    top1, top5 = linear.accuracy(top, task.truth)[0].tolist()
    return {"top1": top1, "top5": top5, "selected": best, "grid": rows, "top": top[0]}


def _train(task: _Task, x: dict[str, Tensor], used: Tensor, recipe: LinearOptions, epochs: Epochs | None) -> linear.Grid | None:
    plain = {name: value[used] for name, value in x.items()} if not rank() else {}
    grid = None if rank() else linear.Grid(plain, task.train.labels[used], task.classes, recipe, recipe.place)
    for epoch in range(recipe.epochs):
        fresh = epochs(epoch) if epochs else {}
        if grid is not None:
            grid.epoch({name: fresh[name][used] for name in x} if epochs else plain)
    return grid


def _augmented(train: ImageSource, own: Encoder, size: int, options: LinearOptions) -> Epochs:
    """Features of an epoch's random views; the view of an image is a function of seed, epoch and row."""

    def epoch_features(epoch: int) -> dict[str, Tensor]:
        def view(image: np.ndarray, row: int) -> np.ndarray:
            rng = np.random.default_rng((options.seed, epoch, row))
            height, width = image.shape[:2]
            scale, ratio = rng.uniform(0.25, 1.0), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            high = min(height, max(1, round((height * width * scale / ratio) ** 0.5)))
            wide = min(width, max(1, round((height * width * scale * ratio) ** 0.5)))
            box = int(rng.integers(0, height - high + 1)), int(rng.integers(0, width - wide + 1)), high, wide
            out = np.empty((3, size, size), np.uint8)
            resize_crop(image, box, out, flip=bool(rng.random() < 0.5))
            return out

        return extract(train, [own], size, options, view=view).values

    return epoch_features


def _few_shot(task: _Task, choice: str, shots: int) -> dict[str, Any]:
    """A probe on ``shots`` images a class, drawn ``seeds`` times; one learning rate, the best on average on the held-out part."""
    recipe, held = task.recipe, task.held
    pool = (~held).nonzero()[:, 0]
    values, labels, tested = task.train.values[choice], task.train.labels, task.test.values[choice]
    scale = linear.Scale.of(values[pool])
    held_scores, tests, means = [], [], []
    for seed in range(recipe.seed, recipe.seed + recipe.draws):
        rows = pool[linear.draw_shots(labels[pool], shots, seed)]
        grid = linear.Grid({choice: values[rows]}, labels[rows], task.classes, replace(recipe, seed=seed), recipe.place)
        grid.scales[choice] = scale  # a few images say too little about the spread
        for _ in range(recipe.epochs):
            grid.epoch({choice: values[rows]})
        held_scores.append(linear.accuracy(grid.top({choice: values[held]})[choice], labels[held])[:, 0])
        tests.append(linear.accuracy(grid.top({choice: tested})[choice], task.truth)[:, 0])
        nearest = linear.nearest_mean(values[rows], labels[rows], tested, task.classes)
        means.append(100 * float((nearest == task.truth).double().mean()))
    rate = int(torch.stack(held_scores).mean(0).argmax())
    own = torch.stack(tests)[:, rate]
    mean = torch.tensor(means, dtype=torch.float64)
    counts = torch.bincount(labels[pool], minlength=task.classes)
    return {
        "shots": shots,
        "draws": recipe.draws,
        "rate": recipe.rates[rate],
        "top1": float(own.mean()),
        "top1_std": float(own.std()) if recipe.draws > 1 else float("nan"),
        "top1_by_draw": own.tolist(),
        "nearest_mean_top1": float(mean.mean()),
        "nearest_mean_top1_std": float(mean.std()) if recipe.draws > 1 else float("nan"),
        "classes_with_fewer_images": int((counts < shots).sum()),
    }


def _protocol(task: _Task) -> dict[str, Any]:
    train, test, recipe = task.train, task.test, task.recipe
    return {
        "unit": "per cent",
        "classifier": "multinomial logistic regression on standardised frozen features, SGD with momentum 0.9, cosine to zero",
        "epochs": recipe.epochs,
        "batch": recipe.probe_batch,
        "weight_decay": recipe.weight_decay,
        "rates": list(recipe.rates),
        "selection": f"feature and learning rate by top-1 (equals by cross-entropy) on {int(task.held.sum())} held-out training "
        "images (whole takes), never on test images; the chosen one is then trained on all training images",
        "seed": recipe.seed,
        "few_shot": "standardised with all training images; learning rate by the mean over the draws on the held-out part",
        "train_images": len(train.rows),
        "test_images": len(test.rows),
        "unreadable_images": train.unreadable + test.unreadable,
        "classes": list(train.classes),
        "test_images_of_unseen_classes": int((task.truth < 0).sum()),
        "random_floor_feature": RANDOM if RANDOM in test.values else "none",
    }


def figures(report: dict[str, Any]) -> list[Figure]:
    """The printed rows of a report."""
    chosen = report["selected"]
    choice = chosen["feature"].removeprefix("model.")
    meaning = f"feature {choice}, learning rate {chosen['rate']:g}, chosen on held-out training images"
    rows = [Figure("Linear probe top-1", report["top1"], "%", named_floors(report), meaning=meaning)]
    for shot in report.get("few_shot", []):
        spread = f"± {shot['top1_std']:.2g} over {shot['draws']} draws"
        others = {"nearest class mean": shot["nearest_mean_top1"], "chance": report["chance"]}
        rows.append(Figure(f"{shot['shots']}-shot top-1 {spread}", shot["top1"], "%", others, meaning="linear probe"))
    return rows
