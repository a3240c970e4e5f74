"""``egoagent bench motion``: forecasters trained and measured on recorded motion, in one table."""

import argparse

from internlm.eval.options import add_options, read_options
from internlm.eval.tasks.motion.options import BenchOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Benchmarks and their options."""
    tasks = parser.add_subparsers(dest="task", required=True, metavar="BENCHMARK")
    summary = "body-motion forecasting: floors, baselines and the pose-only model, trained on the same takes"
    motion = tasks.add_parser("motion", help=summary, description=summary)
    add_options(motion, BenchOptions)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark; returns 0."""
    from internlm.core.init import set_threads
    from internlm.eval.tasks.motion.bench import run_benchmark

    set_threads(args.threads)
    run_benchmark(read_options(BenchOptions, args))
    return 0
