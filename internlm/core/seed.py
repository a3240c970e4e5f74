"""Seeds: one per run, from which each consumer derives its own, and torch's generator state as tensors."""

import random

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices). The model is built after this, the same on every process."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Tensor]:
    """torch's generator states, by device: uint8 tensors, fit for a checkpoint."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_rng_state(states: dict[str, Tensor]) -> None:
    """Restore what ``rng_state`` returned; states of devices that this machine lacks are left out."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"].cpu())
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(devices):
        if f"cuda{index}" in states:
            torch.cuda.set_rng_state(states[f"cuda{index}"].cpu(), index)
