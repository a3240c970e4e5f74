"""What turns images into features: a function, the names of its results, and what decides them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Encoder:
    """A function of images with one or more results, and what decides them."""

    run: Callable[[Tensor], dict[str, Tensor]]  # uint8 [N, 3, S, S] -> float [N, D] by name
    names: tuple[str, ...]
    identity: str | None = None  # equal identities give equal features; None is never cached
