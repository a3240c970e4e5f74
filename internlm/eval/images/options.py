"""Options of the evaluations on labelled images (kNN, linear probe): where model, images and features come from."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..options import add_common, add_model, each_once, finish, load, real, run_data, whole

if TYPE_CHECKING:
    from internlm.data.frames import ImageSource
    from internlm.systems.egoagent.config import EgoAgentConfig as Config
    from internlm.systems.egoagent.network import EgoAgent

    from ..features import Features
    from .knn_protocol import Extraction

# As in ``features``; repeated because help must not import torch.
BRANCHES = ("observer", "predictor")
FEATURES = ("state", "patch", "bottleneck")


@dataclass
class Loaded:
    """What is judged: an agent, or stored features of any model."""

    about: dict[str, Any]
    how: "Extraction"
    agent: "EgoAgent | None" = None
    config: "Config | None" = None
    stored: "dict[str, Features] | None" = None
    protocol: dict[str, Any] = field(default_factory=dict)


def add_images(parser: argparse.ArgumentParser, *, choices: bool = False) -> None:
    """Model or features, labelled images, how features are taken; ``choices`` allows several kinds of feature."""
    model = add_model(parser)
    model.add_argument("--features", type=Path, help="stored features of any model (.npz or .safetensors) instead of a model")
    model.add_argument("--pretrained_weights", help="upstream's name: a run, checkpoint or exported folder")
    add_common(parser, unit="images", batch=128)
    parser.add_argument("--train-data", nargs="+", help="labelled training images: stores or class folders (default: --data)")
    parser.add_argument("--train-split", help="split of the training takes (take stores only; default train)")
    parser.set_defaults(split=None)  # so that one which is given for folders is noticed
    parser.add_argument("--label", help="take label that is the class (default place), or 'folder' for class folders")
    parser.add_argument("--class-list", type=Path, help="file with the classes to keep, one a line (ImageNet-100)")
    parser.add_argument("--frame-stride", type=whole(1), default=1, help="use every n-th stored frame of a take")
    parser.add_argument("--which", choices=BRANCHES, default="observer", help="branch (default observer)")
    if choices:
        parser.add_argument("--feature", choices=FEATURES, nargs="+", default=list(FEATURES), help="choices (default all)")
    else:
        parser.add_argument("--feature", choices=FEATURES, default="state", help="feature (default state)")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="float32", help="precision (default float32)")
    parser.add_argument("--cache", type=Path, help="folder that keeps extracted features, found again by weights and images")
    parser.add_argument("--workers", "--num_workers", type=whole(0), default=0, help="threads that read images ahead (default 0)")
    parser.add_argument(
        "--max-broken-share", type=real(0, 1), default=0.01, help="share of unreadable images that may be left out"
    )
    parser.add_argument("--data_path", type=Path, help="upstream's name: a folder with train/ and val/ of class folders")
    parser.add_argument(
        "--imgnet", type=whole(1), help="upstream's name: number of classes; fewer than there are need --class-list"
    )


def run_on_images(args: argparse.Namespace, evaluate: Callable[[argparse.Namespace], tuple[dict, dict, list]]) -> int:
    """Evaluate on all processes of the launch; process 0 prints and writes what ``evaluate`` returns for ``finish``."""
    from ..ranks import joined

    prepare_upstream(args)
    with joined() as reports:
        result = evaluate(args)
    return finish(args, *result) if reports else 0


def prepare_upstream(args: argparse.Namespace) -> None:
    """Turn upstream's names into ours. Raises EvalError where they do not say enough."""
    from ..errors import EvalError

    if args.pretrained_weights:
        args.checkpoint = args.pretrained_weights
    if args.data_path is None:
        return
    missing = [name for name in ("train", "val") if not (args.data_path / name).is_dir()]
    if missing:
        there = sorted(path.name for path in args.data_path.iterdir())[:8] if args.data_path.is_dir() else "nothing"
        raise EvalError(f"--data_path {args.data_path} has no folder {' and no '.join(missing)}; it holds {there}")
    args.train_data, args.data, args.label = [str(args.data_path / "train")], [str(args.data_path / "val")], "folder"


