"""Options of the linear probe: how it is trained and chosen, on which features."""

from dataclasses import dataclass

from ...images.options import ImageOptions
from ...options import Checked, option, real, whole

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """How probes are trained and chosen."""

    rates: tuple[float, ...] = option(RATES, "learning rates to try", "--lr", "--lp_lr", type=real(0, inner=True), nargs="+")
    epochs: int = option(100, "passes over the features", "--epochs", "--lp_epochs", type=whole(1))
    probe_batch: int = option(256, "features a step", "--probe-batch", "--lp_batch_size_per_gpu", type=whole(1))
    weight_decay: float = option(0.0, None, "--weight-decay", "--lp_weight_decay", type=real(0))
    held_out: float = option(0.1, "share of the training images to choose on", type=real(0, 1, inner=True))
    seed: int = option(0, type=whole(0))


@dataclass(frozen=True, kw_only=True)
class LinearOptions(Recipe, ImageOptions):
    """And on what."""

    feature: tuple[str, ...] = option((), "features to choose from (default: all that the system has)", nargs="+")
    augment: bool = option(False, "new random crops in every epoch; each is a pass of the network")
    shots: tuple[int, ...] = option((), "few-shot: images a class, for instance 1 5 10", type=whole(1), nargs="+")
    draws: int = option(5, "random draws for each number of shots", type=whole(1))
