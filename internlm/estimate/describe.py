"""What a config costs, before anything is allocated."""

from typing import Any


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
