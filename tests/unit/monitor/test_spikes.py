"""What is a spike: against windows of known median and quantile."""

import json
import random

import pytest

from internlm.monitor.spikes import LEAST, WINDOW, SpikeWatch


def filled(values, factor=10.0, kind="images"):
    watch = SpikeWatch(factor)
    for value in values:
        assert watch.update(kind, {"loss": value}) is None
    return watch


def test_the_limit_is_the_median_and_so_many_spreads():
    # 101 values from 1 to 2: median 1.5, 0.9-quantile 1.9, so the limit is 1.5 + 10 * 0.4.
    values = [1 + number / 100 for number in range(101)]
    random.Random(0).shuffle(values)
    assert filled(values).update("images", {"loss": 5.49}) is None
    assert filled(values).update("images", {"loss": 5.51}) == "loss 5.51 is above 5.5"


def test_a_run_that_hardly_varies_may_vary_a_little():
    assert filled([1.0] * 50).update("images", {"loss": 1.99}) is None
    assert "above 2" in filled([1.0] * 50).update("images", {"loss": 2.01})


def test_nothing_is_a_spike_before_there_is_something_to_compare_with():
    watch = filled([1.0] * (LEAST - 1))
    assert watch.update("images", {"loss": 1e6}) is None


def test_kinds_of_steps_are_not_compared_with_each_other():
    watch = filled([1.0] * 50)
    assert watch.update("clips", {"loss": 100.0}) is None


def test_spikes_do_not_move_the_limit_and_old_steps_are_forgotten():
    watch = filled([1.0] * 50)
    assert all(watch.update("images", {"loss": 5.0}) for _ in range(100))
    assert watch.update("images", {"loss": 1.0}) is None
    drifting = SpikeWatch(10)
    assert not any(drifting.update("images", {"loss": 1.01**step}) for step in range(3 * WINDOW))  # 390-fold in the end


def test_either_figure_can_be_one_and_neither_is_remembered_then():
    watch = SpikeWatch(10)
    for _ in range(50):
        watch.update("both", {"loss": 1.0, "grad_norm": 0.5})
    before = watch.state()
    assert watch.update("both", {"loss": 1.0, "grad_norm": 40.0}) == "grad_norm 40 is above 1"
    assert watch.state() == before


def test_the_watch_continues_from_its_state():
    watch = SpikeWatch(10)
    watch.load_state(json.loads(json.dumps(filled([1.0] * WINDOW).state())))
    assert watch.update("images", {"loss": 3.0}) and watch.update("images", {"loss": 1.0}) is None


@pytest.mark.parametrize("factor", [3.0, 30.0])
def test_a_larger_factor_allows_more(factor):
    assert bool(filled([1.0] * 50, factor).update("images", {"loss": 2.0})) == (factor == 3.0)
