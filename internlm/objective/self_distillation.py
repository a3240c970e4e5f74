"""Self-distillation: teacher targets (centring or Sinkhorn-Knopp) and the soft cross-entropy over K prototypes.

Formulas: DINO (arXiv 2104.14294, eq. 1-3), Sinkhorn-Knopp targets SwAV (arXiv 2006.09882). All of it in float32.
``data`` is the group of processes with other samples, ``vocab`` the group over which the K prototypes are divided: each process
holds K / size columns of the logits, the targets and the centre, and no row is ever gathered.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from internlm.core import regions
from internlm.core.collectives import ALONE, Group
from internlm.core.roles import Division


def entropy(probabilities: Tensor, vocab: Group = ALONE) -> Tensor:
    """Shannon entropy in nats over the last axis, ``[..., K] -> [...]``."""
    return vocab.sum(torch.special.entr(probabilities).sum(-1))


def softmax(logits: Tensor, vocab: Group = ALONE) -> Tensor:
    """Softmax over the last axis, without a gradient through other processes' columns: for targets."""
    if vocab.size == 1:
        return torch.softmax(logits, dim=-1)
    exponentials = torch.exp(logits - vocab.max(logits.amax(-1, keepdim=True)))
    return exponentials / vocab.sum(exponentials.sum(-1, keepdim=True))


def sinkhorn(logits: Tensor, temperature: float, iterations: int, data: Group = ALONE, vocab: Group = ALONE) -> Tensor:
    """Teacher probabilities with equal prototype use, ``[N, K] -> [N, K]``; rows sum to 1.

    The maximum over all processes is subtracted before the exponential, so that sharp logits cannot overflow.
    """
    scaled = logits.float() / temperature
    q = torch.exp(scaled - data.max(vocab.max(scaled.max())))
    samples = data.sum(torch.tensor(float(q.shape[0]), device=q.device))
    prototypes = q.shape[1] * vocab.size
    for _ in range(iterations):
        # The floor keeps a prototype that no sample comes near from dividing zero by zero.
        q = q / data.sum(q.sum(0, keepdim=True)).clamp(min=1e-30) / prototypes
        q = q / vocab.sum(q.sum(1, keepdim=True)).clamp(min=1e-30) / samples
    return q * samples


class Targets(nn.Module):
    """Turns teacher logits into target probabilities and keeps the running centre.

    Each loss owns one (spec §11.9): the prediction's centre is not the representation's. ``kind`` is "centering", "sinkhorn",
    or "softmax", which leaves the logits as they are.
    """

    division = Division(columns={"center": 1})
    center: Tensor

    def __init__(self, prototypes: int, kind: str, momentum: float, iterations: int):
        super().__init__()
        self.kind, self.momentum, self.iterations = kind, momentum, iterations
        self.register_buffer("center", torch.zeros(prototypes))
        self.data, self.vocab = ALONE, ALONE

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """``[..., K]`` teacher logits -> ``[..., K]`` probabilities. While training, the centre then moves to their mean."""
        rows = logits.float().flatten(0, -2)
        if self.kind == "sinkhorn":
            probabilities = sinkhorn(rows, temperature, self.iterations, self.data, self.vocab)
        elif self.kind == "softmax":
            probabilities = softmax(rows / temperature, self.vocab)
        else:
            probabilities = softmax((rows - self.center) / temperature, self.vocab)
        if self.training:
            self.center.lerp_(self.data.mean(rows.mean(0)), 1 - self.momentum)
        return probabilities.view(logits.shape)


def soft_cross_entropy(logits: Tensor, targets: Tensor, temperature: float, vocab: Group = ALONE) -> Tensor:
    """``-sum_k p_k log softmax(logits/temperature)_k`` as ``logsumexp(s) - <p, s>``, ``[N, K] -> [N]``.

    Divided over ``vocab``: the maximum of the local maxima, then one sum of exponentials and products over the group.
    """
    scaled = logits.float() / temperature
    if vocab.size == 1:
        return torch.logsumexp(scaled, dim=-1) - (targets * scaled).sum(-1)
    largest = vocab.max(scaled.detach().amax(-1, keepdim=True))
    shifted = scaled - largest
    # The targets of a row sum to 1, so that the shift cancels in the difference.
    exponentials, products = regions.total(torch.stack((shifted.exp().sum(-1), (targets * shifted).sum(-1))), vocab)
    return exponentials.log() - products


