"""Test images beside their nearest training images."""

from pathlib import Path

from torch import Tensor

from internlm.data.frames import ImageSource

from ...features import Features
from ...report import figures
from ...report.page import Section, write_page
from .search import search

NEIGHBOURS = (
    "Left: a test image. Then the training images with the most similar feature; green = the same class. "
    "The number is the cosine similarity."
)


def neighbour_strips(found: dict[str, Features], train: ImageSource, test: ImageSource, count: int, *, k: int = 7) -> str:
    """One strip for each of ``count`` test images, of different classes as far as there are: HTML."""
    voters, judged = found["train"], found["test"]
    chosen = spread_over_classes(judged.labels, count)
    similarity, index = search(judged.values["model"][chosen], voters.values["model"], k)
    strips = []
    for place, row in enumerate(chosen):
        true = judged.classes[int(judged.labels[row])]
        images, captions, marks = [figures.small(test.read(int(judged.rows[row])))], [f"query: {true}"], ["query"]
        for score, neighbour in zip(similarity[place].tolist(), index[place].tolist(), strict=True):
            name = voters.classes[int(voters.labels[neighbour])]
            images.append(figures.small(train.read(int(voters.rows[neighbour]))))
            captions.append(f"{name} {score:.2f}")
            marks.append("right" if name == true else "wrong")
        strips.append(figures.strip(images, captions, marks))
    return "".join(strips)


def spread_over_classes(labels: Tensor, count: int) -> list[int]:
    """At most ``count`` rows, the first of each class before the second of any."""
    seen: dict[int, int] = {}
    order = []
    for row, label in enumerate(labels.tolist()):
        seen[label] = seen.get(label, -1) + 1
        order.append((seen[label], label, row))
    return [row for _, _, row in sorted(order)[:count]]


def neighbour_page(path: str | Path, found: dict[str, Features], sources: tuple[ImageSource, ImageSource], count: int) -> Path:
    """A page of neighbour strips."""
    sections = [Section("Nearest neighbours", neighbour_strips(found, *sources, count), NEIGHBOURS)]
    return write_page(path, title="Nearest neighbours", summary="Features compared by cosine similarity.", sections=sections)
