"""Speed and memory of a run as a person compares them: samples and tokens a second, share of the hardware's peak, GiB."""

import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from internlm.config.schema import Config

from .gpus import PEAK_TFLOPS

GIB = 2**30


def peak_tflops(config: Config, device: torch.device, dtype: torch.dtype) -> float | None:
    """TFLOP/s that one device could do at most: ``monitor.peak_tflops``, or what is known of the GPU in bfloat16, or None."""
    if config.monitor.peak_tflops is not None:
        return config.monitor.peak_tflops
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_TFLOPS.items() if key in name), None)


class Speed:
    """Turns counts of samples into speeds.

    ``frames`` and ``tokens`` of a sample by stream. ``peak``: FLOP/s of all devices together, None where it is not known; MFU is
    the ``flops`` of training on the samples (what a system counts; recomputed activations are not) over it.
    """

    def __init__(
        self, frames: Mapping[str, int], tokens: Mapping[str, int], flops: Callable[[], Mapping[str, int]], peak: float | None
    ) -> None:
        self._frames, self._tokens, self.peak = frames, tokens, peak
        self._flops = flops() if peak is not None else {}

    def figures(self, samples: Mapping[str, int], seconds: float) -> dict[str, float]:
        """Speeds of all processes together for so many samples by stream of all in ``seconds``."""

        def speed(units: Mapping[str, int]) -> float:
            return sum(count * units[name] for name, count in samples.items()) / seconds

        found = {"tokens_per_s": speed(self._tokens)}
        found |= {"images_per_s": speed(self._frames)} if any(self._frames.values()) else {}
        return found | ({"mfu": speed(self._flops) / self.peak} if self.peak is not None else {})


def memory_gib(device: torch.device) -> dict[str, float]:
    """GiB of this process: ``host`` is its resident memory now; on CUDA the peaks since the last call as well."""
    found = {"host": _resident_bytes() / GIB}
    if device.type == "cuda":
        found["allocated"] = torch.cuda.max_memory_allocated(device) / GIB
        found["reserved"] = torch.cuda.max_memory_reserved(device) / GIB
        torch.cuda.reset_peak_memory_stats(device)
    return found


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # not Linux: the peak instead, in bytes on macOS
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
