"""Small trunks and the labellings of the sequences that the project's systems use."""

import torch
from torch import Tensor

from internlm.trunk.backbone import Backbone
from internlm.trunk.layout import Layout

CPU = torch.device("cpu")


def trunk(*, layers: int = 3, hidden: int = 32, heads: int = 2, **options) -> Backbone:
    torch.manual_seed(0)
    return Backbone(
        hidden=hidden, layers=layers, heads=heads, inner=48, eps=1e-6, rope_base=10_000.0, init_std=0.3, **options
    ).eval()


def tokens(batch: int, length: int, hidden: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(batch, length, hidden, generator=torch.Generator().manual_seed(seed))


def labelled(rows: list[tuple[int, int, int, bool]]) -> Layout:
    """A layout of (step, rank, group, readable) for each token."""
    step, rank, group, readable = (torch.tensor(label) for label in zip(*rows, strict=True))
    return Layout(step, rank, group, readable)


def stacked(*layouts: Layout) -> Layout:
    """[B, L] labels of layouts of one length."""
    return Layout(*(torch.stack(labels) for labels in zip(*(layout.labels for layout in layouts), strict=True)))


def masked(visible: int, targets: list[int], padding: int = 0) -> Layout:
    """Masked any-to-any: visible tokens, mask tokens of each modality, padding."""
    rows = [(0, 0, 0, True)] * visible
    rows += [(0, 1, 1 + modality, False) for modality, count in enumerate(targets) for _ in range(count)]
    return labelled(rows + [(1, 0, place, False) for place in range(padding)])


def block_world(frames: int, n: int) -> Layout:
    """An opener with the action, n queries, their n clean twins, per frame."""
    frame = lambda f: [(f, 0, 0, True), *[(f, 1, 0, False)] * n, *[(f, 2, 0, True)] * n]  # noqa: E731
    return labelled([row for f in range(frames) for row in frame(f)])


def teacher(frames: int, n: int) -> Layout:
    """Renderer, autoregressive: text, then per frame a control, n noisy patches and their n clean copies."""
    frame = lambda f: [(f, 0, 0, True), *[(f, 1, 1, False)] * n, *[(f, 2, 0, True)] * n]  # noqa: E731
    return labelled([(0, 0, 0, True)] * 2 + [row for f in range(1, frames + 1) for row in frame(f)])


def forcing(frames: int, n: int) -> Layout:
    """Renderer, frame-causal: text, then per frame a control and n patches at the frame's own noise."""
    return labelled(
        [(0, 0, 0, True)] * 2 + [row for f in range(1, frames + 1) for row in [(f, 0, 0, True), *[(f, 1, 0, True)] * n]]
    )
