"""``egoagent eval retrieval``: does the predicted next state find the true next frame?"""

import argparse
from pathlib import Path
from typing import Any

from ..options import about, add_clips, add_common, add_model, clip_outputs, finish, load, whole

# As in ``retrieval`` and ``clips``; repeated because help must not import torch.
SCOPES = ("pool", "take", "clip")
FEATURES = ("bottleneck", "hidden", "logits")
PICTURES = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the task."""
    model = add_model(parser)
    model.add_argument("--features", type=Path, help="stored features of any model (.npz or .safetensors) instead of a model")
    add_common(parser, unit="clips", batch=16)
    add_clips(parser)
    parser.add_argument("--gallery", choices=SCOPES, default="pool", help="frames that compete (default pool)")
    parser.add_argument("--feature", choices=FEATURES, default="bottleneck", help="feature (default bottleneck)")
    parser.add_argument(
        "--horizon", type=whole(1), default=1, help="steps from the current frame to the right answer (default 1)"
    )
    parser.add_argument("--frame-stride", type=whole(1), help="with --features: frame numbers from one step to the next")
    parser.add_argument("--steps", type=whole(1), default=1, help="with --features: steps of a clip (default 1)")
    parser.add_argument("--pictures", type=Path, help="write a page of current frames beside what was retrieved (HTML)")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, write; returns 0. Under torchrun process 0 reports."""
    from ..ranks import joined

    with joined() as reports:
        if args.features:
            result = _stored(args) if reports else None
        else:
            result = _model(args, reports)
    return finish(args, *result) if reports else 0


def _model(args: argparse.Namespace, reports: bool) -> tuple[dict[str, Any], dict[str, Any], list] | None:
    from ..report.summary import retrieval_figures
    from .protocol import retrieval_report

    agent, config, step, device = load(args)
    outputs, dataset, data = clip_outputs(args, agent, config, device, args.feature)
    if not reports:
        return None
    report, gallery = retrieval_report(outputs, dataset, scope=args.gallery, feature=args.feature, horizon=args.horizon)
    report["protocol"] |= {"data": data, "split": args.split}
    if args.pictures:
        from ..report.pictures import retrieval_page

        print(f"pictures in {retrieval_page(args.pictures, outputs, gallery, dataset, PICTURES)}")
    return about(args, config, step), report, retrieval_figures(report)


def _stored(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], list]:
    from ..errors import EvalError
    from ..feature_files import read_frames
    from ..report.summary import retrieval_figures
    from .protocol import stored_report

    if not args.frame_stride:
        raise EvalError("--features needs --frame-stride N: frame numbers of one step (5 for images at 6 Hz of takes at 30 Hz)")
    stored = read_frames(args.features)
    report = stored_report(stored, args.frame_stride, steps=args.steps, scope=args.gallery, horizon=args.horizon)
    return {"source": str(args.features), "step": None}, report, retrieval_figures(report)
