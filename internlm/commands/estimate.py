"""``egoagent estimate CONFIG --gpus N --gpu h100``: what each mesh would cost before a GPU is asked for, the fastest first."""

import argparse
import json
from dataclasses import asdict
from typing import Any

from internlm.core.errors import ConfigError
from internlm.eval.options import whole
from internlm.monitor.gpus import GPUS, Gpu


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("config", help="config file or run folder; batches are samples of a data-parallel process")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--gpus", type=whole(1), required=True, metavar="N", help="GPUs in all")
    parser.add_argument("--gpu", choices=GPUS, default="h100")
    parser.add_argument("--gpus-per-node", type=whole(1), default=8, metavar="N")
    parser.add_argument("--memory", type=float, metavar="GB", help="memory of a GPU, where it is not the table's")
    parser.add_argument("--efficiency", type=float, default=0.4, help="share of the peak that computing reaches (0.4)")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="meshes shown (10)")
    parser.add_argument("--dry-run", action="store_true", help="the best mesh in all its depth, by its first and last process")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the ranking; 0 where a mesh fits, 1 where none does."""
    from internlm.config.load import load_config
    from internlm.estimate.ranking import HIDDEN_SHARE, rank_meshes

    if not 0 < args.efficiency <= 1:
        raise ConfigError("--efficiency is between 0 and 1")
    config, gpu = load_config(args.config, args.overrides), GPUS[args.gpu]
    if config.parallel.engine != "torch":
        raise ConfigError(f"estimate measures engine torch and parallel.engine is {config.parallel.engine}; set it to torch")
    if args.memory:
        gpu = Gpu(args.memory, gpu.tflops, gpu.link, gpu.network)
    rows = rank_meshes(config, gpu, args.gpus, per_node=args.gpus_per_node, efficiency=args.efficiency)
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


def _dry_runs(config, row) -> list:
    """The first and the last process of a mesh."""
    from internlm.estimate.measure import dry_run

    chosen = config.model_copy(update={"parallel": config.parallel.model_copy(update=row.parallel)})
    world = row.parallel["dp_replicate"] * row.parallel["dp_shard"] * row.parallel["tp"]
    return [dry_run(chosen, rank) for rank in sorted({0, world - 1})]


def _dry_text(row, runs: list) -> list[str]:
    lines = [f"dry run of {_shape(row.parallel)} at its full depth, GB, estimated in brackets:"]
    estimated = {**row.memory, "peak": sum(row.memory.values())}
    for run in runs:
        sizes = {**run.memory, "peak": run.peak}
        figures = ", ".join(f"{part} {size / 1e9:.2f} ({estimated[part] / 1e9:.2f})" for part, size in sizes.items())
        lines.append(f"  process {run.rank}: {figures}; {len(run.shapes)} shards of parameters")
    return lines


def as_text(config, rows: list, args: argparse.Namespace) -> str:
    """A table of the meshes that fit, and one line for each kind of reason against the others."""
    from internlm.estimate.ranking import HIDDEN_SHARE
    from internlm.systems.resolve import build_system_on_meta

    fitting, others = [row for row in rows if row.reason is None], [row for row in rows if row.reason is not None]
    streams = build_system_on_meta(config).streams()
    batches = " and ".join(f"{stream.size} {name}s" for name, stream in streams.items())
    lines = [
        f"{config.job_name} on {args.gpus} x {args.gpu}, {args.gpus_per_node} a node; {batches} a data-parallel process "
        f"and step, in {config.train.accumulation} pieces",
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
        alike: dict[str, list] = {}
        for row in others:
            alike.setdefault(row.reason, []).append(row)
        for reason, rows in list(alike.items())[: args.top]:
            more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
            lines.append(f"  {_shape(rows[0].parallel):>16}, ZeRO {rows[0].parallel['zero']}{more}: {reason}")
        if len(alike) > args.top:
            lines.append(f"  and {len(alike) - args.top} more reasons (--json lists all)")
    return "\n".join(lines)


def _shape(mesh: dict[str, Any]) -> str:
    return f"{mesh['dp_replicate']} x {mesh['dp_shard']} x {mesh['tp']}"
