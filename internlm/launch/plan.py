"""``egoagent plan CONFIG --gpus N --gpu h100``: what each mesh would cost before a GPU is asked for, the fastest that fits first.

Memory and bytes on the wire are counted (``planning/``). Seconds are an estimate from three assumptions that are printed with
them: the share of the GPU's peak that computing reaches, the bandwidths of the table below (data sheets), and that what
``fully_shard`` sends is hidden behind four fifths of the computing, while tensor parallelism waits for every collective.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from typing import Any

HIDDEN_SHARE = 0.8  # of the computing that weights and gradients travel behind
RESERVED = 0.10  # of the memory: CUDA's context, the allocator's slack, communication buffers


@dataclass(frozen=True)
class Gpu:
    """Data-sheet values. memory: GB (10^9); tflops: dense bfloat16; link, network: GB/s one way, in a node and between nodes."""

    memory: float
    tflops: float
    link: float
    network: float


GPUS = {
    "a100": Gpu(80, 312, 300, 25),
    "a100-40gb": Gpu(40, 312, 300, 25),
    "h100": Gpu(80, 989, 450, 50),
    "h200": Gpu(141, 989, 450, 50),
    "b200": Gpu(180, 2250, 900, 50),
}


@dataclass(frozen=True)
class Row:
    """One mesh. ``reason`` says why it cannot run; None for one that can. Memory in bytes, times in seconds of a step."""

    parallel: dict[str, Any]
    memory: dict[str, int]
    bytes_sent: dict[str, float]
    compute_seconds: float
    communication_seconds: float
    step_seconds: float
    samples_per_second: float
    mfu: float
    reason: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("config", help="config file or run folder; batches are samples of a data-parallel process")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--gpus", type=int, required=True, metavar="N", help="GPUs in all")
    parser.add_argument("--gpu", choices=GPUS, default="h100")
    parser.add_argument("--gpus-per-node", type=int, default=8, metavar="N")
    parser.add_argument("--memory", type=float, metavar="GB", help="memory of a GPU, where it is not the table's")
    parser.add_argument("--efficiency", type=float, default=0.4, help="share of the peak that computing reaches (0.4)")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="meshes shown (10)")
    parser.add_argument("--dry-run", action="store_true", help="a step of the best mesh on fake tensors: what its first and last "
                        "process really hold")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the ranking; 0 where a mesh fits, 1 where none does."""
    from internlm.config.errors import ConfigError
    from internlm.config.load import load_config

    if args.gpus < 1 or args.gpus_per_node < 1 or not 0 < args.efficiency <= 1:
        raise ConfigError("--gpus and --gpus-per-node are at least 1, --efficiency is between 0 and 1")
    config, gpu = load_config(args.config, args.overrides), GPUS[args.gpu]
    if config.parallel.engine != "torch":
        raise ConfigError(f"plan counts what engine torch does and parallel.engine is {config.parallel.engine}; set it to torch")
    if args.memory:
        gpu = Gpu(args.memory, gpu.tflops, gpu.link, gpu.network)
    rows = plan(config, gpu, args.gpus, per_node=args.gpus_per_node, efficiency=args.efficiency)
    if args.json:
        assumed = {"gpu": args.gpu, **asdict(gpu), "efficiency": args.efficiency, "hidden_share": HIDDEN_SHARE}
        found = {"job_name": config.job_name, "assumed": assumed, "meshes": [asdict(row) for row in rows]}
    else:
        print(as_text(config, rows, args), flush=True)
    fits = rows[0].reason is None
    runs = _dry_runs(config, rows[0]) if args.dry_run and fits else []
    if args.json:
        print(json.dumps(found | {"dry_runs": [asdict(run) for run in runs]}, indent=2))
    elif runs:
        print("\n".join(["", *_dry_text(rows[0], runs)]))
    return 0 if fits else 1


