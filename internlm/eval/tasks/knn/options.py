"""Options of kNN."""

from dataclasses import dataclass

from ...images.options import ImageOptions
from ...options import option, real, whole

KS = (10, 20, 100, 200)


@dataclass(frozen=True, kw_only=True)
class KnnOptions(ImageOptions):
    """How neighbours vote, and on which feature."""

    feature: str | None = option(None, "feature (default: the system's usual one, state)")
    k: tuple[int, ...] = option(KS, "neighbours", type=whole(1), nargs="+")
    temperature: float = option(0.07, "of the votes, exp(similarity / t)", "--temperature", "--knn_t", type=real(0, inner=True))
    backend: str = option("auto", "search; the neighbours do not depend on it", choices=("auto", "torch", "faiss"))
    pictures: str | None = option(None, "write a page of test images beside their nearest training images (HTML)")
