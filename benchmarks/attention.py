"""Attention kernels beside PyTorch's sdpa, in one run: python benchmarks/attention.py [--steps 20 --batch 16]

A sequence of the model's own layouts, forward and backward, each kernel that can run on this machine; on a CPU FlexAttention has
a forward pass only. Printed is the time of each as a ratio to sdpa's with the same mask, and how far its output lies from it.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from internlm.systems.egoagent.sequence import clip_layout
from internlm.trunk.attention import sdpa
from internlm.trunk.kernels import Flex, flash, missing

FLEX_CPU = "forward only: no backward pass on a CPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=196, help="of a frame")
    parser.add_argument("--steps", type=int, default=2, help="of a clip; 20 are published")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-size", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    results: dict[str, Any] = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu", "dtype": str(dtype)}
    for kind in ("causal", "block"):
        layout = clip_layout(args.patches, args.steps, kind)
        q, k, v = torch.randn(3, args.batch, args.heads, len(layout), args.head_size, device=device, dtype=dtype)
        dense, blocks = layout.mask(device), layout.block_mask(device)
        results["tokens"] = len(layout)
        results[kind] = {"flex skips": f"{blocks.sparsity():.0f} % of the blocks"}
        for name in ("flex", "flash"):
            why = missing(name, args.head_size, device, dtype)
            if name == "flash" and (why or dense is not None):
                results[kind][name] = f"flash-attn, {why}" if why else "knows no mask"
                continue
            attend = Flex() if name == "flex" else flash
            own = blocks if name == "flex" else None
            backward = why is None
            ratio = timed(attend, own, q, k, v, args.repeat, backward) / timed(sdpa, dense, q, k, v, args.repeat, backward)
            with torch.no_grad():
                gap = float((attend(q, k, v, own) - sdpa(q, k, v, dense)).abs().max())
            results[kind][name] = {"ratio to sdpa": round(ratio, 2), "largest difference": gap}
            if not backward:
                results[kind][name]["note"] = FLEX_CPU
    print(json.dumps(results, indent=1))


def timed(attend: Callable[..., Tensor], mask: Any, q: Tensor, k: Tensor, v: Tensor, repeat: int, backward: bool) -> float:
    """Seconds of the fastest of several passes, after one that compiles."""
    best = float("inf")
    for number in range(repeat + 1):
        inputs = [x.detach().requires_grad_(backward) for x in (q, k, v)]
        _wait()
        start = time.perf_counter()
        with torch.set_grad_enabled(backward):
            mixed = attend(*inputs, mask)
        if backward:
            mixed.sum().backward()
        _wait()
        if number:
            best = min(best, time.perf_counter() - start)
    return best


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
