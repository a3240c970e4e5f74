"""Translates a config written with upstream's keys: each key is mapped to ours, or reported as ignored with the reason.

``legacy_table.py`` is the mapping. A key that is not in it is an error, and so is a value that asks for something this
project does not do; nothing is dropped silently.
"""

import shlex
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from internlm.config.errors import ConfigError, nearest_key
from internlm.config.legacy_table import COMBINED, KNOWN, NUMBERS, RULES, TRUNK, Ignore, Map, Only

# Where docs/data.md puts the two data sets; the files in configs/ read the same.
EGOEXO_STORE = "data/stores/egoexo4d"
TOURS_STORE = "data/stores/tours"
_SECTIONS = frozenset(
    "kd_config teacher momentum_scheduler ckpt grad_scaler hybrid_zero_optimizer adam lr_scheduler beta2_scheduler".split()
)
VIDEOS = (".mp4", ".mkv", ".mov", ".webm", ".avi")
_HELPER = "a helper name; its value counts where a section uses it"


@dataclass
class Translation:
    """Our nested values, and what became of each upstream key."""

    values: dict[str, Any] = field(default_factory=dict)
    mapped: list[tuple[str, str]] = field(default_factory=list)  # upstream key, our key
    ignored: list[tuple[str, str]] = field(default_factory=list)  # upstream key, reason
    notes: list[str] = field(default_factory=list)  # what is left to do

    def put(self, upstream: str, key: str, value: Any) -> None:
        """Set one of our dotted keys."""
        *sections, leaf = key.split(".")
        here = self.values
        for section in sections:
            here = here.setdefault(section, {})
        here[leaf] = value
        self.mapped.append((upstream, key))

    def report(self, origin: str) -> str:
        """What was ignored and why, one line per reason."""
        by_reason: dict[str, list[str]] = {}
        for key, reason in self.ignored:
            by_reason.setdefault(reason, []).append(key)
        lines = [f"{origin}: upstream keys; {len(self.mapped)} mapped, {len(self.ignored)} without effect here:"]
        lines += [f"  {', '.join(keys)}: {reason}" for reason, keys in by_reason.items()]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def is_legacy(names: dict[str, Any]) -> bool:
    """Whether the top-level names are upstream's: two of its own sections, or one beside JOB_NAME."""
    return len(_SECTIONS & names.keys()) + ("JOB_NAME" in names) >= 2


def translate(names: dict[str, Any], origin: str) -> Translation:
    """Map the top-level names of an upstream config. Raises ConfigError for unknown keys and for what cannot be honoured."""
    result = Translation()
    flat = _flatten(names, origin)
    _apply(flat, result, origin)
    _combine(flat, result, origin)
    _check_repeats(flat, result, origin)
    return result


def translate_model(section: dict[str, Any], origin: str) -> dict[str, Any]:
    """Our ``model`` section for upstream's, as its checkpoints carry it. Raises ConfigError as ``translate`` does."""
    result = Translation()
    _apply(_flatten({"model": section}, origin), result, origin)
    return result.values.get("model", {})


def _apply(flat: dict[str, Any], result: Translation, origin: str) -> None:
    """The keys that have a row of their own in the table."""
    for key, value in flat.items():
        rule = RULES.get(key)
        if key in NUMBERS and (not isinstance(value, int | float) or isinstance(value, bool)):
            raise ConfigError(f"{origin}: {key} = {value!r} is not a number")
        if isinstance(rule, Map):
            try:
                result.put(key, rule.key, rule.convert(value))
            except (TypeError, KeyError) as error:
                raise ConfigError(f"{origin}: {key} = {value!r} cannot become {rule.key}: {error!r}") from error
        elif isinstance(rule, Ignore):
            result.ignored.append((key, rule.reason))
        elif isinstance(rule, Only):
            _require(origin, key, (tuple(value) if isinstance(value, list) else value) in rule.values, value, rule.reason)
            result.ignored.append((key, rule.reason))
        elif key not in COMBINED:  # _flatten lets only UPPERCASE names through
            result.ignored.append((key, _HELPER))


