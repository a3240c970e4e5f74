"""``egoagent eval motion``: the next chunk of body motion and rolled-out motion beside floors and baselines."""

import argparse
from typing import TYPE_CHECKING, Any

from .options import about, add_clips, add_common, add_model, clip_outputs, finish, load

if TYPE_CHECKING:
    from internlm.data.clips import ClipDataset

    from .forecasters import Forecaster


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the task."""
    add_model(parser)
    add_common(parser, unit="clips", batch=16)
    add_clips(parser)
    parser.add_argument("--observed", type=int, help="steps of a clip observed before the roll-out (default: half)")
    parser.add_argument("--no-rollout", action="store_true", help="the teacher-forced next chunk alone")
    parser.add_argument(
        "--baselines", nargs="+", default=[], metavar="NAME",
        help="train these on the run's training takes: ridge, simlpe, diffusion_policy",
    )  # fmt: skip
    parser.add_argument("--cpu-minutes", type=float, default=20.0, help="CPU time that one baseline may train (default 20)")
    parser.add_argument("--baseline-steps", type=int, help="training steps of a baseline (default: its recipe's)")
    parser.add_argument("--seed", type=int, default=0, help="of the baselines")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, write; returns 0."""
    from internlm.data.loader import evaluation_clips

    from .errors import EvalError
    from .motion_protocol import motion_report, rollout_report
    from .rollout import roll_out
    from .summary import motion_figures, rollout_figures

    agent, config, step, device = load(args)
    outputs, dataset, data = clip_outputs(args, agent, config, device)
    report = motion_report(outputs, dataset)
    figures = motion_figures(report)
    if not args.no_rollout:
        observed = args.observed or dataset.clip.steps // 2
        batches = evaluation_clips(dataset, args.batch, hop=args.hop, limit=args.limit)
        try:
            rolled = roll_out(agent, dataset, batches, observed=observed, device=device)
        except EvalError as error:
            if args.observed or args.baselines:
                raise
            report["rollout"] = {"skipped": str(error)}
        else:
            baselines = _baselines(args, list(config.data.clips), dataset, observed)
            report["rollout"] = rollout_report(rolled, dataset, observed=observed, baselines=baselines)
            figures += rollout_figures(report["rollout"])
    report["protocol"] |= {"data": data, "split": args.split}
    return finish(args, about(args, config, step), report, figures)


def _baselines(args: argparse.Namespace, data: list[str], dataset: "ClipDataset", observed: int) -> tuple["Forecaster", ...]:
    """Baselines trained on the run's own training takes, on windows of the rolled-out clips' length and rate."""
    if not args.baselines:
        return ()
    from .forecasters import make
    from .motion_data import hold_out, read

    poses: Any = dataset.pose_offsets.shape
    past, future = (observed + 1) * poses[1], (poses[0] - observed) * poses[1]
    fitted, held_out = hold_out(read(data, every=dataset.pose_stride, all_joints=True).of("train"))
    made = []
    for name in args.baselines:
        print(name, flush=True)
        made.append(
            make(
                name, fitted, held_out, past=past, future=future, seed=args.seed, cpu_minutes=args.cpu_minutes,
                steps=args.baseline_steps, note=lambda line: print(f"  {line}", flush=True),
            )
        )  # fmt: skip
    return tuple(made)
