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


def seed_process(seed: int, step: int, rank: int) -> None:
    """Seed torch for what a process draws itself from a step on: apart by data-parallel rank, equal inside a tp group."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1)))


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """States of torch's generators that this process uses, "cpu" and its device's: uint8 tensors in main memory."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_rng_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Restore what ``rng_state`` returned."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
