"""``egoagent eval retrieval``: does the predicted next state find the true next frame?"""

import argparse

from .options import about, add_clips, add_common, add_model, clip_outputs, finish, load

# As in ``retrieval`` and ``clips``; repeated because help must not import torch.
SCOPES = ("pool", "take", "clip")
FEATURES = ("bottleneck", "hidden", "logits")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the task."""
    add_model(parser)
    add_common(parser, unit="clips", batch=16)
    add_clips(parser)
    parser.add_argument("--gallery", choices=SCOPES, default="pool", help="frames that compete (default pool)")
    parser.add_argument("--feature", choices=FEATURES, default="bottleneck", help="feature (default bottleneck)")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, write; returns 0."""
    from .protocols import retrieval_report
    from .summary import retrieval_figures

    agent, config, step, device = load(args)
    outputs, dataset, data = clip_outputs(args, agent, config, device, args.feature)
    report, _ = retrieval_report(outputs, dataset, scope=args.gallery, feature=args.feature)
    report["protocol"] |= {"data": data, "split": args.split}
    return finish(args, about(args, config, step), report, retrieval_figures(report))
