"""Images and clips for evaluation: each once, in order, without what cannot be read."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from internlm.data.batch import ClipBatch
from internlm.data.clips import ClipDataset
from internlm.data.frames import BrokenFile, ImageSource
from internlm.data.loader import BrokenCounts, stack
from internlm.data.view import eval_transform

View = Callable[[np.ndarray, int], np.ndarray]


class EvaluationImages(NamedTuple):
    """A batch for feature extraction; ``labels`` is None where the source has none, ``rows`` are indices of the source."""

    images: Tensor  # uint8 [n, 3, S, S]
    labels: Tensor | None  # int64 [n]
    rows: Tensor  # int64 [n]


def evaluation_images(
    source: ImageSource,
    image_size: int,
    batch: int = 256,
    *,
    max_broken_share: float = 0.01,
    rows: np.ndarray | None = None,
    only: Sequence[int] | None = None,
    view: View | None = None,
    workers: int = 0,
) -> Iterator[EvaluationImages]:
    """Every image once (or those of ``rows``), in order, resized and centre-cropped; broken files are left out and counted.

    ``only`` names the batches to read (one process's share of them), whose shares of the broken files still count against all
    rows; ``view`` replaces the evaluation view: (uint8 [H, W, 3], row) -> uint8 [3, S, S]; ``workers`` threads read ahead.
    A batch without a readable image is left out.
    """
    rows = np.arange(len(source)) if rows is None else np.asarray(rows)
    numbers = range(-(-len(rows) // batch)) if only is None else only
    counts = BrokenCounts(max_broken_share, len(rows))

    def read(row: int) -> np.ndarray | BrokenFile:
        try:
            image = source.read(row)
            return eval_transform(image, image_size) if view is None else view(image, row)
        except BrokenFile as error:
            return error

    chosen = [rows[number * batch : (number + 1) * batch].tolist() for number in numbers]
    for wanted, found in zip(chosen, _read_ahead(read, chosen, workers)):
        kept = []
        for row, result in zip(wanted, found):
            broken = isinstance(result, BrokenFile)
            counts.add(1, [(result.name, result.reason)] if broken else [])
            if not broken:
                kept.append((row, result))
        if kept:
            labels = [source.label(row) for row, _ in kept]
            label_tensor = None if labels[0] is None else torch.tensor(labels)
            images = torch.from_numpy(np.stack([image for _, image in kept]))
            yield EvaluationImages(images, label_tensor, torch.tensor([row for row, _ in kept]))


def _read_ahead(read: Callable[[int], np.ndarray], batches: list[list[int]], workers: int) -> Iterator[list]:
    """What ``read`` gives for the rows of each batch; with workers, two batches are under way while one is used."""
    if not workers:
        yield from ([read(row) for row in batch] for batch in batches)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[list[Future]] = deque()
        for batch in batches:
            waiting.append([pool.submit(read, row) for row in batch])
            if len(waiting) > 2:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]


def evaluation_clips(
    dataset: ClipDataset,
    batch: int = 8,
    *,
    hop: int | None = None,
    limit: int | None = None,
    mixed: bool = False,
    only: Callable[[int], Sequence[int]] | None = None,
    max_broken_share: float = 0.01,
) -> Iterator[ClipBatch]:
    """Clips in order without augmentation; clips with a broken frame are left out and counted.

    hop, limit: as in ``ClipDataset.evaluation_starts``. sample_ids are the clips' indices in the dataset. ``mixed`` takes the
    clips in a fixed random order, so that a batch is not all of one take. ``only`` names, given how many batches there are,
    those to read (one process's share); a batch without a readable clip is left out.
    """
    starts = dataset.evaluation_starts(hop, limit)
    if mixed:
        starts = starts[torch.randperm(len(starts), generator=torch.Generator().manual_seed(0)).numpy()]
    counts = BrokenCounts(max_broken_share, dataset.files)
    batches = -(-len(starts) // batch)
    for number in range(batches) if only is None else only(batches):
        samples = []
        for index in starts[number * batch : (number + 1) * batch].tolist():
            try:
                samples.append(dataset.sample(index, None) | {"sample_ids": np.int64(index)})
                counts.add(1, [])
            except BrokenFile as error:
                counts.add(1, [(error.name, error.reason)])
        if samples:
            yield stack(ClipBatch, samples)
