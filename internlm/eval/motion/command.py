"""``egoagent eval motion``: the next chunk of body motion and rolled-out motion beside floors and baselines."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..options import about, add_clips, add_common, add_model, clip_outputs, finish, load, real, run_data, whole

if TYPE_CHECKING:
    from internlm.data.clips import ClipDataset
    from internlm.systems.egoagent.config import EgoAgentConfig as Config
    from internlm.systems.egoagent.network import EgoAgent

    from .forecasters import Forecaster
    from .rollout import RollOuts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the task."""
    add_model(parser)
    add_common(parser, unit="clips", batch=16)
    add_clips(parser)
    parser.add_argument("--observed", type=whole(1), help="steps of a clip observed before the roll-out (default: half)")
    parser.add_argument("--no-rollout", action="store_true", help="the teacher-forced next chunk alone")
    parser.add_argument(
        "--baselines", nargs="+", default=[], metavar="NAME",
        help="train these on the run's training takes: ridge, simlpe, diffusion_policy",
    )  # fmt: skip
    parser.add_argument("--baseline-data", nargs="+", help="take stores whose training takes they see (default: the run's)")
    parser.add_argument(
        "--cpu-minutes", type=real(0, inner=True), default=20.0, help="CPU time that one baseline may train (default 20)"
    )
    parser.add_argument("--baseline-steps", type=whole(1), help="training steps of a baseline (default: its recipe's)")
    parser.add_argument("--seed", type=whole(0), default=0, help="of the baselines")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, write; returns 0. Under torchrun process 0 reports, and trains the baselines."""
    from ..ranks import joined
    from ..report.summary import motion_figures, rollout_figures
    from .protocol import motion_report

    with joined() as reports:
        agent, config, step, device = load(args)
        outputs, dataset, data = clip_outputs(args, agent, config, device)
        rolled, observed = (None, 0) if args.no_rollout else _roll_out(args, agent, dataset, device)
        if not reports:
            return 0
        report = motion_report(outputs, dataset)
        report["protocol"] |= {"data": data, "split": args.split}
        figures = motion_figures(report)
        if rolled is not None:
            report["rollout"] = rolled if isinstance(rolled, dict) else _judged(args, config, dataset, rolled, observed)
            figures += rollout_figures(report["rollout"])
    return finish(args, about(args, config, step), report, figures)


def _roll_out(args: argparse.Namespace, agent: "EgoAgent", dataset: "ClipDataset", device: Any) -> tuple[Any, int]:
    """The roll-outs (None where another process reports), or why there are none; and how many steps were observed."""
    from internlm.data.evaluation import evaluation_clips

    from ..errors import EvalError
    from ..ranks import own_share
    from .rollout import roll_out

    observed = args.observed or dataset.clip.steps // 2
    batches = evaluation_clips(dataset, args.batch, hop=args.hop, limit=args.limit, only=own_share)
    try:
        return roll_out(agent, dataset, batches, observed=observed, device=device), observed
    except EvalError as error:
        if args.observed or args.baselines:
            raise
        return {"skipped": str(error)}, observed


def _judged(
    args: argparse.Namespace, config: "Config", dataset: "ClipDataset", rolled: "RollOuts", observed: int
) -> dict[str, Any]:
    from .protocol import rollout_report

    baselines = _baselines(args, config, dataset, observed)
    return rollout_report(rolled, dataset, observed=observed, baselines=baselines)


def _baselines(args: argparse.Namespace, config: "Config", dataset: "ClipDataset", observed: int) -> tuple["Forecaster", ...]:
    """Baselines trained on the run's own training takes, on windows of the rolled-out clips' length and rate."""
    if not args.baselines:
        return ()
    from internlm.data.motion import Recordings

    from .forecasters import make

    data = args.baseline_data or run_data(args, config.data.clips)
    _check_unseen(data, dataset, args.split)
    poses: Any = dataset.pose_offsets.shape
    past, future = (observed + 1) * poses[1], (poses[0] - observed) * poses[1]
    recordings = Recordings(tuple(data), every=dataset.pose_stride, all_joints=True, frame="world")
    made = []
    with TemporaryDirectory() as runs:
        for name in args.baselines:
            print(name, flush=True)
            made.append(
                make(
                    name, recordings, past=past, future=future, seed=args.seed, folder=Path(runs) / name,
                    cpu_minutes=args.cpu_minutes, steps=args.baseline_steps, note=lambda line: print(f"  {line}", flush=True),
                )
            )  # fmt: skip
    return tuple(made)


def _check_unseen(data: list[str], dataset: "ClipDataset", split: str) -> None:
    """EvalError when the evaluated takes are among those that baselines are trained on."""
    import os

    from internlm.data.store import TakeStore

    from ..errors import EvalError

    fitted = {
        os.path.realpath(take.path) for path in data if TakeStore.is_store(path) for take in TakeStore(path).select("train")
    }
    seen = [take.info.name for take in dataset.takes if os.path.realpath(take.path) in fitted]
    if seen:
        raise EvalError(
            f"--baselines are trained on the takes of split train, and {len(seen)} of them, {seen[0]} for one, are evaluated "
            f"here (--split {split}): choose another --split, or other takes to train on by --baseline-data"
        )
