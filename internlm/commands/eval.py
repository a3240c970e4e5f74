"""``egoagent eval TASK``: evaluate a run, a checkpoint or stored features, print a table, write JSON."""

import argparse

from internlm.eval.options import add_options, read_options
from internlm.eval.task import find, names
from internlm.eval.task import run as evaluate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The evaluation; its own options are those of its dataclass."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("task", metavar="TASK", help=f"{', '.join(names())}, or the dotted name of a package outside")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="its options: egoagent eval TASK --help")
    parser.epilog = "\n".join(f"  {name:<10} {find(name).SUMMARY}" for name in names())


def run(args: argparse.Namespace) -> int:
    """Run the chosen evaluation; returns 0."""
    task = find(args.task)
    parser = argparse.ArgumentParser(prog=f"egoagent eval {args.task}", description=task.SUMMARY)
    add_options(parser, task.Options)
    return evaluate(args.task, read_options(task.Options, parser.parse_args(args.options)))
