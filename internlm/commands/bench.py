"""``egoagent bench motion``: forecasters trained and measured on recorded motion, in one table."""

import argparse
from pathlib import Path

from internlm.eval.options import real, whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Benchmarks and their options."""
    tasks = parser.add_subparsers(dest="task", required=True, metavar="BENCHMARK")
    summary = "body-motion forecasting: floors, baselines and the pose-only model, trained on the same takes"
    motion = tasks.add_parser("motion", help=summary, description=summary)
    motion.add_argument(
        "--data", nargs="+", default=["cmu"], metavar="cmu|FILE",
        help="cmu (the CMU benchmark of the sample data), or motion files (.npz, .bvh, .amc) or take stores",
    )  # fmt: skip
    motion.add_argument("--actions", choices=("standard", "all"), default="standard", help="of cmu: all = with the extra walks")
    motion.add_argument("--methods", nargs="+", help="default: all; earlier results in --out stay in the table")
    motion.add_argument("--frame", choices=("root", "world"), default="root", help="poses relative to their root, or world")
    motion.add_argument("--past", type=whole(1), default=30, help="observed frames (default 30)")
    motion.add_argument("--future", type=whole(1), default=30, help="predicted frames (default 30)")
    motion.add_argument("--stride", type=whole(1), default=10, help="frames between test windows (default 10)")
    motion.add_argument("--config", help="recipe of the pose-only EgoAgent (default configs/motion/cmu.py of the source tree)")
    motion.add_argument("--set", nargs="+", default=[], metavar="section.key=value", help="values laid over that recipe")
    motion.add_argument("--steps", type=whole(1), help="training steps of every trained method (default: its recipe's)")
    motion.add_argument(
        "--cpu-minutes", type=real(0, inner=True), default=20.0, help="CPU time that one method may train (default 20)"
    )
    motion.add_argument("--threads", type=whole(1), default=1, help="CPU threads (default 1: the same numbers every time)")
    motion.add_argument("--seed", type=whole(0), default=0)
    motion.add_argument("--again", action="store_true", help="train and measure anew what --out already has")
    motion.add_argument("--out", type=Path, default=Path("runs/bench_motion"), help="folder (default runs/bench_motion)")


def run(args: argparse.Namespace) -> int:
    """Run the benchmark; returns 0."""
    from internlm.core.init import set_threads
    from internlm.data.motion import Recordings
    from internlm.eval.tasks.motion.bench import Protocol, run_benchmark
    from internlm.eval.tasks.motion.forecasters import TITLES

    set_threads(args.threads)
    methods = args.methods or list(TITLES)
    recordings = Recordings(() if args.data == ["cmu"] else tuple(args.data), args.actions)
    protocol = Protocol(frame=args.frame, past=args.past, future=args.future, stride=args.stride, seed=args.seed)
    run_benchmark(
        recordings, protocol, methods, args.out, config=args.config, overrides=args.set, cpu_minutes=args.cpu_minutes,
        steps=args.steps, again=args.again,
    )  # fmt: skip
    return 0
