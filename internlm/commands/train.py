"""``egoagent train CONFIG [section.key=value ...] [--run-dir DIR] [--no-resume]``."""

import argparse
import json
import logging
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("config", help="config file (.py or .yaml), or a run folder holding config.yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values laid over the file, e.g. optim.lr=3e-4")
    parser.add_argument("--run-dir", help="run folder; the same as run_dir=DIR")
    parser.add_argument("--no-resume", action="store_true", help="start anew; an earlier run there is moved to previous-<n>")
    parser.epilog = (
        "exit codes: 0 complete; 75 stopped by SIGTERM, SIGINT or SIGUSR1 with a checkpoint saved (the same command continues); "
        "3 too many bad steps; 4 stood still or lost another process, the same command continues; "
        "2 config, data or checkpoint to mend"
    )


def run(args: argparse.Namespace) -> int:
    """Train and return the exit code (``train/signals.py``)."""
    from internlm.config.load import load_config

    overrides = [*args.overrides, *([f"run_dir={json.dumps(args.run_dir)}"] if args.run_dir else [])]
    config = load_config(args.config, overrides)

    from internlm.core.mesh import read_launch
    from internlm.monitor.console import say
    from internlm.train.bad_steps import BadStepsError
    from internlm.train.loop import LostProcessError, train
    from internlm.train.signals import EXIT_BAD_STEPS, EXIT_STOPPED, EXIT_STUCK

    rank = read_launch().rank
    first = rank == 0
    _log_to_console(rank)
    try:
        result = train(config, resume=not args.no_resume)
    except (BadStepsError, LostProcessError) as error:
        say(f"egoagent train: {error}")
        return EXIT_BAD_STEPS if isinstance(error, BadStepsError) else EXIT_STUCK
    if not first:
        return 0 if result.finished else EXIT_STOPPED
    if not result.finished:
        say(f"stopped by {result.stopped_by} at step {result.step}, saved in {result.run_dir}")
        return EXIT_STOPPED
    verdict = f"; standing verdict: collapse ({result.verdict})" if result.verdict else ""
    say(f"{result.run_dir}: {result.step} steps, {result.seconds:.0f} s, {result.bad_steps} skipped{verdict}")
    return 0


def _log_to_console(rank: int) -> None:
    """Everything of the first process; of the others warnings, named, of which their own logs hold the rest."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s" if rank == 0 else f"[rank {rank}] %(message)s"))
    handler.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("internlm").setLevel(logging.INFO)
