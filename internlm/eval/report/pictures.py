"""Pictures of an evaluation: test images beside their neighbours, current frames beside what was retrieved."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from internlm.data.clips import ClipDataset
from internlm.data.frames import ImageSource, decode

from ..clips import ClipOutputs
from ..features import Features
from ..images.search import search
from ..retrieval import ranking as retrieval
from . import figures
from .page import Section, write_page

NEIGHBOURS = (
    "Left: a test image. Then the training images with the most similar feature; green = the same class. "
    "The number is the cosine similarity."
)
RETRIEVED = (
    "Blue: the frame that the model sees, then the frame that really came next. To the right, the frames of the gallery "
    "that are most like the predicted next state, best first; green = it is the true one."
)
SIDE = 160  # pixels of a picture on a page; photographs would make it hundreds of megabytes


def neighbour_strips(
    found: dict[str, Features], train: ImageSource, test: ImageSource, count: int, *, neighbours: int = 7
) -> str:
    """One strip for each of ``count`` test images, of different classes as far as there are: HTML."""
    voters, judged = found["train"], found["test"]
    chosen = spread_over_classes(judged.labels, count)
    similarity, index = search(judged.values["model"][chosen], voters.values["model"], neighbours)
    strips = []
    for place, row in enumerate(chosen):
        true = judged.classes[int(judged.labels[row])]
        images, captions, marks = [small(test.read(int(judged.rows[row])))], [f"query: {true}"], ["query"]
        for score, neighbour in zip(similarity[place].tolist(), index[place].tolist(), strict=True):
            name = voters.classes[int(voters.labels[neighbour])]
            images.append(small(train.read(int(voters.rows[neighbour]))))
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


def retrieved_strips(outputs: ClipOutputs, gallery: retrieval.Gallery, read: Callable[[int, int], np.ndarray], count: int) -> str:
    """One strip for the last clip of each of ``count`` takes: HTML. ``read`` gives the image of (take, frame number)."""
    first = outputs.frame_numbers[:, 0]
    rows = [(outputs.takes == take).nonzero()[:, 0] for take in outputs.takes.unique()]
    clips = [int(mine[first[mine].argmax()]) for mine in rows][:count]
    step = outputs.prediction.shape[1] - 1
    current = gallery.items[clips, step]
    found = retrieval.nearest(outputs.prediction[clips, step], gallery.features, current, 5)
    strips = []
    for row, clip in enumerate(clips):
        right = int(gallery.items[clip, step + 1])
        items = [int(current[row]), right, *found[row].tolist()]
        captions, marks = ["current frame", "true next frame"], ["query", ""]
        for rank, item in enumerate(items[2:], start=1):
            same = gallery.takes[item] == gallery.takes[right]
            away = int(gallery.frame_numbers[item] - gallery.frame_numbers[right])
            captions.append(f"{rank}: {'the true one' if item == right else f'{away:+d} frames' if same else 'another take'}")
            marks.append("right" if item == right else "")
        images = [small(read(int(gallery.takes[item]), int(gallery.frame_numbers[item]))) for item in items]
        strips.append(figures.strip(images, captions, marks))
    return "".join(strips)


def take_reader(dataset: ClipDataset) -> Callable[[int, int], np.ndarray]:
    """The image of (row of the take table, frame number)."""
    return lambda take, number: decode(dataset.takes[take].read_frame(number))


def neighbour_page(path: str | Path, found: dict[str, Features], sources: tuple[ImageSource, ImageSource], count: int) -> Path:
    """A page of neighbour strips."""
    sections = [Section("Nearest neighbours", neighbour_strips(found, *sources, count), NEIGHBOURS)]
    return write_page(path, title="Nearest neighbours", summary="Features compared by cosine similarity.", sections=sections)


def retrieval_page(path: str | Path, outputs: ClipOutputs, gallery: retrieval.Gallery, dataset: ClipDataset, count: int) -> Path:
    """A page of retrieved frames."""
    sections = [Section("Retrieved next frames", retrieved_strips(outputs, gallery, take_reader(dataset), count), RETRIEVED)]
    summary = "The predicted next state compared with the observer's features by cosine similarity."
    return write_page(path, title="Retrieved next frames", summary=summary, sections=sections)


def small(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] with its longer side at most SIDE."""
    import cv2

    scale = SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
