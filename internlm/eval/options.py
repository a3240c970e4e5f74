"""Options and steps that the evaluation commands share. Nothing heavy is imported until a command runs."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from internlm.data.clips import ClipDataset
    from internlm.systems.egoagent.config import EgoAgentConfig as Config
    from internlm.systems.egoagent.network import EgoAgent

    from .clips import ClipOutputs
    from .report.page import Figure


MOST = 2**31 - 1  # of anything that is counted


def whole(least: int, most: int = MOST) -> Callable[[str], int]:
    """Type of an option that is a whole number in least..most."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more{_up_to(most, MOST)}")
        return value

    return read


def real(least: float, most: float = math.inf, *, inner: bool = False) -> Callable[[str], float]:
    """Type of an option that is a finite number in least..most, or strictly between them."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not (least < value < most if inner else least <= value <= most):
            bounds = f"above {least:g}" if inner else f"of {least:g} or more"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {bounds}{_up_to(most, math.inf, inner)}")
        return value

    return read


def _up_to(most: float, unbounded: float, inner: bool = False) -> str:
    return "" if most == unbounded else f" and {'below' if inner else 'at most'} {most:g}"


def add_model(parser: argparse.ArgumentParser) -> Any:
    """Where the model comes from; returns the group of alternatives, one of which is required."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", help="run folder; its newest checkpoint is taken")
    model.add_argument("--checkpoint", help="a checkpoint folder (step_...)")
    return model


def add_common(parser: argparse.ArgumentParser, *, unit: str, batch: int) -> None:
    """What is evaluated, how and where the result goes; ``unit`` is what --limit and --batch count."""
    parser.add_argument("--data", nargs="+", help="evaluated data (default: the run's)")
    parser.add_argument("--split", default="val", help="split of the evaluated takes (take stores only; default val)")
    parser.add_argument("--limit", type=whole(1), help=f"at most so many {unit}, spread evenly")
    parser.add_argument("--batch", type=whole(1), default=batch, help=f"{unit} at a time (default {batch})")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--out", type=Path, help="write the result, its protocol and floors as JSON")


def add_clips(parser: argparse.ArgumentParser) -> None:
    """How clips are taken out of takes."""
    parser.add_argument("--hop", type=whole(1), help="frame numbers between clips' first frames (default: no shared image)")


def load(args: argparse.Namespace) -> tuple["EgoAgent", "Config", int, Any]:
    """Agent, its config, its step and the device."""
    from internlm.core.init import choose_device
    from internlm.core.mesh import local_device
    from internlm.export.reading import load_agent

    device = local_device(choose_device(args.device))
    return *load_agent(args.run or args.checkpoint, device), device


def each_once(paths: list[str]) -> list[str]:
    """Paths without those that lead to a folder named earlier, which is said: nothing is to be measured twice."""
    import logging
    import os

    by_real: dict[str, str] = {}
    for path in paths:
        real = os.path.realpath(path)
        if real in by_real:
            logging.getLogger(__name__).warning("%s is the folder %s given before, and counts once", path, by_real[real])
        by_real.setdefault(real, path)
    return list(by_real.values())


def clip_outputs(
    args: argparse.Namespace, agent: "EgoAgent", config: "Config", device: Any, feature: str = "bottleneck"
) -> tuple["ClipOutputs", "ClipDataset", list[str]]:
    """The evaluated clips through the agent, their dataset, and the paths they come from."""
    from internlm.data.evaluation import evaluation_clips

    from .clips import open_clips, run_clips
    from .errors import EvalError
    from .ranks import own_share

    if config.stage != "joint":
        raise EvalError(f"{args.run or args.checkpoint} is a stage-1 model, which predicts nothing; give a run of stage 'joint'")
    data = each_once(args.data or run_data(args, config.data.clips))
    dataset = open_clips(config, data, args.split)
    batches = evaluation_clips(dataset, args.batch, hop=args.hop, limit=args.limit, only=own_share)
    return run_clips(agent, batches, feature=feature, device=device), dataset, data


def run_data(args: argparse.Namespace, paths: Sequence[str]) -> list[str]:
    """The data that a run was trained on, for a command that names none. EvalError where it is not there."""
    from internlm.config.places import missing

    from .errors import EvalError

    if gone := missing(paths):
        raise EvalError(
            f"{args.run or args.checkpoint} was trained on {gone[0]}, which is not there (relative paths start from the run "
            "folder's own place, or from where it was trained); give --data"
        )
    return list(paths)


def finish(args: argparse.Namespace, model: dict[str, Any], report: dict[str, Any], figures: list["Figure"]) -> int:
    """Write ``--out``, then print the table; returns 0."""
    from dataclasses import asdict

    from .report.page import write_json
    from .report.summary import print_table

    # The printed rows go along in one form for all tasks, so that a model card can show them beside their floors.
    rows = [asdict(figure) for figure in figures]
    written = args.out and write_json(args.out, {"task": args.task, "model": model, **report, "figures": rows})
    title = {"step": model["step"], "split": report.get("protocol", {}).get("split")}
    named = [f"{name} {value}" for name, value in title.items() if value is not None]
    print_table(", ".join([f"{args.task}: {model['source']}", *named]), figures)
    if written:
        print(f"written to {written}")
    return 0


def about(args: argparse.Namespace, config: "Config", step: int) -> dict[str, Any]:
    """What a result says of its model."""
    return {"source": str(args.run or args.checkpoint), "step": step, "job": config.job_name}
