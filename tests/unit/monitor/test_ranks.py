"""Processes beside each other: extremes, and warnings that come once, name the rank and its machine, and pass."""

import pytest
import torch

from internlm.checkpoint.manager import CheckpointError
from internlm.core.collectives import ALONE, is_lost_process
from internlm.monitor.ranks import PATIENCE, Ranks, RankWatch, extremes, slower

EVEN = [1.0, 1.1, 0.9, 1.0]
SLOW = [1.0, 1.1, 2.0, 1.0]
FED = [0.01] * 4
HUNGRY = [0.01, 0.01, 0.01, 0.5]


def watch(hosts=4):
    ranks = Ranks(ALONE, "cpu")
    ranks.hosts = [f"node{rank // 2}" for rank in range(hosts)]
    return RankWatch(ranks, straggler_share=0.5, data_wait_share=0.25)


def test_extremes_name_the_rank_of_the_largest():
    assert extremes({"step_seconds": [2.0, 5.0, 3.0]}) == {
        "ranks/step_seconds_min": 2.0,
        "ranks/step_seconds_max": 5.0,
        "ranks/step_seconds_max_rank": 1,
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [(SLOW, [2]), (EVEN, []), ([1.0, 3.0], [1]), ([3.0, 3.0, 1.0], []), ([5.0], []), ([0.0, 0.0], []), ([9, 9, 1, 1, 1], [0, 1])],
)
def test_the_slower_ones_are_above_the_median_of_the_others(values, expected):
    assert slower(values, 0.5) == expected


def test_a_straggler_is_named_once_with_its_machine_and_its_recovery_too():
    found = watch()
    said = [found.update(SLOW, FED, 1.0) for _ in range(10)]
    assert said[: PATIENCE - 1] == [[]] * (PATIENCE - 1) and said[PATIENCE:] == [[]] * (10 - PATIENCE)
    (message,) = said[PATIENCE - 1]
    assert message.startswith("STRAGGLER: rank 2 on node1 computes 2.0 times as long") and "--exclude" in message
    said = [found.update(EVEN, FED, 1.0) for _ in range(10)]
    assert [message for messages in said for message in messages] == ["rank 2 on node1 keeps up again"] and said[PATIENCE - 1]


def test_what_comes_and_goes_is_not_worth_a_word():
    found = watch()
    assert not any(found.update(SLOW if number % 2 else EVEN, HUNGRY if number % 2 else FED, 1.0) for number in range(20))


def test_starving_for_data_names_the_worst_and_the_way_out():
    found = watch()
    said = [message for _ in range(10) for message in found.update(EVEN, HUNGRY, 1.0)]
    assert len(said) == 1 and said[0].startswith("WAITING FOR DATA: rank 3 on node1 spends 50% of a step")
    assert "data.workers" in said[0]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"), True),
        (torch.distributed.DistBackendError("NCCL error"), True),
        (CheckpointError("runs/gloo/checkpoints: no space left"), False),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_a_lost_process_is_told_from_other_errors(error, expected):
    assert is_lost_process(error) is expected


def test_one_process_has_no_stragglers_but_may_starve():
    found = watch(hosts=1)
    said = [message for _ in range(5) for message in found.update([7.0], [0.9], 1.0)]
    assert len(said) == 1 and "rank 0" in said[0]
