"""``egoagent import``: a checkpoint in upstream's layout becomes one that every command here reads."""

import argparse
from pathlib import Path

from .export import add_rename, parse_rename


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("folder", type=Path, metavar="UPSTREAM_FOLDER", help="<JOB>/<step> with model_tp*_pp0.pt, or <JOB>")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder for the checkpoint")
    parser.add_argument("--teacher", type=Path, metavar="FOLDER", help="the observer's (default: <JOB>_teacher/<step> if there)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the run's config (default: model_config.pt of the folder)")
    add_rename(parser)


def run(args: argparse.Namespace) -> int:
    """Import and say what became of every tensor; returns 0."""
    from internlm.config.load import load_config
    from internlm.config.resolve import DEFAULT, system_module
    from internlm.systems.resolve import foreign_layout

    config = load_config(args.config) if args.config else None
    # Where no system knows the folder, the default one says what it lacks.
    layout = foreign_layout(args.folder) or system_module(DEFAULT, "upstream.importing")
    rename = parse_rename(args.rename)
    print(layout.import_upstream(args.folder, args.out, teacher=args.teacher, config=config, rename=rename))
    return 0
