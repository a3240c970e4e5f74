"""Linear probe on frozen features: multinomial logistic regression for a grid of learning rates at once.

Features are standardised with the training images' mean and standard deviation. W and b start at zero and follow SGD with
momentum 0.9 and a cosine schedule to zero on the mean cross-entropy. All learning rates see the same batches: their weights
are one tensor [L, D, C], and the gradient is written down (x^T (softmax - one-hot) / B), so that a pass over the features
trains the whole grid.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import EvalError
from .options import Recipe

MOMENTUM = 0.9
MIN_STD = 1e-6  # of a feature that is constant over the training images; it then says nothing
TILE_ELEMENTS = 2**23

Device = torch.device | str


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of the training features."""

    mean: Tensor  # [D]
    std: Tensor  # [D]

    @classmethod
    def of(cls, features: Tensor) -> "Scale":
        """Statistics of features [N, D], in float64 inside."""
        std, mean = torch.std_mean(features.double(), dim=0, correction=0)
        return cls(mean.float(), std.clamp(min=MIN_STD).float())

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean.to(features.device)) / self.std.to(features.device)


class Probes:
    """One linear classifier for each learning rate, trained together."""

    def __init__(self, dim: int, classes: int, rates: Sequence[float], steps: int, weight_decay: float, device: Device):
        self.weight = torch.zeros(len(rates), dim, classes, device=device)
        self.bias = torch.zeros(len(rates), 1, classes, device=device)
        self.rates = torch.tensor(rates, device=device)[:, None, None]
        self.steps, self.step, self.weight_decay = steps, 0, weight_decay
        self.velocity = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]

    def update(self, x: Tensor, labels: Tensor) -> None:
        """One step on standardised features [B, D] with labels int64 [B]."""
        rate = self.rates * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        error = self.logits(x).softmax(-1)
        error[:, torch.arange(len(x), device=x.device), labels] -= 1
        error /= len(x)
        gradients = (x.T @ error).add_(self.weight, alpha=self.weight_decay), error.sum(1, keepdim=True)
        for parameter, velocity, gradient in zip((self.weight, self.bias), self.velocity, gradients, strict=True):
            velocity.mul_(MOMENTUM).add_(gradient)
            parameter.sub_(rate * velocity)
        self.step += 1

    def logits(self, x: Tensor) -> Tensor:
        """Standardised features [B, D] -> [L, B, C]."""
        return x @ self.weight + self.bias

    def top(self, x: Tensor, scale: Scale, count: int = 5) -> Tensor:
        """The best classes of features [N, D], best first, equal logits by class number: int64 [L, N, count]."""
        count = min(count, self.weight.shape[2])
        sorted_classes = (logits.sort(dim=-1, descending=True, stable=True).indices for logits in self._tiles(x, scale))
        return torch.cat([classes[..., :count].cpu() for classes in sorted_classes], dim=1)

    def loss(self, x: Tensor, labels: Tensor, scale: Scale) -> Tensor:
        """Mean cross-entropy of features [N, D] in nats: float64 [L]."""
        tiles = torch.cat([logits.double().log_softmax(-1).cpu() for logits in self._tiles(x, scale)], dim=1)
        return -tiles[:, torch.arange(len(labels)), labels].mean(1)

    def _tiles(self, x: Tensor, scale: Scale) -> Iterator[Tensor]:
        rows = max(1, TILE_ELEMENTS // (self.weight.shape[0] * self.weight.shape[2]))
        for part in x.split(rows):
            yield self.logits(scale(part.to(self.weight.device)))


class Grid:
    """Probes for several feature choices, fed epoch by epoch with the same batches."""

    def __init__(self, features: dict[str, Tensor], labels: Tensor, classes: int, recipe: Recipe, device: Device):
        """features by choice [N, D] and labels int64 [N] of the images to train on."""
        self.recipe, self.device, self.labels = recipe, device, labels
        self.scales = {name: Scale.of(values) for name, values in features.items()}
        self.batch = min(recipe.probe_batch, len(labels))
        steps = recipe.epochs * -(-len(labels) // self.batch)
        self.probes = {
            name: Probes(values.shape[1], classes, recipe.rates, steps, recipe.weight_decay, device)
            for name, values in features.items()
        }
        self.generator = torch.Generator().manual_seed(recipe.seed)

    def epoch(self, features: dict[str, Tensor]) -> None:
        """One pass in random order over features of the same images."""
        for rows in torch.randperm(len(self.labels), generator=self.generator).split(self.batch):
            labels = self.labels[rows].to(self.device)
            for name, probes in self.probes.items():
                probes.update(self.scales[name](features[name][rows].to(self.device)), labels)

    def top(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Best classes of other images for each choice: int64 [L, N, 5]."""
        return {name: probes.top(features[name], self.scales[name]) for name, probes in self.probes.items()}

    def held_out(self, features: dict[str, Tensor], labels: Tensor) -> list[dict[str, Any]]:
        """Top-1 in per cent and cross-entropy in nats of every choice and learning rate on held-out images."""
        rows = []
        for name, probes in self.probes.items():
            right = accuracy(probes.top(features[name], self.scales[name], 1), labels)[:, 0].tolist()
            losses = probes.loss(features[name], labels, self.scales[name]).tolist()
            rows += [
                {"feature": name, "rate": rate, "held_out_top1": top1, "held_out_loss": loss}
                for rate, top1, loss in zip(self.recipe.rates, right, losses, strict=True)
            ]
        return rows


def accuracy(top: Tensor, labels: Tensor) -> Tensor:
    """Top-1 and top-5 in per cent of best classes [L, N, r]; a label of -1 counts as wrong: float64 [L, 2]."""
    right = top == labels[None, :, None]
    return 100 * torch.stack([right[..., 0].double().mean(1), right.any(-1).double().mean(1)], dim=1)


def hold_out(labels: Tensor, groups: Sequence[str], share: float, seed: int) -> Tensor:
    """Which training images serve the selection, bool [N]: about ``share`` of each class, whole groups only.

    A group (the frames of a take) never lies on both sides, because its images are near-duplicates; a class with a single
    group keeps it for training. Raises EvalError when no class has two groups.
    """
    generator = torch.Generator().manual_seed(seed)
    members: dict[int, dict[str, list[int]]] = {}
    for row, (label, group) in enumerate(zip(labels.tolist(), groups, strict=True)):
        members.setdefault(label, {}).setdefault(group, []).append(row)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in sorted(members):
        by_group = list(members[label].values())
        wanted, taken = share * sum(map(len, by_group)), 0
        for place in torch.randperm(len(by_group), generator=generator).tolist()[:-1]:
            if taken >= wanted:
                break
            held[by_group[place]] = True
            taken += len(by_group[place])
    if not held.any():
        raise EvalError("every class has a single image or take: nothing can be held out of training for the choice")
    return held


def draw_shots(labels: Tensor, shots: int, seed: int) -> Tensor:
    """At most ``shots`` random rows of each class, int64, rising; a class with fewer gives what it has."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    by_class = [order[labels[order] == label][:shots] for label in labels.unique()]
    return torch.cat(by_class).sort().values


def nearest_mean(train: Tensor, labels: Tensor, test: Tensor, classes: int) -> Tensor:
    """The class whose mean unit feature is most similar by cosine, int64 [N]; classes without an image are never chosen."""
    sums = torch.zeros(classes, train.shape[1]).index_add_(0, labels, F.normalize(train, dim=1))
    means, unseen = F.normalize(sums, dim=1).T, torch.bincount(labels, minlength=classes) == 0
    tiles = F.normalize(test, dim=1).split(max(1, TILE_ELEMENTS // classes))
    return torch.cat([(tile @ means).masked_fill_(unseen, -torch.inf).max(1).indices for tile in tiles])
