"""kNN of labelled images as a user runs it: a model or stored features in, a result with floors and protocol out."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from internlm.core.collectives import rank
from internlm.data.frames import ImageSource
from internlm.data.view import short_side
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.network import EgoAgent, EgoNetwork

from ..encoders import Encoder
from ..errors import EvalError
from ..feature_cache import FeatureCache
from ..features import DIGEST, PIXELS, Features, calibrate, encoder, extract, network_identity
from ..ranks import from_first
from . import knn
from .checks import check_copies, check_images, check_stored
from .classes import confusions, match_classes, per_class

FLOOR_SEED = 7  # of the untrained network; not a training seed of anyone
RANDOM = "random_weights"
PIXEL_VIEW = 224  # side of the view behind the pixel floor where no model sets one
RANDOM_RAW = "random_weights_uncalibrated"


@dataclass(frozen=True)
class Extraction:
    """How features are taken from images; the fields are options of the commands."""

    batch_size: int = 128
    limit: int | None = None
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    cache: FeatureCache | None = None
    workers: int = 0
    max_broken_share: float = 0.01

    def __post_init__(self):
        if self.batch_size < 1 or (self.limit is not None and self.limit < 1) or self.workers < 0:
            raise EvalError(
                f"batch {self.batch_size} and limit {self.limit} must be at least 1, workers {self.workers} at least 0"
            )
        if not 0 <= self.max_broken_share <= 1:
            raise EvalError(f"the share of broken images, {self.max_broken_share}, must be in 0..1")


def untrained(config: Config, seed: int = FLOOR_SEED) -> EgoNetwork:
    """A branch with this config's shape and random weights, whatever the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EgoNetwork(config.model, actions=False).eval()


def branch_encoder(agent: EgoAgent, which: str, kinds: str | dict[str, str], how: Extraction) -> Encoder:
    """Features of a trained branch, known to the cache by its weights and config."""
    network = getattr(agent, which)
    identity = network_identity(network) if how.cache else None
    return encoder(network, kinds, identity=identity, device=how.device, dtype=how.dtype)


def random_encoders(config: Config, train: ImageSource, kind: str, how: Extraction) -> tuple[list[Encoder], int]:
    """The random-weights floor: with BatchNorm statistics of the training images, and as initialised where that differs."""
    calibrated = untrained(config)
    size, share = config.model.image_size, how.max_broken_share
    used = calibrate(calibrated, train, size, device=how.device, max_broken_share=share)
    networks = {RANDOM: calibrated} | ({RANDOM_RAW: untrained(config)} if used else {})
    encoders = [
        encoder(
            network, {name: kind}, identity=network_identity(network) if how.cache else None, device=how.device, dtype=how.dtype
        )
        for name, network in networks.items()
    ]
    return encoders, used


def both(
    train: ImageSource, test: ImageSource, encoders: list[Encoder], image_size: int, how: Extraction
) -> tuple[dict[str, Features], int]:
    """Features of the training and the test images, and how many test images are copies of a training image.

    EvalError when all are.
    """
    options = {name: getattr(how, name) for name in ("batch_size", "limit", "cache", "workers", "max_broken_share")}
    encoders = [*encoders, DIGEST]
    found = {name: extract(source, encoders, image_size, **options) for name, source in (("train", train), ("test", test))}
    digests = [found[name].values.pop("digest") for name in ("train", "test")]  # on all processes: what is left is scored
    return found, from_first(lambda: check_copies(*digests))


