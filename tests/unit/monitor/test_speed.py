"""Time by phase, speeds, the share of the peak, memory: against arithmetic done here and times that are made to pass."""

import time

import pytest
import torch
from torch import nn
from train_samples import tiny_config

from internlm.monitor import clock as clock_module
from internlm.monitor.clock import Clock, Probe
from internlm.monitor.speed import Speed, memory_gib, peak_tflops
from internlm.systems.egoagent.cost import build_on_meta, cost, flops

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Times:
    """A clock of whole seconds that the test turns."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def times(monkeypatch):
    times = Times()
    monkeypatch.setattr(clock_module.time, "perf_counter", times.perf_counter)
    return times


class Event:
    """A CUDA event of the test's clock; ``waits`` counts how often the device was waited for."""

    waits, times = 0, None

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = Event.times.now

    def synchronize(self):
        Event.waits += 1

    def elapsed_time(self, end):
        return (end.at - self.at) * 1000


def spend(clock, times, **seconds):
    for name, spent in seconds.items():
        with clock.phase(name):
            times.now += spent


def test_phases_add_up_until_they_are_read(times):
    clock = Clock(CPU)
    spend(clock, times, data=1, forward=2, backward=4)
    times.now += 100  # between the phases: counted nowhere
    spend(clock, times, data=8, forward=16)
    assert clock.read() == {"data": 9, "forward": 18, "backward": 4}
    assert clock.read() == {}


def test_on_cuda_only_reading_waits_for_the_device_and_waiting_for_data_is_the_hosts_time(times, monkeypatch):
    Event.times, Event.waits = times, 0
    monkeypatch.setattr(clock_module.torch.cuda, "Event", Event)
    clock = Clock(CUDA)
    for _ in range(50):
        spend(clock, times, data=1, forward=2, backward=4)
    assert Event.waits == 0
    assert clock.read() == {"data": 50, "forward": 100, "backward": 200}
    assert Event.waits == 1
    spend(clock, times, forward=3)
    assert clock.read() == {"forward": 3} and len(clock._free) == 200  # events are used again


def test_a_phase_that_fails_still_counts(times):
    clock = Clock(CPU)
    with pytest.raises(ValueError), clock.phase("forward"):
        times.now += 3
        raise ValueError
    assert clock.read() == {"forward": 3}


def test_the_probe_is_the_mean_of_one_modules_calls(times):
    class Slow(nn.Module):
        def forward(self, x, seconds):
            times.now += seconds
            return x

    module = Slow()
    probe = Probe(module, CPU)
    for seconds in (1, 2, 6):
        module(torch.zeros(1), seconds)
        times.now += 50
    assert probe.read() == 3 and probe.read() == 0
    probe.close()
    module(torch.zeros(1), 5)
    assert probe.read() == 0


@pytest.mark.parametrize("stage", ["pretrain", "joint"])
def test_speeds_are_counts_over_seconds(stage):
    config = tiny_config(stage=stage)
    # 16-pixel frames in 8-pixel patches: 4 patches and a state query, a local crop 1 and 1; a clip adds an action and its query.
    image = config.data.crops.global_crops * 5 + 1 * 2
    clip = 2 * (4 + 1 + 1 + 1)
    about = cost(config)
    found = Speed(about.frames, about.tokens, about.flops, None).figures({"image": 30, "clip": 10}, seconds=2.0)
    assert found == {"images_per_s": (30 + 10 * 3) / 2, "tokens_per_s": (30 * image + 10 * clip) / 2}


def test_mfu_is_the_models_flops_over_the_peak():
    config = tiny_config()
    counted = flops(config, build_on_meta(config.model).eval())
    done = 3 * counted["train_image"] + 5 * counted["train_clip"]
    about = cost(config)
    speed = Speed(about.frames, about.tokens, about.flops, 1e9)
    assert speed.figures({"image": 3, "clip": 5}, 0.5)["mfu"] == pytest.approx(done / 0.5 / 1e9)


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312.0),
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989.4),
        ("NVIDIA H100 PCIe", torch.bfloat16, 756.0),
        ("NVIDIA H200", torch.bfloat16, 989.4),
        ("NVIDIA H20", torch.bfloat16, 148.0),
        ("NVIDIA L40S", torch.bfloat16, 362.0),
        ("NVIDIA L4", torch.bfloat16, 121.0),
        ("NVIDIA H100 80GB HBM3", torch.float32, None),
        ("Tesla T4", torch.bfloat16, None),
    ],
)
def test_the_peak_of_a_known_gpu(monkeypatch, name, dtype, expected):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_tflops(tiny_config(), CUDA, dtype) == expected


def test_on_the_cpu_there_is_a_peak_only_where_one_is_given():
    assert peak_tflops(tiny_config(), CPU, torch.bfloat16) is None
    assert peak_tflops(tiny_config(monitor={"peak_tflops": 0.05}), CPU, torch.float32) == 0.05


def test_host_memory_is_what_the_process_holds():
    before = memory_gib(CPU)["host"]
    held = torch.ones(2**26)  # a quarter of a GiB
    assert 0.2 < memory_gib(CPU)["host"] - before < 0.3 and len(held)


def test_marking_a_phase_costs_microseconds():
    """Not a speed limit: a synchronisation or a file access slipped in here would cost a thousand times more."""
    clock, began = Clock(CPU), time.process_time()
    for _ in range(1000):
        with clock.phase("forward"):
            pass
    assert time.process_time() - began < 1
