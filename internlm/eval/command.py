"""``egoagent eval TASK``: evaluate a run, a checkpoint or stored features, print a table, write JSON.

Each task is a module with ``add_arguments(parser)`` and ``run(args) -> int``; only the chosen one's heavy imports happen.
"""

import argparse
import importlib

# task: (module, one line of help)
TASKS = {
    "knn": (".images.knn_command", "k-nearest-neighbour classes of single images, beside random weights and raw pixels"),
    "linear": (".images.linear_command", "linear probe and few-shot classes of single images on frozen features"),
    "retrieval": (".retrieval.command", "find the true next frame from the predicted next state"),
    "motion": (".motion.command", "next chunk of body motion beside zero and constant velocity"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-commands and their options."""
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    for name, (module, summary) in TASKS.items():
        task = tasks.add_parser(name, help=summary, description=summary)
        importlib.import_module(module, __package__).add_arguments(task)


def run(args: argparse.Namespace) -> int:
    """Run the chosen task; returns 0."""
    return importlib.import_module(TASKS[args.task][0], __package__).run(args)
