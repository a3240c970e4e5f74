"""Current frames beside what was retrieved."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from internlm.data.clips import ClipDataset
from internlm.data.frames import decode

from ...clips import ClipOutputs
from ...report import figures
from ...report.page import Section, write_page
from . import ranking

RETRIEVED = (
    "Blue: the frame that the model sees, then the frame that really came next. To the right, the frames of the gallery "
    "that are most like the predicted next state, best first; green = it is the true one."
)


def retrieved_strips(
    outputs: ClipOutputs, feature: str, gallery: ranking.Gallery, read: Callable[[int, int], np.ndarray], count: int
) -> str:
    """One strip for the last clip of each of ``count`` takes: HTML. ``read`` gives the image of (take, frame number)."""
    first = outputs.frame_numbers[:, 0]
    rows = [(outputs.takes == take).nonzero()[:, 0] for take in outputs.takes.unique()]
    clips = [int(mine[first[mine].argmax()]) for mine in rows][:count]
    step = outputs.prediction[feature].shape[1] - 1
    current = gallery.items[clips, step]
    found = ranking.nearest(outputs.prediction[feature][clips, step], gallery.features, current, 5)
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
        images = [figures.small(read(int(gallery.takes[item]), int(gallery.frame_numbers[item]))) for item in items]
        strips.append(figures.strip(images, captions, marks))
    return "".join(strips)


def take_reader(dataset: ClipDataset) -> Callable[[int, int], np.ndarray]:
    """The image of (row of the take table, frame number)."""
    return lambda take, number: decode(dataset.takes[take].read_frame(number))


def retrieval_page(
    path: str | Path, outputs: ClipOutputs, feature: str, gallery: ranking.Gallery, dataset: ClipDataset, count: int
) -> Path:
    """A page of retrieved frames."""
    title, strips = "Retrieved next frames", retrieved_strips(outputs, feature, gallery, take_reader(dataset), count)
    summary = "The predicted next state compared with the observer's features by cosine similarity."
    return write_page(path, title=title, summary=summary, sections=[Section(title, strips, RETRIEVED)])