def _flatten(values: dict[str, Any], origin: str, prefix: str = "") -> dict[str, Any]:
    """Dotted keys down to the depth that the table knows."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = prefix + name
        if isinstance(value, dict) and any(known.startswith(key + ".") for known in KNOWN):
            flat.update(_flatten(value, origin, key + "."))
        elif key in KNOWN or (not prefix and name.isupper()):
            flat[key] = value
        else:
            near = nearest_key(key, KNOWN)
            raise ConfigError(f"{origin}: unknown upstream key {key}" + (f"; did you mean {near}?" if near else ""))
    return flat


def _require(origin: str, key: str, holds: bool, value: Any, reason: str) -> None:
    if not holds:
        raise ConfigError(f"{origin}: {key} = {value!r} cannot be honoured: {reason}")


def _combine(flat: dict[str, Any], result: Translation, origin: str) -> None:
    """The keys whose meaning depends on others: the stage, the weights, the batch, the paths."""
    name = str(flat.get("loss.name", ""))
    supported = {"img_rep_motion": "joint", "img_and_motion": "joint", "dino": "pretrain"}
    stage = next((stage for part, stage in supported.items() if part in name), None)
    _require(origin, "loss.name", stage is not None, name, f"the name must contain one of {', '.join(supported)}")
    result.put("loss.name", "stage", stage)
    _weights(flat, result, "img_and_motion" not in name)
    _batch(flat, result, origin, "img_and_motion" not in name)
    _paths(flat, result, origin)
    _optimizer(flat, result, origin)


def _weights(flat: dict[str, Any], result: Translation, has_images: bool) -> None:
    """Spec §3: gt·(reg·pose + confidence) + kd·prediction on clips, dino·L_rep on images; stage 1 is kd·L_rep."""
    joint = result.values["stage"] == "joint"
    gt, kd = flat.get("kd_config.gt_weight", 1), flat.get("kd_config.kd_weight", 1)
    if joint:
        weights = {
            "act_weight": ("kd_config.reg_weight", gt * flat.get("kd_config.reg_weight", 1)),
            "visibility_weight": ("kd_config.gt_weight", gt),
            "pred_weight": ("kd_config.kd_weight", kd),
            "rep_weight": ("kd_config.dino_weight", flat.get("kd_config.dino_weight", 1) if has_images else 0),
        }
    else:
        weights = {"rep_weight": ("kd_config.kd_weight", kd)}
        unused = [key for key in ("kd_config.gt_weight", "kd_config.reg_weight", "kd_config.dino_weight") if key in flat]
        result.ignored.extend((key, "stage 1 has no labels and one loss") for key in unused)
    for key, (upstream, weight) in weights.items():
        result.put(upstream, f"loss.{key}", float(weight))


def _batch(flat: dict[str, Any], result: Translation, origin: str, has_images: bool) -> None:
    joint = result.values["stage"] == "joint"
    if "data.micro_num" in flat:
        # The released files set micro_bsz to the frames of a clip (N_FRAMES); their batch is micro_num samples all the same.
        several = flat.get("data.micro_bsz", 1)
        batch = flat["data.micro_num"] * (1 if several == flat.get("data.frames_per_clip") else several)
        result.put("data.micro_num, data.micro_bsz", "train.image_batch", batch if has_images else 0)
        if joint:
            result.put("data.micro_num, data.micro_bsz", "train.clip_batch", batch)
            result.put("loss.name", "train.mixing", "alternate")
    elif "data.micro_bsz" in flat:
        raise ConfigError(f"{origin}: data.micro_bsz needs data.micro_num beside it")
    frames = flat.get("data.frames_per_clip")
    if joint and "data.frames_per_clip" in flat:
        result.put("data.frames_per_clip", "data.clip.steps", frames)
    elif "data.frames_per_clip" in flat:
        _require(origin, "data.frames_per_clip", frames == 1, frames, "stage 1 reads single frames")
        result.ignored.append(("data.frames_per_clip", "stage 1 reads single frames"))
    crops = flat.get("data.local_crops_number", flat.get("loss.local_crops_number"))
    if flat.get("data.use_local_crop") is False:
        crops = 0
    if crops is not None:
        result.put("data.local_crops_number, data.use_local_crop", "data.crops.local_crops", crops)


def _paths(flat: dict[str, Any], result: Translation, origin: str) -> None:
    """Upstream lists videos. Their frames are read from the take store that docs/data.md makes of them."""
    joint = result.values["stage"] == "joint"
    folders = flat.get("data.train_folder") or ()
    _require(origin, "data.train_folder", isinstance(folders, str | list | tuple), folders, "it is a list of paths")
    paths = [_without_scheme(folder) for folder in ([folders] if isinstance(folders, str) else folders)]
    _require(origin, "data.train_folder", all(isinstance(path, str) for path in paths), folders, "it is a list of paths")
    videos = [path for path in paths if PurePosixPath(path).suffix.lower() in VIDEOS]
    images = [path for path in paths if path not in videos]
    if videos:
        images.insert(0, TOURS_STORE)
        made = f"egoagent data videos {TOURS_STORE} {shlex.join(videos)} --rate 0"
        result.notes.append(f"the videos of data.train_folder are read from a take store that holds these alone: {made}")
    if flat.get("data.use_egoexo"):
        images.append(EGOEXO_STORE)
        if joint:
            result.put("data.use_egoexo", "data.clips", [EGOEXO_STORE])
    if images:
        result.put("data.train_folder, data.use_egoexo", "data.images", images)
    _start(flat, result, origin)


def _start(flat: dict[str, Any], result: Translation, origin: str) -> None:
    """Upstream has three names for the weights to start from; the first that says something counts, as text or as a dict."""
    names = [key for key in ("ckpt.load_ckpt_folder", "ckpt.load_model_only_folder", "ckpt.load_ckpt_info") if key in flat]
    sources = {}
    for key in names:
        value = flat[key].get("path") if isinstance(flat[key], dict) else flat[key]
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{origin}: {key} = {flat[key]!r} is neither a path nor a dict with a path")
        sources |= {key: _without_scheme(value)} if value else {}
    if sources and result.values["stage"] == "joint":
        key = next(iter(sources))
        result.put(key, "train.init_from", sources[key])
        names.remove(key)
    for key in names:
        resumes = "a run continues by itself from its newest checkpoint; train.init_from starts from another's weights"
        result.ignored.append((key, resumes if key in sources else "nothing to load"))


def _optimizer(flat: dict[str, Any], result: Translation, origin: str) -> None:
    if {"adam.adam_beta1", "adam.adam_beta2"} & flat.keys():
        betas = [flat.get("adam.adam_beta1", 0.9), flat.get("adam.adam_beta2", 0.999)]
        result.put("adam.adam_beta1, adam.adam_beta2", "optim.betas", betas)
    epochs = flat.get("loss.epochs")
    if "loss.warmup_teacher_temp_epochs" in flat:
        if not epochs:
            raise ConfigError(f"{origin}: loss.warmup_teacher_temp_epochs needs loss.epochs beside it")
        share = flat["loss.warmup_teacher_temp_epochs"] / epochs
        result.put("loss.warmup_teacher_temp_epochs, loss.epochs", "loss.warmup_teacher_temp_share", share)
    zero = flat.get("parallel.zero1", 1)
    whole = not (isinstance(zero, dict) and zero.get("fsdp"))  # weights stay whole on every process
    zero = zero.get("size", 1) if isinstance(zero, dict) else zero
    _require(origin, "parallel.zero1", isinstance(zero, int), zero, "it is the number of processes that share the states")
    if zero > 1:
        result.put("parallel.zero1", "parallel.dp_shard", zero)
        result.put("parallel.zero1", "parallel.zero", 2 if whole else 3)
    elif "parallel.zero1" in flat:
        result.ignored.append(
            ("parallel.zero1", "1 is plain data parallelism; 0 or less means all processes: `egoagent launch` sets dp_shard")
        )


def _check_repeats(flat: dict[str, Any], result: Translation, origin: str) -> None:
    """Upstream states some values twice; the second must agree with the first, or one of them is a mistake."""
    image, patch = (flat.get(f"model.lvm_config.conv_stem_config.{key}") for key in ("img_size", "patch_size"))
    local = flat.get("data.local_crop_size")
    micro = flat["data.micro_num"] // flat.get("data.gradient_accumulation", 1) if "data.micro_num" in flat else None
    tokens = (image // patch) ** 2 if image and patch else None
    first = {
        "momentum_scheduler.epochs": flat.get("loss.epochs"),
        "data.batch_size": flat.get("data.micro_num"),
        "data.vid_crop_size": image,
        "data.num_frame_tokens": tokens,
        "loss.out_dim": flat.get("model.output_dim"),
        "loss.local_crops_number": flat.get("data.local_crops_number"),
        "loss.grad_accum": flat.get("data.gradient_accumulation"),
        "loss.batch_size": micro,
        "loss.global_token_len": tokens,
        "loss.local_token_len": (local // patch) ** 2 if local and patch else None,
        "loss.nframes": flat.get("data.frames_per_clip"),
        "lr_scheduler.total_steps": flat.get("data.total_steps"),
        "beta2_scheduler.init_beta2": flat.get("adam.adam_beta2"),
        **{f"teacher.{key}": flat.get(f"model.{key}") for key in TRUNK if isinstance(TRUNK[key], Map)},
    }
    for key, value in first.items():
        if key not in flat:
            continue
        agrees = value is None or flat[key] == value
        _require(origin, key, agrees, flat[key], f"it must equal {value!r}, which the file sets elsewhere")
        if key in COMBINED:
            result.ignored.append((key, "repeats a value set elsewhere in the file; checked"))


def _without_scheme(path: Any) -> Any:
    return path.removeprefix("local:") if isinstance(path, str) else path
