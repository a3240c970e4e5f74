"""The model card of an exported folder: what it is, on what it was trained, what it reaches beside which floors."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from internlm.config.schema import Config
from internlm.systems.base import Words

from .programs import Differences
from .results import Result
from .source import Source

SYNTHETIC_SOURCES = ("egoworld",)
SMALL_IMAGES = 1_000_000  # fewer training images than this are called small


def model_card(source: Source, formats: Sequence[str], differences: Differences, results: Sequence[Result]) -> str:
    """README.md of the folder, in Markdown with the front matter of model hubs."""
    system, config = source.system, source.system.config
    data = describe_data(config, source.recorded) if source.trained_here else []
    words, hub = system.words(source.network, source.branch), system.hub(source.network, source.branch)
    use = {"hf": words.use} | {name: text.format(outputs=", ".join(system.outputs)) for name, text in _USE.items()}
    text = {"tags": ", ".join(words.tags), "job": config.job_name, "branch": source.branch, "step": source.step}
    text |= {"about": words.about, "warning": _warning(source, data, words)}
    text |= {"size": system.image_size, "short": round(system.image_size * 256 / 224)}
    text |= {"use": "\n\n".join(use[name] for name in formats), "further": words.further if "hf" in formats else ""}
    text |= {"network": _table(("", ""), words.network), "training": _training(source, data, words)}
    text |= {"results": "\n\n".join(map(_result, results)) or _NO_RESULTS}
    text |= {"differences": _differences(differences, system.outputs, hub.outputs)}
    card = Path(__file__).with_name("card.txt").read_text(encoding="utf-8").format(**text)
    return re.sub(r"\n{3,}", "\n\n", card)  # what there is nothing to say of leaves no gap


_USE = {
    "torch-export": """```python
program = torch.export.load("encoder.pt2").module()
{outputs} = program(pixel_values)   # float32 [N, 3, S, S], N up to 4096
```""",
    "onnx": """```python
session = onnxruntime.InferenceSession("encoder.onnx")
{outputs} = session.run(None, {{"pixel_values": pixel_values}})   # float32 [N, 3, S, S]
```""",
}
_NO_RESULTS = """No evaluation of this step was found, so nothing is known about what these features are worth. `egoagent eval
knn --run RUN --out RUN/knn.json` measures it; an export after that shows it here."""


def describe_data(config: Config, recorded: Config) -> list[dict[str, Any]]:
    """What the run's data paths hold now: images that training could draw and where they come from.

    ``config`` has the paths for the working directory, ``recorded`` their names in the run.
    """
    from internlm.data.frames import DataError, open_images
    from internlm.data.store import StoreError, TakeStore

    found = []
    paths, names = ((*each.data.images, *each.data.clips) for each in (config, recorded))
    for path, name in dict(zip(paths, names, strict=True)).items():
        entry: dict[str, Any] = {"path": name, "images": None, "takes": None, "sources": []}
        try:
            if TakeStore.is_store(path):
                infos = [info for info in TakeStore(path).infos if info.split == config.data.split]
                entry |= {"takes": len(infos), "sources": sorted({info.source for info in infos if info.source})}
            entry["images"] = len(open_images([path], config.data.split, config.data.frame_stride))
        except (DataError, StoreError, OSError, ValueError) as error:
            entry["problem"] = str(error)
        found.append(entry)
    return found


def _warning(source: Source, data: list[dict[str, Any]], words: Words) -> str:
    """The plain statement on what the training data is, where it is not the real thing at size."""
    if not source.trained_here:
        return "> **Imported weights.** Nothing about their training is known to this folder beyond the network's shape."
    unknown = not data or any(entry["images"] is None for entry in data)
    images = sum(entry["images"] or 0 for entry in data)
    sources = {name for entry in data for name in entry["sources"]}
    says = []
    if sources and sources <= set(SYNTHETIC_SOURCES) and all(entry["takes"] is not None for entry in data):
        says.append("**Synthetic data.** Every training image is rendered; figures on it say nothing about real video.")
    elif sources & set(SYNTHETIC_SOURCES):
        says.append("**Partly synthetic data.** Some of the training images are rendered.")
    if unknown:
        says.append("**Training data not at hand.** Not all of it could be read at the export, so its size is not known.")
    elif images < SMALL_IMAGES:
        says.append(f"**Small data.** {images:,} training images; the published run has {words.published_images:,}.")
    return "\n>\n".join(f"> {text}" for text in says)


def _training(source: Source, data: list[dict[str, Any]], words: Words) -> str:
    if not source.trained_here:
        return "Imported from the published project's checkpoint layout; data, steps and schedule are not recorded in it."
    config = source.system.config
    train, optim = config.train, config.optim
    parts = source.system.parts()
    batch = ", ".join(f"{size} {kind}" for size, kind in ((train.image_batch, "images"), (train.clip_batch, "clips")) if size)
    rows = [
        ("stage", words.stage),
        ("steps", f"{source.step:,} of {train.steps:,}"),
        ("batch per step and process", batch),
        ("learning rate", f"{optim.lr:g} to {optim.final_lr:g}, warm-up over {optim.warmup_share:.0%}"),
        *((f"{name} momentum", f"{optim.momentum:g} to {optim.momentum_end:g}") for name, part in parts.items() if part.follows),
        ("seed", str(config.seed)),
    ]
    if train.init_from:
        rows.append(("started from", f"`{source.recorded.train.init_from}`"))
    for entry in data:
        rows.append((f"data `{entry['path']}`", _data_words(entry, config.data.split)))
    return _table(("", ""), rows)


def _data_words(entry: dict[str, Any], split: str) -> str:
    if entry["images"] is None:
        return f"not readable at export: {entry.get('problem', '')}"
    words = f"{entry['images']:,} images"
    if entry["takes"] is not None:
        words += f" in {entry['takes']:,} takes of split {split}"
    return words + (f", from {', '.join(entry['sources'])}" if entry["sources"] else "")


def _result(result: Result) -> str:
    """One evaluation: a row for each figure with its floors, and the protocol it was measured by."""
    floors = list(dict.fromkeys(name for row in result.rows for name in row.get("floors", {})))
    rows = []
    for row in result.rows:
        better = "higher is better" if row.get("higher_is_better", True) else "lower is better"
        values = [_number(row.get("floors", {}).get(name)) for name in floors]
        rows.append((f"{row['name']} ({row.get('unit', '')}, {better})", f"**{_number(row.get('value'))}**", *values))
    protocol = json.dumps(result.protocol, indent=1, ensure_ascii=False)
    return (
        f"### {result.task}\n\n{_table(('', 'this model', *(f'floor: {name}' for name in floors)), rows)}\n\n"
        f"<details><summary>Protocol ({result.name})</summary>\n\n```json\n{protocol}\n```\n\n</details>"
    )


def _differences(found: Differences, outputs: Sequence[str], names: Mapping[str, str]) -> str:
    """By format, in columns of the outputs' names in a program; ``names`` gives these where a format has its own."""
    columns, rows = (*outputs, "others"), []
    for form, differences in found.items():
        cells = dict.fromkeys(columns, 0.0)
        for name, value in differences.items():
            column = names.get(name, name)
            column = column if column in cells else "others"
            cells[column] = max(cells[column], value)
        rows.append((form, *(f"{value:.1e}" for value in cells.values())))
    return _table(("format", *columns), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else "–"
