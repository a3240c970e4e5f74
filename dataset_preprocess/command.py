"""``egoagent data``: recordings into a take store, and a look at what is in one. Imports no torch."""

import argparse
import importlib
from pathlib import Path

# action: (module with add_arguments(parser) and run(args) -> int, one line of help)
ACTIONS = {
    "mocap": ("dataset_preprocess.import_mocap", "motion capture (npz, BVH, ASF/AMC, SMPL family) as takes without images"),
    "check": ("dataset_preprocess.check_store", "read every take of a store and say what is wrong"),
    "show": ("dataset_preprocess.show_take", "draw frames of a take side by side, with the skeleton"),
}


class _LazyParser(argparse.ArgumentParser):
    """The parser of one action; its module is imported when the action is used, so that help and errors cost nothing."""

    def __init__(self, *args, module: str | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self._module = module

    def parse_known_args(self, args=None, namespace=None):
        if self._module:
            importlib.import_module(self._module).add_arguments(self)
            self._module = None
        return super().parse_known_args(args, namespace)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=_LazyParser)
    for word, (module, summary) in ACTIONS.items():
        actions.add_parser(word, help=summary, description=summary, module=module)
    vrs = actions.add_parser("vrs", help="RGB frames of Project Aria recordings, turned upright")
    vrs.add_argument("out", type=Path, metavar="OUT", help="take store to create or extend")
    vrs.add_argument("files", type=Path, nargs="+", metavar="FILE.vrs")
    vrs.add_argument("--size", type=int, default=448, help="pixels of a stored frame's side (default: 448)")
    vrs.add_argument("--quality", type=int, default=92, help="JPEG quality (default: 92)")
    vrs.add_argument("--split", choices=("train", "val", "test"), default="train")
    vrs.add_argument("--overwrite", action="store_true", help="write takes again that exist; otherwise they are skipped")


def run(args: argparse.Namespace) -> int:
    """0 = all done; 1 = a recording failed or a store has faults."""
    if args.action in ACTIONS:
        return importlib.import_module(ACTIONS[args.action][0]).run(args)
    from dataset_preprocess.extract_vrs_frames import extract_recordings

    return extract_recordings(
        args.out, args.files, size=args.size, quality=args.quality, split=args.split, overwrite=args.overwrite
    )
