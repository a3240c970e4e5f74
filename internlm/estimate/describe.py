"""``egoagent describe``: what a config costs, before anything is allocated."""

import argparse
import json
import sys
from typing import Any

from internlm.config.load import load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="config file or run folder")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--batch", type=int, metavar="N", help="samples per GPU and micro-step (default: batch / accumulation)")
    axes = {"dp-replicate": "replicas", "dp-shard": "processes that share the states", "tp": "tensor-parallel width"}
    for axis, meaning in axes.items():
        parser.add_argument(f"--{axis}", type=int, metavar="N", help=f"{meaning} (default: the config's)")


def run(args: argparse.Namespace) -> int:
    mesh = {"dp_replicate": args.dp_replicate, "dp_shard": args.dp_shard, "tp": args.tp}
    overrides = [*args.overrides, *(f"parallel.{axis}={size}" for axis, size in mesh.items() if size is not None)]
    if args.batch is not None and args.batch < 1:
        print(f"egoagent describe: --batch {args.batch} is not at least 1", file=sys.stderr)
        return 2
    description = describe(load_config(args.config, overrides), args.batch)
    print(json.dumps(description, indent=2) if args.json else as_text(description))
    return 0


def describe(config, batch: int | None = None) -> dict[str, Any]:
    """Parameters, tokens, FLOPs and memory as plain numbers; a system's ``cost`` says what each of its own means.

    ``batch``: samples of every stream in a micro-step.
    """
    from internlm.systems.resolve import build_system_on_meta

    from .measure import estimate

    system = build_system_on_meta(config)
    cost, parts = system.cost(), system.parts()
    counts = {name: batch or stream.size // config.train.accumulation for name, stream in system.streams().items() if stream.size}
    # Each engine divides states alike; how DeepSpeed's others lie in memory is its own.
    torch_engine = {"engine": "torch", "zero": max(config.parallel.zero, 2)}
    measured = estimate(config.model_copy(update={"parallel": config.parallel.model_copy(update=torch_engine)}), counts=counts)
    figures = cost.figures() or {
        "parameters": {name: sum(p.numel() for p in part.module.parameters()) for name, part in parts.items()},
        "tokens": dict(cost.tokens),
        "flops": dict(cost.flops()),
    }
    return {
        "job_name": config.job_name,
        "stage": getattr(config, "stage", config.system),
        **figures,
        "memory": {
            **measured.memory,
            "total": measured.total,
            "unit": "bytes per GPU",
            "micro_batch": {f"{name}s": counts.get(name, 0) for name in system.streams()},
            "mesh": config.parallel.model_dump(),
            "formula": "the highest sum of all tensors of one process in a step, followed on tensors without memory; left out: "
            "what kernels allocate for themselves",
        },
    }


def as_text(description: dict[str, Any]) -> str:
    """The same for people."""
    parameters, tokens, flops, memory = (description[key] for key in ("parameters", "tokens", "flops", "memory"))
    lines = [f"{description['job_name']} ({description['stage']})", "", "parameters"]
    lines += [f"  {name:<20} {value:>15,}" for name, value in parameters.items()]
    lines += ["", "tokens"] + [f"  {name:<20} {value:>15,}" for name, value in tokens.items()]
    lines += ["", "GFLOPs (two per multiply-add)"] + [f"  {name:<20} {value / 1e9:>15,.1f}" for name, value in flops.items()]
    micro = memory["micro_batch"]
    mesh = " x ".join(f"{name} {size}" for name, size in memory["mesh"].items())
    lines += ["", f"estimated GiB per GPU, micro-step of {' and '.join(f'{n} {name}' for name, n in micro.items())}, mesh {mesh}"]
    lines += [f"  {name:<20} {value / 2**30:>15,.2f}" for name, value in memory.items() if isinstance(value, int)]
    return "\n".join([*lines, "", "  " + memory["formula"]])