def model_or_features(args: argparse.Namespace) -> Loaded:
    """The agent with its config, or the stored features, and how features are extracted."""
    from internlm.core.init import choose_device, choose_dtype
    from internlm.core.mesh import local_device

    from ..features import open_cache
    from .knn_protocol import Extraction

    device = local_device(choose_device(args.device))
    dtype, cache = choose_dtype(args.dtype, device), open_cache(args.cache)
    how = Extraction(args.batch, args.limit, device, dtype, cache, args.workers, args.max_broken_share)
    if args.features:
        from ..feature_files import read_labelled

        stored = read_labelled(args.features)
        return Loaded({"source": str(args.features), "step": None}, how, stored=stored, protocol={"features": str(args.features)})
    agent, config, step, _ = load(args)
    return Loaded({"source": str(args.run or args.checkpoint), "step": step, "job": config.job_name}, how, agent, config)


def open_sources(args: argparse.Namespace, loaded: Loaded) -> "tuple[ImageSource, ImageSource] | None":
    """The training and the test images; None for stored features without images."""
    from internlm.data.frames import notes, open_images
    from internlm.data.store import TakeStore

    from ..errors import EvalError
    from .classes import restrict

    data = args.data or (run_data(args, loaded.config.data.images) if loaded.config else None)
    if data is None:
        if args.class_list:
            raise EvalError("--class-list needs images (--data); leave the other classes out of the stored features instead")
        return None
    data = each_once(data)
    voters = each_once(args.train_data) if args.train_data else data
    stores = [any(TakeStore.is_store(path) for path in paths) for paths in (data, voters)]
    _check_folder_options(args, data, stores)
    label = args.label or ("place" if all(TakeStore.is_store(path) for path in (*data, *voters)) else "folder")
    split, train_split = args.split or "val", args.train_split or "train"
    train = open_images(voters, train_split, args.frame_stride, label)
    sources = train, open_images(data, split, args.frame_stride, label)
    if args.class_list:
        sources = restrict(*sources, args.class_list)
    found = len(sources[0].classes)
    if args.imgnet and args.imgnet < found:
        raise EvalError(
            f"--imgnet {args.imgnet}: there are {found} classes, and which {args.imgnet} are meant is not published; "
            "name them with --class-list FILE"
        )
    if args.imgnet and args.imgnet != found:
        print(f"--imgnet {args.imgnet}: the data has {found} classes, so that is what is measured")
    loaded.protocol |= {"train_data": voters, "test_data": data, "label": label}
    loaded.protocol |= {name: value for name, value, has in zip(("split", "train_split"), (split, train_split), stores) if has}
    loaded.protocol |= {
        f"{part}_folder_notes": said for part, source in zip(("train", "test"), sources) if (said := notes(source))
    }
    if args.class_list:
        loaded.protocol["class_list"] = str(args.class_list)
    return sources


def _check_folder_options(args: argparse.Namespace, data: list[str], stores: list[bool]) -> None:
    """EvalError for options that mean nothing without a take store, and where a folder would be measured by itself."""
    from ..errors import EvalError

    given = {"--split": args.split if not stores[0] else None, "--train-split": args.train_split if not stores[1] else None}
    for option, value in given.items():
        if value is not None:
            raise EvalError(
                f"{option} {value}: image folders have no splits; name the folder of each split by --train-data and --data"
            )
    if args.frame_stride != 1 and not any(stores):
        raise EvalError(f"--frame-stride {args.frame_stride} takes frames out of take stores; image folders have none")
    if not args.train_data and not stores[0]:
        folder = Path(data[0])
        test = next((name for name in ("val", "test", "valid") if (folder / "train").is_dir() and (folder / name).is_dir()), None)
        hint = f"; here --train-data {folder / 'train'} --data {folder / test}" if test else ""
        raise EvalError(
            f"--data {' '.join(map(str, data))} without --train-data: image folders have no splits, so every image would "
            f"be measured by itself. Name the training images by --train-data{hint}"
        )
