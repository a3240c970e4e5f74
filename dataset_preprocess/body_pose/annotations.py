"""Body annotation files of Ego-Exo4D: joints by frame number, checked value by value.

    {"<frame>": [{"annotation3D": {joint: {"x", "y", "z", "num_views_for_3d"}}, "annotation2D": ...}, ...]}

World metres, z up. A joint that was not seen has no entry; the list of a frame may be empty. The first person is the wearer.
"""

from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from reprlib import repr as shown  # short, also for values that are huge or deeply nested
from typing import Any

import numpy as np

from dataset_preprocess.errors import RecordingError
from dataset_preprocess.json_input import read_json
from internlm.data.store import COCO_JOINTS

MANUAL, AUTOMATIC = 0, 1  # values of the label ``annotation``
MAX_FRAME = 10_000_000
FARTHEST = 1e5  # metres from the world's origin
UNKNOWN_VIEWS = 0
_COLUMN = {name: column for column, name in enumerate(COCO_JOINTS)}


@dataclass(frozen=True)
class Annotation:
    """N annotated frames in the order of the file (nearly always rising).

    num_views: how many cameras saw a joint, 0 where the file does not say. source: MANUAL or AUTOMATIC.
    """

    frames: np.ndarray  # int64 [N]
    joints: np.ndarray  # float64 [N, 17, 3] world metres, 0 where not visible
    visible: np.ndarray  # bool [N, 17]
    num_views: np.ndarray  # uint8 [N, 17]
    source: np.ndarray  # uint8 [N]

    def __len__(self) -> int:
        return len(self.frames)

    def rows(self, chosen: np.ndarray) -> "Annotation":
        """The frames at ``chosen``: a mask or row numbers."""
        return Annotation(*(array[chosen] for array in (self.frames, self.joints, self.visible, self.num_views, self.source)))

    def in_order(self) -> "Annotation":
        """Frames rising."""
        return self.rows(np.argsort(self.frames, kind="stable"))


def read_annotation(path: Path, source: int) -> Annotation:
    """One file. Frames without a person are left out. Raises RecordingError naming file, frame and joint."""
    content = read_json(path, dict)
    numbers, people = [], []
    for key, persons in content.items():
        frame = frame_number(key, path)
        if not isinstance(persons, list):
            raise RecordingError(f"{path}: frame {frame}: holds {type(persons).__name__}, expected a list of persons")
        if persons:
            numbers.append(frame)
            people.append(_joints_of(persons[0], f"{path}: frame {frame}"))
    if len(set(numbers)) != len(numbers):
        twice = next(number for number, count in Counter(numbers).items() if count > 1)
        raise RecordingError(f"{path}: gives frame {twice} twice")
    count = len(numbers)
    joints, visible = np.zeros((count, len(COCO_JOINTS), 3)), np.zeros((count, len(COCO_JOINTS)), bool)
    views = np.full((count, len(COCO_JOINTS)), UNKNOWN_VIEWS, np.uint8)
    for row, person in enumerate(people):
        for column, (point, seen) in person.items():
            joints[row, column], visible[row, column], views[row, column] = point, True, seen
    return Annotation(np.array(numbers, np.int64), joints, visible, views, np.full(count, source, np.uint8))


def merge(manual: Annotation | None, automatic: Annotation | None, choice: str) -> Annotation | None:
    """The annotation of a take, frames rising; None when the chosen kind has none.

    choice: "manual" or "automatic" alone; "either" = automatic where the take has any, else manual, so that one take has one
    source and one rate; "merged" = all frames of both, manual where both have one. The two differ by centimetres: under
    "merged" the change from one to the other is a step that nobody made.
    """
    if choice == "manual" or (choice == "either" and not (automatic is not None and len(automatic))):
        chosen = manual
    elif choice in ("automatic", "either") or manual is None or not len(manual):
        chosen = automatic
    elif automatic is None or not len(automatic):
        chosen = manual
    else:
        rest = automatic.rows(~np.isin(automatic.frames, manual.frames))
        chosen = Annotation(*(np.concatenate([getattr(manual, f.name), getattr(rest, f.name)]) for f in fields(Annotation)))
    return chosen.in_order() if chosen is not None and len(chosen) else None


CHOICES = ("either", "automatic", "manual", "merged")


def usual_step(frames: np.ndarray) -> int:
    """The most frequent difference of rising frame numbers (the smallest of equals): 1 is dense, 3 annotated at 10 Hz."""
    if len(frames) < 2:
        return 1
    steps, counts = np.unique(np.diff(frames), return_counts=True)
    return int(steps[np.argmax(counts)])


def frame_number(key: str, path: Path) -> int:
    """A frame number from a JSON key; RecordingError when it is none."""
    if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) <= MAX_FRAME):
        raise RecordingError(f"{path}: {shown(key)} is no frame number")
    return int(key)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number that float64 can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _joints_of(person: Any, where: str) -> dict[int, tuple[tuple[float, float, float], int]]:
    """COCO joint number -> position and views."""
    points = person.get("annotation3D") if isinstance(person, dict) else None
    if not isinstance(points, dict):
        raise RecordingError(f"{where}: the person has no object annotation3D")
    found = {}
    for name, point in points.items():
        column = _COLUMN.get(name)
        if column is None:
            raise RecordingError(f"{where}: {shown(name)} is no COCO joint; is this a hand file?")
        values = [point.get(axis) for axis in "xyz"] if isinstance(point, dict) else [None]
        if not all(is_number(value) and abs(value) <= FARTHEST for value in values):
            raise RecordingError(f"{where}: {name}: x, y, z are {shown(values)}, expected metres")
        views = point.get("num_views_for_3d")
        if views is not None and not (is_number(views) and 0 <= views <= 255):
            raise RecordingError(f"{where}: {name}: num_views_for_3d is {shown(views)}")
        found[column] = (tuple(map(float, values)), UNKNOWN_VIEWS if views is None else int(views))
    return found
