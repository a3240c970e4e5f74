"""What the wearer does at a frame, as evaluations that are told apart by action take it from a take's labels."""

from typing import Any

import numpy as np

from internlm.data.clips import ClipDataset
from internlm.data.store import Take

UNLABELLED = "unlabelled"


def frame_actions(dataset: ClipDataset, takes: np.ndarray, frames: np.ndarray) -> np.ndarray | None:
    """The action at each (take row [N], frame number [N]), str [N]; None when no frame has one.

    It is the frame's own ``action`` in labels.npz, else the label ``action`` of its take, else "unlabelled". A frame that
    labels.npz leaves out takes none from its neighbours: as everywhere in a store, a missing number is a gap. Numbers are
    looked up in the take's ``extra["actions"]``; one without a name there stands for itself. Raises StoreError for damaged
    labels.
    """
    found = np.full(len(takes), UNLABELLED, dtype=object)
    for row in np.unique(takes):
        of_take = takes == row
        found[of_take] = _actions(dataset.takes[row], frames[of_take])
    return None if (found == UNLABELLED).all() else found.astype(str)


def _actions(take: Take, frames: np.ndarray) -> list[str]:
    labels, whole = take.labels(), take.info.labels.get("action", UNLABELLED)
    if "action" not in labels:
        return [whole] * len(frames)
    names = take.info.extra.get("actions") or ()
    place = {number: at for at, number in enumerate(labels["frames"].tolist())}
    values = labels["action"].tolist()
    return [_name(values[place[number]], names) if number in place else whole for number in frames.tolist()]


def _name(value: Any, names: list[str]) -> str:
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    return str(names[number] if isinstance(number, int) and 0 <= number < len(names) else number)
