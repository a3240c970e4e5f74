"""``egoagent eval linear``: linear probe and few-shot on frozen features."""

import argparse
from typing import Any

from ..options import real, whole
from .options import add_images, model_or_features, open_sources, run_on_images

RATES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the task."""
    add_images(parser, choices=True)
    parser.add_argument(
        "--lr", "--lp_lr", type=real(0, inner=True), nargs="+", default=RATES, help="learning rates to choose from"
    )
    parser.add_argument("--epochs", "--lp_epochs", type=whole(1), default=100, help="passes over the features (default 100)")
    parser.add_argument(
        "--probe-batch", "--lp_batch_size_per_gpu", type=whole(1), default=256, help="features a step (default 256)"
    )
    parser.add_argument("--weight-decay", "--lp_weight_decay", type=real(0), default=0.0)
    parser.add_argument(
        "--held-out", type=real(0, 1, inner=True), default=0.1, help="share of the training images to choose on (default 0.1)"
    )
    parser.add_argument("--augment", action="store_true", help="new random crops in every epoch; each is a pass of the network")
    parser.add_argument("--shots", type=whole(1), nargs="+", default=[], help="few-shot: images a class, for instance 1 5 10")
    parser.add_argument("--draws", type=whole(1), default=5, help="random draws for each number of shots (default 5)")
    parser.add_argument("--seed", type=whole(0), default=0)


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, print, write; returns 0. Under torchrun process 0 reports."""
    return run_on_images(args, _evaluate)


def _evaluate(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], list]:
    from ..errors import EvalError
    from ..ranks import from_first
    from ..report.summary import linear_figures
    from . import linear_protocol
    from .checks import check_stored
    from .linear import Recipe

    rates = tuple(sorted(set(args.lr)))
    recipe = Recipe(rates, args.epochs, args.probe_batch, args.weight_decay, args.held_out, args.seed)
    shots = {"shots": tuple(args.shots), "shot_seeds": args.draws}
    loaded = model_or_features(args)
    if loaded.agent is None:
        if args.augment:
            raise EvalError("--augment needs a model; stored features have one view")
        train, equal = loaded.stored["train"], from_first(lambda: check_stored(loaded.stored))
        loaded.protocol["test_features_equal_to_a_training_feature"] = equal
        found = {part: linear_protocol.as_choices(features) for part, features in loaded.stored.items()}
        groups = [str(row) for row in range(len(train.rows))]
        report = linear_protocol.score(found, groups, recipe, **shots, device=loaded.how.device)
    else:
        sources = open_sources(args, loaded)
        report = linear_protocol.probe_report(
            loaded.agent, loaded.config, *sources, which=args.which, kinds=tuple(args.feature), recipe=recipe,
            augment=args.augment, how=loaded.how, **shots,
        )  # fmt: skip
    if not report:
        return loaded.about, {}, []
    report["protocol"] |= loaded.protocol
    return loaded.about, report, linear_figures(report)
