"""``egoagent eval knn``: classes of images by their nearest neighbours."""

import argparse
from typing import Any

from ..options import real, whole
from .options import add_images, model_or_features, open_sources, run_on_images

BACKENDS = ("auto", "torch", "faiss")
PICTURES = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the task."""
    add_images(parser)
    parser.add_argument("--k", type=whole(1), nargs="+", default=[10, 20, 100, 200], help="neighbours (default 10 20 100 200)")
    parser.add_argument(
        "--temperature", "--knn_t", type=real(0, inner=True), default=0.07, help="vote = exp(similarity / temperature)"
    )
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="search; the neighbours do not depend on it")
    parser.add_argument("--pictures", help="write a page of test images beside their nearest training images (HTML)")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, write; returns 0. Under torchrun process 0 reports."""
    return run_on_images(args, _evaluate)


def _evaluate(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], list]:
    from ..report.summary import knn_figures
    from . import knn_protocol

    options = {"ks": tuple(args.k), "temperature": args.temperature, "backend": args.backend}
    loaded = model_or_features(args)
    sources = open_sources(args, loaded)
    if loaded.agent is None:
        report, found = knn_protocol.stored_report(loaded.stored, sources, loaded.how, **options)
    else:
        report, found = knn_protocol.knn_report(
            loaded.agent, loaded.config, *sources, which=args.which, kind=args.feature, how=loaded.how, **options
        )
    if not report:
        return loaded.about, {}, []
    report["protocol"] |= loaded.protocol
    if args.pictures and sources:
        from ..report.pictures import neighbour_page

        print(f"pictures in {neighbour_page(args.pictures, found, sources, PICTURES)}")
    for k, row in report["by_k"]["model"].items():
        print(f"{k}-NN classifier result: Top1: {row['top1']:.4g}, Top5: {row['top5']:.4g}")
    return loaded.about, report, knn_figures(report)