def head_cross_entropy(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    targets: Tensor,
    rows: Tensor,
    *,
    temperature: float,
    chunk: int,
    vocab: Group = ALONE,
) -> Tensor:
    """Cross-entropy of each hidden row against its target row, head and loss in chunks, ``[N, h] -> [N]``.

    ``rows`` int64 ``[N]`` picks each sample's target in ``targets`` ``[M, K]``, so that shared targets are never repeated;
    chunk logits are recomputed in the backward pass, so that only ``chunk`` rows of K logits exist at once.
    """

    def part(hidden: Tensor, rows: Tensor) -> Tensor:
        return soft_cross_entropy(head(hidden), targets[rows], temperature, vocab)

    if len(hidden) <= chunk:
        return part(hidden, rows)
    pieces = zip(hidden.split(chunk), rows.split(chunk), strict=True)
    return torch.cat([checkpoint(part, h, r, use_reentrant=False) for h, r in pieces])


def multicrop_cross_entropy(
    head: Callable[[Tensor], Tensor], views: Tensor, teacher: Tensor, *, temperature: float, chunk: int, vocab: Group = ALONE
) -> Tensor:
    """L_rep: every student view against every other teacher view of the same image, averaged over pairs. Scalar.

    ``views`` hidden ``[V, B, h]`` with the G global views first; ``teacher`` probabilities ``[G, B, K]``.
    A pair-wise mean equals the cross-entropy against the mean of the teacher's probabilities, which is what is computed:
    local views share the mean over all G, global view g takes the mean over the others.
    """
    count, batch = views.shape[:2]
    globals_, _, prototypes = teacher.shape
    total = teacher.sum(0)
    others = (total - teacher) / max(globals_ - 1, 1)
    targets = torch.cat((others, (total / globals_).unsqueeze(0))).view(-1, prototypes)
    target_of_view = torch.arange(count, device=views.device).clamp(max=globals_)
    rows = (target_of_view[:, None] * batch + torch.arange(batch, device=views.device)).flatten()
    pairs = torch.full((count,), float(globals_), device=views.device)
    pairs[:globals_] = globals_ - 1
    first = 0 if globals_ > 1 else 1  # a single global view has no other teacher view to match
    if first == count:
        raise ValueError("one global crop and no local crops leave nothing to compare; raise data.crops.local_crops")
    losses = head_cross_entropy(
        head, views[first:].flatten(0, 1), targets, rows[first * batch :], temperature=temperature, chunk=chunk, vocab=vocab
    )
    return (losses.view(count - first, batch).mean(1) * pairs[first:]).sum() / pairs[first:].sum()


def koleo(features: Tensor, groups: Tensor, floor: float = 0.05, data: Group = ALONE) -> Tensor:
    """KoLeo spread of L2-normalised ``features [N, d]`` (arXiv 1806.03198): mean of -log distance to the nearest neighbour.

    Neighbours are looked for among the rows of all processes of ``data``. Those of the same ``groups`` int64 ``[N]`` (frames of
    one clip) are excluded and the distance has a floor, because the gradient grows as 1/distance and adjacent frames are
    near-duplicates. Zero where a row has no neighbour left.
    """
    everyone = regions.gather(features, data, 0)
    similarity = features @ everyone.T
    similarity = similarity.masked_fill(groups[:, None] == data.gathered(groups)[None], -torch.inf)
    nearest, index = similarity.max(1)
    distance = (features - everyone[index]).norm(dim=1).clamp(min=floor)
    return torch.where(torch.isfinite(nearest), -distance.log(), 0.0).mean()
