"""Options of the evaluations on labelled images (kNN, linear probe): where model, images and features come from."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EvalError
from ..options import MODEL, EvalOptions, Extraction, option, whole
from ..task import Subject, each_once, open_subject

if TYPE_CHECKING:
    from internlm.data.frames import ImageSource

    from ..features import Features


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Extraction, EvalOptions):
    """Model or features, labelled images, and how features are taken."""

    features: Path | None = option(None, "stored features of any model (.npz or .safetensors)", type=Path, one_of=MODEL)
    pretrained_weights: str | None = option(None, "upstream's: run, checkpoint or export", "--pretrained_weights", one_of=MODEL)
    train_data: tuple[str, ...] = option((), "labelled training images: stores or class folders (default: --data)", nargs="+")
    split: str | None = option(None, "split of the evaluated takes (take stores only; default val)")
    train_split: str | None = option(None, "split of the training takes (take stores only; default train)")
    label: str | None = option(None, "take label that is the class (default place), or 'folder' for class folders")
    class_list: Path | None = option(None, "file with the classes to keep, one a line (ImageNet-100)", type=Path)
    frame_stride: int = option(1, "use every n-th stored frame of a take", type=whole(1))
    which: str | None = option(None, "branch (default: the system's usual one, observer)")
    data_path: Path | None = option(None, "upstream's name: a folder of train/ and val/ with classes", "--data_path", type=Path)
    imgnet: int | None = option(None, "upstream's name: number of classes; fewer than there are need --class-list", type=whole(1))

    @property
    def source(self) -> str:
        return str(self.pretrained_weights or self.features or self.run or self.checkpoint)

    def settled(self) -> "ImageOptions":
        """The same without upstream's folder of splits. Raises EvalError where it does not say enough."""
        if self.data_path is None:
            return self
        missing = [name for name in ("train", "val") if not (self.data_path / name).is_dir()]
        if missing:
            there = sorted(path.name for path in self.data_path.iterdir())[:8] if self.data_path.is_dir() else "nothing"
            raise EvalError(f"--data_path {self.data_path} has no folder {' and no '.join(missing)}; it holds {there}")
        train, test = (str(self.data_path / name) for name in ("train", "val"))
        return replace(self, data_path=None, train_data=(train,), data=(test,), label="folder")


@dataclass
class Judged:
    """What is judged: a model, or stored features of any model; the images; and what the protocol says of both."""

    about: dict[str, Any]
    subject: Subject | None = None
    stored: "dict[str, Features] | None" = None
    sources: "tuple[ImageSource, ImageSource] | None" = None
    protocol: dict[str, Any] = field(default_factory=dict)


def open_images(options: ImageOptions, *, needs_images: bool = True) -> Judged:
    """The model or the stored features, and the training and the test images (None for features without images)."""
    options = options.settled()
    if options.features:
        from ..feature_files import read_labelled

        about = {"source": options.source, "step": None}
        judged = Judged(about, stored=read_labelled(options.features), protocol={"features": options.source})
    else:
        subject = open_subject(options, "Embeds")
        judged = Judged(subject.about, subject)
    if needs_images or judged.subject:
        _open_sources(options, judged)
    return judged


def _open_sources(options: ImageOptions, judged: Judged) -> None:
    from internlm.data.frames import notes, open_images
    from internlm.data.store import TakeStore

    from .classes import restrict

    subject = judged.subject
    data = subject.data(options.data, subject.system.config.data.images) if subject else each_once(options.data)
    if not data:
        if options.class_list:
            raise EvalError("--class-list needs images (--data); leave the other classes out of the stored features instead")
        return
    voters = each_once(options.train_data) or data
    stores = [any(TakeStore.is_store(path) for path in paths) for paths in (data, voters)]
    _check_folder_options(options, data, stores)
    label = options.label or ("place" if all(TakeStore.is_store(path) for path in (*data, *voters)) else "folder")
    split, train_split = options.split or "val", options.train_split or "train"
    train = open_images(voters, train_split, options.frame_stride, label)
    sources = train, open_images(data, split, options.frame_stride, label)
    if options.class_list:
        sources = restrict(*sources, options.class_list)
    found = len(sources[0].classes)
    if options.imgnet and options.imgnet < found:
        unknown = f"--imgnet {options.imgnet}: there are {found} classes, and which {options.imgnet} are meant is not published"
        raise EvalError(f"{unknown}; name them with --class-list FILE")
    if options.imgnet and options.imgnet != found:
        print(f"--imgnet {options.imgnet}: the data has {found} classes, so that is what is measured")
    judged.sources = sources
    judged.protocol |= {"train_data": voters, "test_data": data, "label": label}
    judged.protocol |= {name: value for name, value, has in zip(("split", "train_split"), (split, train_split), stores) if has}
    judged.protocol |= {f"{part}_folder_notes": said for part, each in zip(("train", "test"), sources) if (said := notes(each))}
    if options.class_list:
        judged.protocol["class_list"] = str(options.class_list)


def _check_folder_options(options: ImageOptions, data: list[str], stores: list[bool]) -> None:
    """EvalError for options that mean nothing without a take store, and where a folder would be measured by itself."""
    given = {"--split": options.split if not stores[0] else None, "--train-split": options.train_split if not stores[1] else None}
    for name, value in given.items():
        if value is not None:
            raise EvalError(f"{name} {value}: image folders have no splits; name each split's folder by --train-data and --data")
    if options.frame_stride != 1 and not any(stores):
        raise EvalError(f"--frame-stride {options.frame_stride} takes frames out of take stores; image folders have none")
    if not options.train_data and not stores[0]:
        folder = Path(data[0])
        test = next((name for name in ("val", "test", "valid") if (folder / "train").is_dir() and (folder / name).is_dir()), None)
        hint = f"; here --train-data {folder / 'train'} --data {folder / test}" if test else ""
        what = f"--data {' '.join(map(str, data))} without --train-data: image folders have no splits"
        raise EvalError(f"{what}, so every image would be measured by itself. Name the training images by --train-data{hint}")
