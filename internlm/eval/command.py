"""``egoagent eval knn|retrieval|motion``: evaluate a run or a checkpoint, print a table, write JSON."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from internlm.config.schema import Config
    from internlm.model.egoagent import EgoAgent

# As in the modules that use them; repeated here because help must not import torch.
BRANCHES = ("observer", "predictor")
IMAGE_FEATURES = ("state", "patch", "bottleneck")
CLIP_FEATURES = ("bottleneck", "hidden", "logits")
SCOPES = ("pool", "take", "clip")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-commands and their options."""
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    knn = _task(tasks, "knn", "k-nearest-neighbour classes of single images, beside random weights and raw pixels")
    knn.add_argument("--train-data", nargs="+", help="labelled images that vote: take stores or class folders (default: --data)")
    knn.add_argument("--train-split", default="train", help="split of the voting takes (take stores only; default train)")
    knn.add_argument("--label", help="take label that is the class (default place), or 'folder' for class folders")
    knn.add_argument("--frame-stride", type=int, default=1, help="use every n-th stored frame of a take")
    knn.add_argument("--which", choices=BRANCHES, default="observer", help="branch (default observer)")
    knn.add_argument("--feature", choices=IMAGE_FEATURES, default="state", help="feature (default state)")
    knn.add_argument("--k", type=int, nargs="+", default=[10, 20, 100, 200], help="neighbours (default 10 20 100 200)")
    knn.add_argument("--temperature", type=float, default=0.07, help="vote = exp(similarity / temperature)")

    retrieval = _task(tasks, "retrieval", "find the true next frame from the predicted next state")
    retrieval.add_argument("--gallery", choices=SCOPES, default="pool", help="frames that compete (default pool)")
    retrieval.add_argument("--feature", choices=CLIP_FEATURES, default="bottleneck", help="feature (default bottleneck)")
    motion = _task(tasks, "motion", "next chunk of body motion beside zero and constant velocity")
    for task in (retrieval, motion):
        task.add_argument("--hop", type=int, help="frame numbers between clips' first frames (default: no shared image)")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, write; returns 0."""
    from internlm.checkpoint.weights import load_agent
    from internlm.core.init import choose_device

    from .report import write_json
    from .summary import print_table

    device = choose_device(args.device)
    source = args.run or args.checkpoint
    agent, config, step = load_agent(source, device)
    report, figures = {"knn": _knn, "retrieval": _retrieval, "motion": _motion}[args.task](args, agent, config, device)
    report = {"task": args.task, "model": {"source": str(source), "step": step, "job": config.job_name}, **report}
    print_table(f"{args.task}: {source}, step {step}, split {args.split}", figures)
    if args.out:
        print(f"written to {write_json(args.out, report)}")
    return 0


def _task(tasks: Any, name: str, summary: str) -> argparse.ArgumentParser:
    task = tasks.add_parser(name, help=summary, description=summary)
    model = task.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", help="run folder; its newest checkpoint is taken")
    model.add_argument("--checkpoint", help="a checkpoint folder (step_...)")
    task.add_argument("--data", nargs="+", help="evaluated take stores, for knn also class folders (default: the run's)")
    task.add_argument("--split", default="val", help="split of the evaluated takes (take stores only; default val)")
    task.add_argument("--limit", type=int, help="at most so many images or clips, spread evenly")
    task.add_argument("--batch", type=int, help="images (default 128) or clips (default 16) at a time")
    task.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    task.add_argument("--out", type=Path, help="write the result, its protocol and floors as JSON")
    return task


def _knn(args: argparse.Namespace, agent: "EgoAgent", config: "Config", device: Any) -> tuple[dict, list]:
    from internlm.data.frames import open_images
    from internlm.data.store import TakeStore

    from .protocols import knn_report
    from .summary import knn_figures

    data = args.data or list(config.data.images)
    voters = args.train_data or data
    label = args.label or ("place" if all(TakeStore.is_store(path) for path in (*data, *voters)) else "folder")
    train = open_images(voters, args.train_split, args.frame_stride, label)
    test = open_images(data, args.split, args.frame_stride, label)
    report, _ = knn_report(
        agent, config, train, test, which=args.which, kind=args.feature, ks=tuple(args.k), temperature=args.temperature,
        limit=args.limit, batch_size=args.batch or 128, device=device,
    )  # fmt: skip
    report["protocol"] |= {"train_data": voters, "test_data": data, "split": args.split, "label": label}
    return report, knn_figures(report)


def _retrieval(args: argparse.Namespace, agent: "EgoAgent", config: "Config", device: Any) -> tuple[dict, list]:
    from .protocols import retrieval_report
    from .summary import retrieval_figures

    outputs, dataset, data = _clips(args, agent, config, device, args.feature)
    report, _ = retrieval_report(outputs, dataset, scope=args.gallery, feature=args.feature)
    report["protocol"] |= {"data": data, "split": args.split}
    return report, retrieval_figures(report)


def _motion(args: argparse.Namespace, agent: "EgoAgent", config: "Config", device: Any) -> tuple[dict, list]:
    from .protocols import motion_report
    from .summary import motion_figures

    outputs, dataset, data = _clips(args, agent, config, device, "bottleneck")
    report = motion_report(outputs, dataset)
    report["protocol"] |= {"data": data, "split": args.split}
    return report, motion_figures(report)


def _clips(args: argparse.Namespace, agent: "EgoAgent", config: "Config", device: Any, feature: str) -> tuple:
    from internlm.data.loader import evaluation_clips

    from .clips import open_clips, run_clips
    from .errors import EvalError

    data = args.data or list(config.data.clips)
    if config.stage != "joint":
        raise EvalError(f"{args.run or args.checkpoint} is a stage-1 model, which predicts nothing; give a run of stage 'joint'")
    dataset = open_clips(config, data, args.split)
    batches = evaluation_clips(dataset, args.batch or 16, hop=args.hop, limit=args.limit)
    return run_clips(agent, batches, feature=feature, device=device), dataset, data