def _dry_runs(config, row: Row) -> list:
    """The first and the last process of a mesh."""
    from .planning.dry_run import dry_run

    chosen = config.model_copy(update={"parallel": config.parallel.model_copy(update=row.parallel)})
    world = row.parallel["dp_replicate"] * row.parallel["dp_shard"] * row.parallel["tp"]
    return [dry_run(chosen, rank) for rank in sorted({0, world - 1})]


def _dry_text(row: Row, runs: list) -> list[str]:
    lines = [f"dry run of {_shape(row.parallel)} on fake tensors, GB, predicted in brackets:"]
    predicted = {**row.memory, "peak": sum(row.memory.values())}
    for run in runs:
        parts = ("parameters", "gradients", "optimizer", "observer", "peak")
        figures = ", ".join(f"{part} {getattr(run, part) / 1e9:.2f} ({predicted[part] / 1e9:.2f})" for part in parts)
        lines.append(f"  process {run.rank}: {figures}; {len(run.shapes)} shards of parameters")
    return lines


def plan(config, gpu: Gpu, gpus: int, *, per_node: int = 8, efficiency: float = 0.4) -> list[Row]:
    """Every mesh of so many GPUs with every ZeRO level and checkpointing: those that fit by speed, then the others."""
    from .planning.workload import read_workload

    work = read_workload(config)
    rows = [_row(work, mesh, gpu, per_node, efficiency) for mesh in meshes(config.parallel, gpus)]
    # Between meshes of one estimated speed: no checkpointing first (what selective repeats is not counted), then less memory.
    kinds = ("none", "selective", "full")
    return sorted(
        rows,
        key=lambda row: (
            row.reason is not None,
            -float(f"{row.samples_per_second:.3g}"),
            kinds.index(row.parallel["activation_checkpointing"]),
            sum(row.memory.values()),
        ),
    )


