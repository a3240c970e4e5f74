"""``egoagent eval motion``: the next chunk of body motion beside its floors."""

import argparse

from .options import about, add_clips, add_common, add_model, clip_outputs, finish, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the task."""
    add_model(parser)
    add_common(parser, unit="clips", batch=16)
    add_clips(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, write; returns 0."""
    from .protocols import motion_report
    from .summary import motion_figures

    agent, config, step, device = load(args)
    outputs, dataset, data = clip_outputs(args, agent, config, device)
    report = motion_report(outputs, dataset)
    report["protocol"] |= {"data": data, "split": args.split}
    return finish(args, about(args, config, step), report, motion_figures(report))
