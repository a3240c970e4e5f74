"""The action at a frame: one rule for every evaluation."""

from types import SimpleNamespace

import numpy as np
import pytest

from internlm.data.store import PoseTrack, StoreWriter, TakeInfo, TakeStore
from internlm.eval.actions import frame_actions
from internlm.eval.tasks.motion import report as motion_protocol
from internlm.eval.tasks.retrieval import report as retrieval_protocol

NAMES = {"actions": ["walk", "turn", "sit"]}


STILL = PoseTrack(np.arange(2), np.zeros((2, 17, 3), np.float32), np.ones((2, 17), bool), np.zeros(0, int), np.zeros((0, 4, 4)))


def takes(path, *described):
    """A data set of takes, each given as (labels.npz, take's labels, extra)."""
    for number, (frames, whole, extra) in enumerate(described):
        info = TakeInfo(f"t{number}", f"t{number}", "test", 30.0, None, "world", whole, extra=extra)
        StoreWriter(path).add_take(info, (), STILL, frames)
    return SimpleNamespace(takes=TakeStore(path).select())


def of_frames(dataset, frames):
    found = frame_actions(dataset, np.zeros(len(frames), int), np.array(frames))
    return found if found is None else found.tolist()


def test_a_frame_has_its_own_action_and_none_of_its_neighbours(tmp_path):
    dataset = takes(tmp_path, ({"frames": np.array([10, 20, 30]), "action": np.array([2, 0, 1])}, {}, NAMES))
    assert of_frames(dataset, [10, 20, 30]) == ["sit", "walk", "turn"]
    assert of_frames(dataset, [9, 10, 15, 31]) == ["unlabelled", "sit", "unlabelled", "unlabelled"]
    assert of_frames(dataset, [0, 40]) is None


@pytest.mark.parametrize(
    ("values", "extra", "expected"),
    [
        ([0, 3, -1], NAMES, ["walk", "3", "-1"]),
        ([0, 3, -1], {}, ["0", "3", "-1"]),
        ([0.0, 2.0, 0.5], NAMES, ["walk", "sit", "0.5"]),
        (["walk", "jump", "1"], NAMES, ["walk", "jump", "1"]),
    ],
)
def test_numbers_are_names_where_there_are_names(values, extra, expected, tmp_path):
    dataset = takes(tmp_path, ({"frames": np.arange(3), "action": np.array(values)}, {}, extra))
    assert of_frames(dataset, [0, 1, 2]) == expected


def test_the_takes_own_label_holds_where_a_frame_has_none(tmp_path):
    frames = {"frames": np.array([0]), "action": np.array([1])}
    dataset = takes(tmp_path, (frames, {"action": "dance"}, NAMES), (None, {"action": "cook"}, {}), (None, {}, {}))
    assert of_frames(dataset, [0, 1]) == ["turn", "dance"]
    assert frame_actions(dataset, np.array([2, 1, 0]), np.array([0, 0, 7])).tolist() == ["unlabelled", "cook", "dance"]


def test_labels_of_no_frame_at_all(tmp_path):
    dataset = takes(tmp_path, ({"frames": np.zeros(0, int), "action": np.zeros(0, int)}, {}, NAMES))
    assert of_frames(dataset, [0]) is None


def test_motion_and_retrieval_look_actions_up_alike():
    assert motion_protocol.frame_actions is retrieval_protocol.frame_actions is frame_actions
