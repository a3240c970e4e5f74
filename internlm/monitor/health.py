"""Is the model still learning something? Figures of the teacher and the features, and the collapse verdict.

Two ways to fail are known for self-distillation without negatives (DINO, arXiv 2104.14294, §5.3): the targets become
uniform (loss flat at ln K), or the output becomes the same for every input (loss falls to zero and means nothing).
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

UNIFORM_SHARE = 0.99  # teacher entropy above this share of ln K: targets say nothing
CONSTANT_ENTROPY_SHARE = 0.02  # entropy of the mean teacher below this share of ln K: one prototype for all inputs
CONSTANT_SPREAD = 0.01  # feature std below this share of the healthy 1/sqrt(d), which a fresh network has 0.03 of: one feature


@dataclass(frozen=True)
class HealthReading:
    """Figures of one batch; entropies in nats."""

    teacher_entropy: float  # mean over samples; ln K = uniform
    mean_teacher_entropy: float  # of the batch mean; near 0 = one prototype for all inputs
    max_entropy: float  # ln K
    feature_std: float  # of L2-normalised features, mean over dimensions
    healthy_std: float  # 1/sqrt(d)
    effective_rank: float
    prototype_usage: float  # distinct winning prototypes / min(samples, K)

    @property
    def verdict(self) -> str | None:
        """``uniform``, ``constant`` or None for this reading alone."""
        if self.teacher_entropy > UNIFORM_SHARE * self.max_entropy:
            return "uniform"
        one_prototype = self.mean_teacher_entropy < CONSTANT_ENTROPY_SHARE * self.max_entropy
        return "constant" if one_prototype or self.feature_std < CONSTANT_SPREAD * self.healthy_std else None

    def named(self) -> dict[str, float]:
        """The figures as metrics."""
        return {f"health/{name}": value for name, value in asdict(self).items()}

    def explain(self, verdict: str) -> str:
        """One sentence for the person who watches the run."""
        if verdict == "uniform":
            return (
                f"COLLAPSE (uniform): the teacher's entropy {self.teacher_entropy:.3f} is within "
                f"{100 * (1 - UNIFORM_SHARE):.0f} % of ln K = {self.max_entropy:.3f}; the targets carry nothing. "
                "Try a lower loss.teacher_temp, loss.targets=sinkhorn or a lower optim.momentum"
            )
        return (
            f"COLLAPSE (constant): every input gets nearly the same output (entropy of the mean teacher "
            f"{self.mean_teacher_entropy:.3f}, feature std {self.feature_std:.2g} where {self.healthy_std:.2g} is healthy). "
            "Try loss.targets=sinkhorn, a lower optim.lr or a higher loss.teacher_temp"
        )


@torch.no_grad()
def read_health(teacher: Tensor, features: Tensor) -> HealthReading:
    """Measure teacher probabilities ``[N, K]`` and L2-normalised features ``[N, d]`` of N at least 2 samples.

    Synchronises with the device once; call it at intervals.
    """
    teacher, features = teacher.float(), features.float()
    samples, prototypes = teacher.shape
    figures = torch.stack(
        [
            torch.special.entr(teacher).sum(-1).mean(),
            torch.special.entr(teacher.mean(0)).sum(),
            torch.tensor(math.log(prototypes), device=teacher.device),
            features.std(0, unbiased=False).mean(),
            torch.tensor(features.shape[1] ** -0.5, device=teacher.device),
            effective_rank(features),
            torch.bincount(teacher.argmax(-1), minlength=prototypes).gt(0).sum() / min(samples, prototypes),
        ]
    )
    return HealthReading(*figures.tolist())


def effective_rank(features: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values of ``[N, d]`` centred features (RankMe, arXiv 2210.02885).

    Between 1 and min(N − 1, d); centred here, so that a large common part does not hide the directions that differ.
    """
    singular = torch.linalg.svdvals(features - features.mean(0))
    share = singular / singular.sum().clamp(min=1e-12)
    return torch.special.entr(share).sum().exp()


class CollapseWatch:
    """Turns readings into a standing verdict: ``patience`` bad ones of a kind in a row after a grace make it.

    As many good ones in a row lift it again. Early on, targets are near uniform in healthy runs too: hence the grace.
    """

    def __init__(self, *, patience: int, grace_steps: int) -> None:
        self.patience, self.grace_steps = patience, grace_steps
        self.verdict: str | None = None
        self._kind: str | None = None
        self._count = 0

    def update(self, step: int, verdict: str | None) -> str | None:
        """Take a reading's verdict after ``step`` finished steps; returns the standing one."""
        if step < self.grace_steps:
            return self.verdict
        self._count = self._count + 1 if verdict == self._kind else 1
        self._kind = verdict
        if self._count >= self.patience:
            self.verdict = verdict
        return self.verdict

    def state(self) -> dict[str, str | int | None]:
        """What a checkpoint keeps."""
        return {"verdict": self.verdict, "kind": self._kind, "count": self._count}

    def load_state(self, state: dict[str, str | int | None]) -> None:
        """Continue from ``state``."""
        self.verdict, self._kind, self._count = state["verdict"], state["kind"], int(state["count"] or 0)
