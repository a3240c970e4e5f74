"""A stage of the demo trained in this process, or in several of this machine and brought back into this one."""

from typing import TYPE_CHECKING

from internlm.core.errors import UserError

if TYPE_CHECKING:
    from internlm.config.schema import Config
    from internlm.train.loop import TrainResult


def train_stage(config: "Config", *, fresh: bool = False, processes: int = 1) -> "TrainResult | None":
    """Train a stage, continue it, or reuse it when complete; a run with other settings is moved aside.

    ``processes`` above 1 divide the config's batches between them (``dp_replicate``): the same samples a step, and the same run
    to rounding. None when they were stopped by a signal. Raises UserError when the batches cannot be divided or a process fails.
    """
    from internlm.config.load import RESOLVED_NAME, ConfigError, load_config
    from internlm.train.loop import run_folder, train

    shared, whole = (config, config) if processes == 1 else _divided(config, processes)
    earlier = run_folder(config) / RESOLVED_NAME
    try:
        same = not earlier.is_file() or load_config(earlier, quiet=True) in (shared, whole)
    except ConfigError:  # written by another version
        same = False
    if processes > 1 and not _train_together(shared, processes, resume=same and not fresh):
        return None
    return train(whole, resume=processes > 1 or (same and not fresh))


def _divided(config: "Config", processes: int) -> tuple["Config", "Config"]:
    """The config of one of several processes, and the same for one process that only takes over what they trained."""
    batches = {name: getattr(config.train, name) for name in ("image_batch", "clip_batch")}
    for name, size in batches.items():
        if size % (processes * config.train.accumulation):
            raise UserError(f"train.{name} {size} cannot be divided between {processes} processes; choose a divisor of it")
    share = config.train.model_copy(update={name: size // processes for name, size in batches.items()})
    mesh = config.parallel.model_copy(update={"dp_replicate": processes})
    return config.model_copy(update={"train": share, "parallel": mesh}), config.model_copy(update={"train": share})


def _train_together(config: "Config", processes: int, *, resume: bool) -> bool:
    """Train to the end under torch's elastic agent; False when a signal stopped it."""
    from internlm.config.load import save_config
    from internlm.launch.local import run_local
    from internlm.train.loop import run_folder
    from internlm.train.signals import EXIT_STOPPED

    path = run_folder(config) / "launch" / "config.yaml"
    save_config(config, path)
    words = ["train", str(path), *([] if resume else ["--no-resume"])]
    code = run_local(words, processes=processes, max_restarts=0, grace=60)
    if code not in (0, EXIT_STOPPED):
        raise UserError(f"training in {processes} processes ended with exit code {code}; the messages above say why")
    return code == 0
