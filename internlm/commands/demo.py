"""``egoagent demo``: a small world, both training stages, every evaluation, one report."""

import argparse
import os
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("--out", type=Path, help="folder of world, runs and report (default runs/demo, or runs/demo-full)")
    parser.add_argument("--full", action="store_true", help="bigger world and longer training: the learning proof")
    parser.add_argument("--seed", type=int, default=1, help="of the world and of both runs (default 1)")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="takes to report; choose settings on val")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that render the world")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="train in N processes, each a part of the batches")
    parser.add_argument("--configs", type=Path, help="folder with dino_pretrain/demo.py and joint_train/demo.py")
    parser.add_argument("--fresh", action="store_true", help="train anew; earlier runs there are moved aside")


def run(args: argparse.Namespace) -> int:
    """Run the demo and return the exit code (that of a stopped training where one was stopped)."""
    from internlm.demo.run import run_demo
    from internlm.demo.size import FULL, SMALL

    size, name = (FULL, "demo-full") if args.full else (SMALL, "demo")
    out = args.out or Path("runs") / name
    options = {name: getattr(args, name) for name in ("seed", "split", "jobs", "processes", "configs", "fresh")}
    report = run_demo(out, size, **options)
    return 0 if report is not None else 75
