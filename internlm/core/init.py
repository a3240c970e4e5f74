"""Where a run computes and in which precision."""

from contextlib import AbstractContextManager, nullcontext

import torch

from internlm.core.errors import UserError


class DeviceError(UserError):
    """The machine lacks a device that was asked for."""


def choose_device(name: str = "auto") -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` → device. DeviceError when CUDA is asked for and there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError("train.device is 'cuda' but torch sees no GPU; set train.device to 'auto' or 'cpu'")
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Compute dtype: ``auto`` is bfloat16 on CUDA and float32 on the CPU. Weights stay float32."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Autocast for a compute dtype; nothing for float32."""
    return torch.autocast(device.type, dtype=dtype) if dtype != torch.float32 else nullcontext()


def set_threads(threads: int) -> None:
    """CPU threads of torch; 0 leaves torch's choice."""
    if threads:
        torch.set_num_threads(threads)