def knn_report(
    agent: EgoAgent,
    config: Config,
    train: ImageSource,
    test: ImageSource,
    *,
    which: str = "observer",
    kind: str = "state",
    ks: tuple[int, ...] = knn.KS,
    temperature: float = knn.TEMPERATURE,
    backend: str = "auto",
    how: Extraction | None = None,
    **options: Any,
) -> tuple[dict[str, Any], dict[str, Features]]:
    """kNN accuracy in per cent beside the random-weights and the pixel floor, and the features of both sources.

    ``top1`` and ``top5`` are those of k = 20 (or the only k). ``options`` are fields of ``Extraction``. Under torchrun only
    process 0 gets a report; the others get an empty one. Raises EvalError where ``check_images`` does.
    """
    how = replace(how or Extraction(), **options)
    check_images(train, test)
    random, calibrated = random_encoders(config, train, kind, how)
    encoders = [branch_encoder(agent, which, kind, how), *random, PIXELS]
    found, copies = both(train, test, encoders, config.model.image_size, how)
    if rank():
        return {}, found
    report = score(found, ks=ks, temperature=temperature, backend=backend, device=how.device)
    size = config.model.image_size
    report["protocol"] |= {
        "branch": which,
        "feature": kind,
        "precision": str(how.dtype).removeprefix("torch."),
        "test_images_equal_to_a_training_image": copies,
        "view": f"short side to {short_side(size)}, bicubic with antialiasing, central {size}",
        "pixel_floor": "32x32 pixels, centred per image, same search and vote",
        "random_floor": "the untrained network of the same config, same protocol"
        + (f"; BatchNorm statistics from {calibrated} training images (uncalibrated: as initialised)" if calibrated else ""),
    }
    return report, found


def stored_report(
    stored: dict[str, Features],
    sources: tuple[ImageSource, ImageSource] | None,
    how: Extraction,
    **options: Any,
) -> tuple[dict[str, Any], dict[str, Features]]:
    """The same for stored features "train" and "test" of any model; ``options`` are those of ``score``.

    With the images they come from, in the same order, the pixel floor stands beside them. Raises EvalError when the images
    are others than the labels say. Under torchrun only process 0 gets a report.
    """
    found = {part: replace(features, values={"model": features.values["model"]}) for part, features in stored.items()}
    equal = from_first(lambda: check_stored(stored))
    if sources is not None:
        check_images(*sources)
        pixels, _ = both(*sources, [PIXELS], PIXEL_VIEW, how)
        if rank():
            return {}, pixels
        for part, features in found.items():
            _check_same_images(part, features, pixels[part])
            features.values["pixels"] = pixels[part].values["pixels"]
    if rank():
        return {}, found
    report = score(found, device=how.device, **options)
    report["protocol"] |= {"branch": "stored", "feature": "as stored", "test_features_equal_to_a_training_feature": equal}
    report["protocol"]["pixel_floor"] = "32x32 pixels, centred per image" if sources else "none: no images were given"
    return report, found


def _check_same_images(part: str, stored: Features, images: Features) -> None:
    if len(stored.labels) != len(images.labels):
        raise EvalError(
            f"{len(stored.labels)} stored {part} features for {len(images.labels)} images: the pixel floor needs the same images "
            "in the same order; give them, or none"
        )
    names = [[source.classes[label] for label in source.labels.tolist()] for source in (stored, images)]
    if names[0] != names[1] and not stored.classes[0].isdigit():
        row = next(i for i, (a, b) in enumerate(zip(*names, strict=True)) if a != b)
        stored_name, image_name = names[0][row], names[1][row]
        raise EvalError(f"stored {part} feature {row} is of class {stored_name!r}, image {row} of {image_name!r}: another order")


def score(
    found: dict[str, Features],
    *,
    ks: tuple[int, ...] = knn.KS,
    temperature: float = knn.TEMPERATURE,
    backend: str = "auto",
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """The report of features that are there: "model" is judged, every other name is a floor."""
    train, test = found["train"], found["test"]
    labels = match_classes(test.labels, test.classes, train.classes)
    headline = knn.HEADLINE_K if knn.HEADLINE_K in ks else ks[0]
    by_k, tables = {}, {}
    for name in test.values:
        outcome = knn.decide(
            train.values[name], train.labels, test.values[name].to(device), len(train.classes),
            ks=ks, temperature=temperature, backend=backend,
        )  # fmt: skip
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
            "vote": f"exp(similarity / {temperature}), k above the number of training images uses all",
            "train_images": len(train.rows),
            "test_images": len(test.rows),
            "unreadable_images": train.unreadable + test.unreadable,
            "classes": list(train.classes),
            "classes_of_one_train_image": int((occupied == 1).sum()),
            "classes_without_train_image": [train.classes[i] for i in (occupied == 0).nonzero()[:, 0].tolist()],
            "test_images_of_unseen_classes": int((labels < 0).sum()),
        },
    }
