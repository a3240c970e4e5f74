"""``egoagent data``: recordings into a take store, and a look at what is in one. Imports no torch."""

import argparse
import importlib

# action: (module with add_arguments(parser) and run(args) -> int, one line of help)
ACTIONS = {
    "download": ("dataset_preprocess.download_egoexo", "fetch the needed parts of Ego-Exo4D through its downloader"),
    "egoexo": ("dataset_preprocess.convert_egoexo", "an Ego-Exo4D download as one take store: undistort and poses together"),
    "undistort": ("dataset_preprocess.undistort_egovideos", "frames of Ego-Exo4D's first-person videos, undistorted"),
    "vrs": ("dataset_preprocess.extract_vrs_frames", "RGB frames of Project Aria recordings"),
    "videos": ("dataset_preprocess.extract_wtour_frames", "frames of walking tours or any other videos"),
    "poses": ("dataset_preprocess.preprocess_egoexo_body_pose", "body and camera poses of Ego-Exo4D"),
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


def run(args: argparse.Namespace) -> int:
    """0 = all done; 1 = a recording failed or a store has faults."""
    return importlib.import_module(ACTIONS[args.action][0]).run(args)
