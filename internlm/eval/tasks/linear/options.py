"""Options of the linear probe: how it is trained and chosen, on which features."""

import math
from dataclasses import dataclass

from ...errors import EvalError
from ...images.options import ImageOptions
from ...options import option, real, whole

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How probes are trained and chosen."""

    rates: tuple[float, ...] = option(
        RATES, "learning rates to choose from", "--lr", "--lp_lr", type=real(0, inner=True), nargs="+"
    )
    epochs: int = option(100, "passes over the features", "--epochs", "--lp_epochs", type=whole(1))
    probe_batch: int = option(256, "features a step", "--probe-batch", "--lp_batch_size_per_gpu", type=whole(1))
    weight_decay: float = option(0.0, None, "--weight-decay", "--lp_weight_decay", type=real(0))
    held_out: float = option(0.1, "share of the training images to choose on", type=real(0, 1, inner=True))
    seed: int = option(0, type=whole(0))

    def __post_init__(self) -> None:
        if not self.rates or not all(0 < rate < math.inf for rate in self.rates):
            raise EvalError(f"learning rates {self.rates}: need at least one, all above zero and finite")
        if self.epochs < 1 or self.probe_batch < 1 or not 0 < self.held_out < 1:
            raise EvalError(
                f"epochs {self.epochs} and batch {self.probe_batch} must be at least 1, held out {self.held_out} in (0, 1)"
            )
        if not 0 <= self.weight_decay < math.inf:
            raise EvalError(f"weight decay {self.weight_decay} must be zero or more, and finite")


@dataclass(frozen=True, kw_only=True)
class LinearOptions(Recipe, ImageOptions):
    """And on what."""

    feature: tuple[str, ...] = option((), "features to choose from (default: all that the system has)", nargs="+")
    augment: bool = option(False, "new random crops in every epoch; each is a pass of the network")
    shots: tuple[int, ...] = option((), "few-shot: images a class, for instance 1 5 10", type=whole(1), nargs="+")
    draws: int = option(5, "random draws for each number of shots", type=whole(1))

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        ImageOptions.__post_init__(self)
        if self.shots and (min(self.shots) < 1 or self.draws < 1):
            raise EvalError(f"few-shot with {self.shots} images a class, drawn {self.draws} times: both must be at least 1")
