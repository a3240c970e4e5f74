"""Speed and memory of a run as a person compares them: samples and tokens a second, share of the hardware's peak, GiB."""

import resource
import sys
from pathlib import Path

import torch

from internlm.config.schema import Config

from .flops import build_on_meta, flops, tokens

# Dense bfloat16 TFLOP/s of the vendors' data sheets, without sparsity. The first key that is in the device's name holds.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "GH200": 989.4,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "H800": 989.4,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX A6000": 154.8,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
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

    A clip counts as its T + 1 frames, and tokens are those that the predictor reads. ``peak``: FLOP/s of all devices together,
    None where it is not known; MFU is the model's own FLOPs (recomputed activations not counted, the observer's counted) over it.
    """

    def __init__(self, config: Config, peak: float | None) -> None:
        lengths, crops = tokens(config), config.data.crops
        self._frames = config.data.clip.steps + 1
        self._image_tokens = crops.global_crops * lengths["image"] + crops.local_crops * lengths["local_crop"]
        self._clip_tokens = lengths["clip"]
        self.peak = peak
        if peak is not None:
            self._flops = flops(config, build_on_meta(config.model).eval())

    def figures(self, images: int, clips: int, seconds: float) -> dict[str, float]:
        """Speeds of all processes together for so many image and clip samples of all in ``seconds``."""
        found = {
            "images_per_s": (images + clips * self._frames) / seconds,
            "tokens_per_s": (images * self._image_tokens + clips * self._clip_tokens) / seconds,
        }
        if self.peak is not None:
            done = images * self._flops["train_image"] + clips * self._flops["train_clip"]
            found["mfu"] = done / seconds / self.peak
        return found


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
