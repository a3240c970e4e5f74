"""Schedules against numbers worked out by hand from the published configuration."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm.solver.schedule import cosine, learning_rate, teacher_temperature
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.resolve import build_system

STEPS = 751_036
WARMUP = 75_103


def paper_lr(step):
    return learning_rate(step, STEPS, peak=5e-4, final=5e-6, warmup_share=0.1)


def test_learning_rate_of_the_published_run():
    assert paper_lr(0) == pytest.approx(5e-4 / WARMUP, rel=1e-12)
    assert paper_lr(WARMUP - 1) == pytest.approx(5e-4, rel=1e-12)
    assert paper_lr(WARMUP) == pytest.approx(5e-4, rel=1e-12)
    half = WARMUP + (STEPS - WARMUP) // 2
    assert paper_lr(half) == pytest.approx((5e-4 + 5e-6) / 2, rel=1e-4)
    assert paper_lr(STEPS - 1) == pytest.approx(5e-6, rel=1e-6)
    assert paper_lr(STEPS) == 5e-6


def test_learning_rate_without_warmup_starts_at_the_peak():
    assert learning_rate(0, 10, peak=1.0, final=0.0, warmup_share=0.0) == 1.0


def test_learning_rate_that_only_warms_up():
    assert learning_rate(9, 10, peak=1.0, final=0.0, warmup_share=1.0) == 1.0


def test_weight_decay_of_the_published_run():
    assert cosine(0, STEPS, 0.04, 0.4) == pytest.approx(0.04)
    assert cosine(STEPS // 2, STEPS, 0.04, 0.4) == pytest.approx(0.22)
    assert cosine(STEPS // 4, STEPS, 0.04, 0.4) == pytest.approx(0.4 - 0.18 * (1 + math.sqrt(0.5)), rel=1e-6)
    assert cosine(STEPS, STEPS, 0.04, 0.4) == 0.4


def test_momentum_of_the_published_run():
    for step in (0, 1000, STEPS // 3, STEPS - 1):
        expected = 1 - 0.004 * (1 + math.cos(math.pi * step / STEPS)) / 2
        assert cosine(step, STEPS, 0.996, 1.0) == pytest.approx(expected, rel=1e-12)


def test_teacher_temperature_rises_linearly_then_stays():
    temperatures = [teacher_temperature(step, 100, start=0.04, end=0.07, share=0.03) for step in range(5)]
    assert temperatures == pytest.approx([0.04, 0.05, 0.06, 0.07, 0.07])


@given(st.integers(1, 500), st.floats(0, 1), st.integers(0, 600))
def test_learning_rate_stays_between_zero_and_peak(steps, share, step):
    value = learning_rate(step, steps, peak=1.0, final=0.01, warmup_share=share)
    assert 0 < value <= 1.0 + 1e-12


def test_values_come_from_their_own_keys():
    config = Config.model_validate(
        {
            "model": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "prototypes": 8},
            "train": {"steps": 100},
            "optim": {"lr": 0.1, "final_lr": 0.0, "warmup_share": 0.1, "weight_decay": 0.2, "weight_decay_end": 0.3},
            "loss": {"warmup_teacher_temp": 0.02, "teacher_temp": 0.06, "warmup_teacher_temp_share": 0.5},
        }
    )
    schedules = build_system(config).schedules()
    values = {name: schedule(0) for name, schedule in schedules.items()}
    assert values == pytest.approx({"lr": 0.01, "weight_decay": 0.2, "momentum": 0.996, "teacher_temp": 0.02})
    assert schedules["teacher_temp"](25) == pytest.approx(0.04)