def meshes(base, gpus: int) -> list:
    """All factorisations of ``gpus`` with every checkpointing; ZeRO's level matters only where something is sharded.

    Of the torch engine: DeepSpeed's memory and traffic are its own.
    """
    base = base.model_copy(update={"engine": "torch", "zero": max(base.zero, 2)})
    found = []
    for tp in _divisors(gpus):
        for shard in _divisors(gpus // tp):
            shape = {"dp_replicate": gpus // tp // shard, "dp_shard": shard, "tp": tp}
            for zero in (2, 3) if shard > 1 else (base.zero,):
                for kind in ("none", "selective", "full"):
                    found.append(base.model_copy(update=shape | {"zero": zero, "activation_checkpointing": kind}))
    return found


def _divisors(number: int) -> list[int]:
    return [value for value in range(1, number + 1) if number % value == 0]


def _row(work, mesh, gpu: Gpu, per_node: int, efficiency: float) -> Row:
    shown = {name: getattr(mesh, name) for name in ("dp_replicate", "dp_shard", "tp", "zero", "activation_checkpointing")}
    refused = _indivisible(work.config.model, mesh, per_node)
    if refused:
        return Row(shown, {}, {}, 0, 0, 0, 0, 0, refused)
    from .planning.memory import memory_of
    from .planning.traffic import traffic_of

    memory, traffic = memory_of(work, mesh), traffic_of(work, mesh)
    train, data = work.config.train, mesh.dp_replicate * mesh.dp_shard
    useful = train.image_batch * work.train_image + train.clip_batch * work.train_clip
    repeated = train.image_batch * work.trunk_image + train.clip_batch * work.trunk_clip
    done = useful + (repeated if mesh.activation_checkpointing == "full" else 0)
    compute = done / mesh.tp / (gpu.tflops * 1e12 * efficiency)
    slow = {axis: gpu.link if fits else gpu.network for axis, fits in _inside_a_node(mesh, per_node).items()}
    waits = traffic.of("tp") / (slow["tp"] * 1e9)
    hidden = sum(traffic.of(axis) / (slow[axis] * 1e9) for axis in ("dp_shard", "dp_replicate"))
    hidden += traffic.of("data") / (slow["dp_replicate"] * 1e9)
    step = compute + waits + max(0.0, hidden - HIDDEN_SHARE * compute)
    usable, needed = gpu.memory * 1e9 * (1 - RESERVED), memory.as_dict()["total"]
    reason = None if needed <= usable else f"needs {needed / 1e9:.1f} GB of memory, {usable / 1e9:.1f} are usable"
    return Row(
        shown,
        {name: value for name, value in memory.as_dict().items() if name != "total"},
        traffic.by_kind,
        compute,
        waits + hidden,
        step,
        data * (train.image_batch + train.clip_batch) / step,
        useful / mesh.tp / step / (gpu.tflops * 1e12),
        reason,
    )


def _indivisible(model, mesh, per_node: int) -> str | None:
    if mesh.tp > per_node:
        return f"tp {mesh.tp} reaches over nodes of {per_node} GPUs"
    for name in ("num_heads", "hidden_size", "head_hidden", "prototypes", "mlp_multiple_of"):
        if getattr(model, name) % mesh.tp:
            return f"model.{name} {getattr(model, name)} is not divisible by tp {mesh.tp}"
    return None


def _inside_a_node(mesh, per_node: int) -> dict[str, bool]:
    """Whether the processes of each axis share a node; tp varies fastest, dp_replicate slowest."""
    return {
        "tp": mesh.tp <= per_node,
        "dp_shard": mesh.tp * mesh.dp_shard <= per_node,
        "dp_replicate": mesh.tp * mesh.dp_shard * mesh.dp_replicate <= per_node,
    }


def as_text(config, rows: list[Row], args: argparse.Namespace) -> str:
    """A table of the meshes that fit, and one line for each kind of reason against the others."""
    fitting, others = [row for row in rows if row.reason is None], [row for row in rows if row.reason is not None]
    train = config.train
    lines = [
        f"{config.job_name} on {args.gpus} x {args.gpu}, {args.gpus_per_node} a node; {train.image_batch} images and "
        f"{train.clip_batch} clips a data-parallel process and step, in {train.accumulation} pieces",
        f"assumed: {args.efficiency:.0%} of the peak in computing, {HIDDEN_SHARE:.0%} of it hides dp communication, "
        "data-sheet bandwidths",
        "",
        "  rep x shard x tp  ZeRO  checkpointing   GB/GPU  GB sent/step  s/step  samples/s   MFU",
    ]
    for row in fitting[: args.top]:
        mesh, zero = row.parallel, row.parallel["zero"] if row.parallel["dp_shard"] > 1 else "-"
        gigabytes, sent = sum(row.memory.values()) / 1e9, sum(row.bytes_sent.values()) / 1e9
        lines.append(
            f"  {_shape(mesh):>16}  {zero!s:>4}  {mesh['activation_checkpointing']:<13} {gigabytes:>8.1f}"
            f"  {sent:>12.1f}  {row.step_seconds:>6.2f}  {row.samples_per_second:>9.0f}  {row.mfu:>4.0%}"
        )
    if not fitting:
        lines.append("  none fits: lower the batch, raise train.accumulation, or take more or larger GPUs")
    elif len(fitting) > args.top:
        lines.append(f"  and {len(fitting) - args.top} more that fit (--top)")
    if others:
        lines += ["", "cannot run:"]
        for row in others[: args.top]:
            zero, kind = row.parallel["zero"], row.parallel["activation_checkpointing"]
            lines.append(f"  {_shape(row.parallel):>16}  ZeRO {zero}, checkpointing {kind}: {row.reason}")
        if len(others) > args.top:
            lines.append(f"  and {len(others) - args.top} more (--json lists all)")
    return "\n".join(lines)


def _shape(mesh: dict[str, Any]) -> str:
    return f"{mesh['dp_replicate']} x {mesh['dp_shard']} x {mesh['tp']}"
