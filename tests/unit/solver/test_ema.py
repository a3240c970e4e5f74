"""The observer's moving average."""

import pytest
import torch
from torch import nn

from internlm.solver.ema import MovingAverage


def network(extra=False):
    parts = {"linear": nn.Linear(3, 3), "norm": nn.BatchNorm1d(3)}
    if extra:
        parts["action"] = nn.Linear(3, 2)
    return nn.ModuleDict(parts)


def test_update_is_the_weighted_mean_and_spares_the_source():
    torch.manual_seed(0)
    predictor, observer = network(extra=True), network()
    start = observer["linear"].weight.detach().clone()
    source = predictor["linear"].weight.detach().clone()
    MovingAverage(predictor, observer).update(0.9)
    torch.testing.assert_close(observer["linear"].weight.detach(), 0.9 * start + 0.1 * source)
    assert torch.equal(predictor["linear"].weight, source)


def test_momentum_one_leaves_parameters_and_zero_copies_them():
    predictor, observer = network(), network()
    average = MovingAverage(predictor, observer)
    start = observer["linear"].weight.detach().clone()
    average.update(1.0)
    assert torch.equal(observer["linear"].weight, start)
    average.update(0.0)
    assert torch.equal(observer["linear"].weight, predictor["linear"].weight)


def test_observer_in_eval_mode_takes_the_predictors_batchnorm_statistics():
    predictor, observer = network(), network().eval()
    predictor["norm"](torch.randn(8, 3) + 5)
    MovingAverage(predictor, observer).update(0.99)
    assert torch.equal(observer["norm"].running_mean, predictor["norm"].running_mean)
    assert observer["norm"].num_batches_tracked == 1


def test_observer_in_training_mode_keeps_the_statistics_it_measured():
    predictor, observer = network(), network()
    predictor["norm"](torch.randn(8, 3) + 5)
    observer["norm"](torch.randn(8, 3) - 5)
    MovingAverage(predictor, observer).update(0.99)
    assert (observer["norm"].running_mean < 0).all()


def test_update_sees_weights_loaded_later():
    predictor, observer = network(), network()
    average = MovingAverage(predictor, observer)
    predictor.load_state_dict(network().state_dict())
    average.update(0.0)
    assert torch.equal(observer["linear"].weight, predictor["linear"].weight)


def test_observer_with_more_parts_is_refused():
    with pytest.raises(ValueError, match=r"action\.weight"):
        MovingAverage(network(), network(extra=True))
