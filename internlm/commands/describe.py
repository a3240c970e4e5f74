"""``egoagent describe``: what a config costs, before anything is allocated."""

import argparse
import json

from internlm.eval.options import whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("config", help="config file or run folder")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--batch", type=whole(1), metavar="N", help="samples a GPU and micro-step (default batch / accumulation)")
    axes = {"dp-replicate": "replicas", "dp-shard": "processes that share the states", "tp": "tensor-parallel width"}
    for axis, meaning in axes.items():
        parser.add_argument(f"--{axis}", type=int, metavar="N", help=f"{meaning} (default: the config's)")


def run(args: argparse.Namespace) -> int:
    """Print the description; returns 0."""
    from internlm.config.load import load_config
    from internlm.estimate.describe import as_text, describe

    mesh = {"dp_replicate": args.dp_replicate, "dp_shard": args.dp_shard, "tp": args.tp}
    overrides = [*args.overrides, *(f"parallel.{axis}={size}" for axis, size in mesh.items() if size is not None)]
    description = describe(load_config(args.config, overrides), args.batch)
    print(json.dumps(description, indent=2) if args.json else as_text(description))
    return 0
