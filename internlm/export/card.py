"""The model card of an exported folder: what it is, on what it was trained, what it reaches beside which floors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from internlm.systems.egoagent.config import EgoAgentConfig as Config

from .results import Result

if TYPE_CHECKING:
    from .export import Source

SYNTHETIC_SOURCES = ("egoworld",)
SMALL_IMAGES = 1_000_000  # fewer training images than this are called small; the published run has 7.6 million
PUBLISHED_IMAGES = 7_614_851


def model_card(
    source: Source, formats: Sequence[str], differences: dict[str, dict[str, float]], results: Sequence[Result]
) -> str:
    """README.md of the folder, in Markdown with the front matter of model hubs."""
    config = source.config
    data = describe_data(config, source.recorded) if source.trained_here else []
    parts = [
        _FRONT_MATTER,
        f"# {config.job_name}, {source.branch} at step {source.step}",
        "EgoAgent is one causal transformer trained from scratch on first-person frames and body poses. This folder holds its "
        f"{source.branch}: {_ROLE[source.branch]}.",
        _warning(source, data),
        "## Use",
        *(_USE[name] for name in formats),
        _predict(source) if "hf" in formats and hasattr(source.network, "action_query") else "",
        _VIEW.format(size=config.model.image_size, short=round(config.model.image_size * 256 / 224)),
        "## Network",
        _network(source),
        "## Training",
        _training(source, data),
        "## Results",
        *([_result(result) for result in results] or [_NO_RESULTS]),
        "## Checked when exported",
        "Largest difference of each output from the network that was trained, on random images:",
        _table(("format", *_OUTPUTS), [(name, *_row(found)) for name, found in differences.items()]),
        "The full configuration is in `training_config.yaml`, the record of this export in `export.json`. The code is under "
        "Apache-2.0; the licence of the weights follows from the data they were trained on.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_FRONT_MATTER = """---
library_name: transformers
pipeline_tag: image-feature-extraction
tags: [egoagent, egocentric, self-supervised]
---"""
_ROLE = {
    "observer": "the moving average of the trained weights, which reads single images",
    "predictor": "the trained weights; where it was trained on clips it also predicts the next body motion and the next state",
}
_OUTPUTS = ("state", "patches", "bottleneck", "others")
_USE = {
    "hf": """```python
from PIL import Image
from transformers import AutoImageProcessor, AutoModel  # 5 or newer

processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
features = model(**processor(Image.open("frame.jpg")))
features.pooler_output       # [N, h]: the state query, the feature of the kNN protocol
features.bottleneck          # [N, b]: unit vectors, the feature of the retrieval protocol
features.last_hidden_state   # [N, patches + 1, h]
```""",
    "torch-export": """```python
program = torch.export.load("encoder.pt2").module()
state, patches, bottleneck = program(pixel_values)   # float32 [N, 3, S, S], N up to 4096
```""",
    "onnx": """```python
session = onnxruntime.InferenceSession("encoder.onnx")
state, patches, bottleneck = session.run(None, {"pixel_values": pixel_values})   # float32 [N, 3, S, S]
```""",
}
_VIEW = """`pixel_values` are RGB images whose short side was resized to {short} (antialiased bicubic), cut to the central
{size} x {size}, divided by 255 and normalised with the numbers of `preprocessor_config.json`."""
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


def _predict(source: Source) -> str:
    """How the action parts are called, in the shapes of this very network."""
    model, clip = source.config.model, source.config.data.clip
    size, poses, seen = model.image_size, f"1, T, {model.poses_per_step}, {model.num_joints}", "dtype=torch.bool"
    rows = [
        (f"images=torch.zeros(1, T, 3, {size}, {size}),", "[B, T, 3, S, S]: pixel_values, one frame a step"),
        (f"poses=torch.zeros({poses}, 3),", "[B, T, P, J, 3], metres: the chunk that begins at each frame"),
        (f"visible=torch.ones({poses}, {seen}),", "[B, T, P, J]: joints that were seen; other numbers do not count"),
        (f"past_poses=torch.zeros({poses}, 3),", "[B, T, P, J, 3], metres: the P poses before each frame"),
        (f"past_visible=torch.ones({poses}, {seen}),", "[B, T, P, J]"),
    ]
    width = max(len(code) for code, _ in rows)
    lines = [f"    {code:<{width}}  # {meaning}" for code, meaning in rows]
    place = {
        "camera": "each pose in the camera of its own frame",
        "chunk": "in the camera of the frame that it begins at, as are the poses before it",
    }
    return "\n".join(
        [
            f"The next motion and the next state over a clip of T steps, {clip.frame_stride} frame numbers apart. A chunk is "
            f"P = {model.poses_per_step} poses of J = {model.num_joints} joints, {source.config.pose_stride} frame numbers "
            f"apart, {place[clip.pose_coordinates]}.",
            "",
            "```python",
            "import torch",
            "",
            "T = 2",
            "clip = dict(",
            *lines,
            ")",
            "read = model.predict(**clip)",
            "read.action       # [B, T, P, J, 3], metres: the chunk predicted at each frame, before poses[:, t] is seen",
            "read.visibility   # [B, T, P, J]: logits of which joints will be seen",
            f"read.state        # [B, T, {model.hidden_size}]: the state predicted for the next frame",
            "```",
        ]
    )


def _warning(source: Source, data: list[dict[str, Any]]) -> str:
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
        says.append(f"**Small data.** {images:,} training images; the published run has {PUBLISHED_IMAGES:,}.")
    return "\n>\n".join(f"> {text}" for text in says)


def _network(source: Source) -> str:
    model, network = source.config.model, source.network
    rows = [
        ("parameters", f"{sum(p.numel() for p in network.parameters()):,}"),
        ("hidden / layers / heads", f"{model.hidden_size} / {model.num_layers} / {model.num_heads}"),
        ("image, patch", f"{model.image_size}, {model.patch_size} pixels: {(model.image_size // model.patch_size) ** 2} patches"),
        ("attention", {"causal": "causal over patches and state query", "block": "patches see each other"}[model.sequence]),
        ("bottleneck / prototypes", f"{model.head_bottleneck} / {model.prototypes}"),
        ("reads and predicts motion", "yes" if hasattr(network, "action_query") else "no"),
    ]
    return _table(("", ""), rows)


def _training(source: Source, data: list[dict[str, Any]]) -> str:
    if not source.trained_here:
        return "Imported from the published project's checkpoint layout; data, steps and schedule are not recorded in it."
    config = source.config
    train, optim = config.train, config.optim
    batch = ", ".join(f"{size} {kind}" for size, kind in ((train.image_batch, "images"), (train.clip_batch, "clips")) if size)
    rows = [
        ("stage", {"pretrain": "1: single images", "joint": "2: images, clips and poses"}[config.stage]),
        ("steps", f"{source.step:,} of {train.steps:,}"),
        ("batch per step and process", batch),
        ("learning rate", f"{optim.lr:g} to {optim.final_lr:g}, warm-up over {optim.warmup_share:.0%}"),
        ("observer momentum", f"{optim.momentum:g} to {optim.momentum_end:g}"),
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


def _row(found: dict[str, float]) -> tuple[str, ...]:
    """Differences in the columns of the table; the Hugging Face folder has its own names for the outputs."""
    names = {"pooler_output": "state", "last_hidden_state": "patches"}
    cells = {"state": 0.0, "patches": 0.0, "bottleneck": 0.0, "others": 0.0}
    for name, value in found.items():
        column = names.get(name, name)
        column = column if column in cells else "others"
        cells[column] = max(cells[column], value)
    return tuple(f"{value:.1e}" for value in cells.values())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else "–"
