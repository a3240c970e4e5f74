"""``egoagent eval knn``: classes of images by their nearest neighbours."""

import argparse

from .options import about, add_common, add_model, finish, load

# As in ``features``; repeated because help must not import torch.
BRANCHES = ("observer", "predictor")
FEATURES = ("state", "patch", "bottleneck")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the task."""
    add_model(parser)
    add_common(parser, unit="images", batch=128)
    parser.add_argument("--train-data", nargs="+", help="images that vote: take stores or class folders (default: --data)")
    parser.add_argument("--train-split", default="train", help="split of the voting takes (take stores only; default train)")
    parser.add_argument("--label", help="take label that is the class (default place), or 'folder' for class folders")
    parser.add_argument("--frame-stride", type=int, default=1, help="use every n-th stored frame of a take")
    parser.add_argument("--which", choices=BRANCHES, default="observer", help="branch (default observer)")
    parser.add_argument("--feature", choices=FEATURES, default="state", help="feature (default state)")
    parser.add_argument("--k", type=int, nargs="+", default=[10, 20, 100, 200], help="neighbours (default 10 20 100 200)")
    parser.add_argument("--temperature", type=float, default=0.07, help="vote = exp(similarity / temperature)")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, write; returns 0."""
    from internlm.data.frames import open_images
    from internlm.data.store import TakeStore

    from .protocols import knn_report
    from .summary import knn_figures

    agent, config, step, device = load(args)
    data = args.data or list(config.data.images)
    voters = args.train_data or data
    label = args.label or ("place" if all(TakeStore.is_store(path) for path in (*data, *voters)) else "folder")
    train = open_images(voters, args.train_split, args.frame_stride, label)
    test = open_images(data, args.split, args.frame_stride, label)
    report, _ = knn_report(
        agent, config, train, test, which=args.which, kind=args.feature, ks=tuple(args.k), temperature=args.temperature,
        limit=args.limit, batch_size=args.batch, device=device,
    )  # fmt: skip
    report["protocol"] |= {"train_data": voters, "test_data": data, "split": args.split, "label": label}
    return finish(args, about(args, config, step), report, knn_figures(report))
