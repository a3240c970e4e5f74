"""``egoagent eval motion``: the next chunk of body motion and rolled-out motion beside floors and baselines."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ...errors import EvalError
from ...task import Result, Subject, open_subject
from .options import MotionOptions as Options

if TYPE_CHECKING:
    from internlm.data.clips import ClipDataset

    from .forecasters import Forecaster

SUMMARY = "next chunk of body motion beside zero and constant velocity"


def evaluate(options: Options) -> Result | None:
    """The next chunk and the roll-out; None on processes that do not report, of which the first trains the baselines."""
    from internlm.core.collectives import rank

    from ...clips import evaluated_clips
    from . import report as motion

    subject = open_subject(options, "Foresees")
    outputs, dataset, data = evaluated_clips(subject, options, ())
    observed = options.observed or dataset.clip.steps // 2
    rolled = None if options.no_rollout else _roll_out(options, subject, dataset, observed)
    if rank():
        return None
    report = motion.motion_report(outputs, dataset)
    report["protocol"] |= {"data": data, "split": options.split}
    figures = motion.figures(report)
    if isinstance(rolled, dict):
        report["rollout"] = rolled
    elif rolled is not None:
        baselines = _baselines(options, subject, dataset, observed) if options.baselines else ()
        report["rollout"] = motion.rollout_report(rolled, dataset, observed=observed, baselines=baselines)
        figures += motion.rollout_figures(report["rollout"])
    return Result(subject.about, report, figures)


def _roll_out(options: Options, subject: Subject, dataset: "ClipDataset", observed: int) -> Any:
    """The roll-outs (None where another process reports), or why there are none."""
    from ...clips import clip_batches
    from .rollout import roll_out

    try:
        return roll_out(subject.system, dataset, clip_batches(dataset, options), observed=observed, device=subject.device)
    except EvalError as error:
        if options.observed or options.baselines:
            raise
        return {"skipped": str(error)}


def _baselines(options: Options, subject: Subject, dataset: "ClipDataset", observed: int) -> tuple["Forecaster", ...]:
    """Baselines trained on the run's own training takes, on windows of the rolled-out clips' length and rate."""
    from internlm.data.motion import Recordings

    from .forecasters import make, note

    data = subject.data(options.baseline_data, subject.system.config.data.clips)
    _check_unseen(data, dataset, options.split)
    poses: Any = dataset.pose_offsets.shape
    recordings = Recordings(tuple(data), every=dataset.pose_stride, all_joints=True, frame="world")
    how = {"past": (observed + 1) * poses[1], "future": (poses[0] - observed) * poses[1], "seed": options.seed}
    how |= {"cpu_minutes": options.cpu_minutes, "steps": options.baseline_steps}
    made = []
    with TemporaryDirectory() as runs:
        for name in options.baselines:
            print(name, flush=True)
            made.append(make(name, recordings, folder=Path(runs) / name, note=note, **how))
    return tuple(made)


def _check_unseen(data: list[str], dataset: "ClipDataset", split: str) -> None:
    """EvalError when the evaluated takes are among those that baselines are trained on."""
    import os

    from internlm.data.store import TakeStore

    stores = [TakeStore(path) for path in data if TakeStore.is_store(path)]
    fitted = {os.path.realpath(take.path) for store in stores for take in store.select("train")}
    seen = [take.info.name for take in dataset.takes if os.path.realpath(take.path) in fitted]
    if seen:
        raise EvalError(
            f"--baselines are trained on the takes of split train, and {len(seen)} of them, {seen[0]} for one, are evaluated "
            f"here (--split {split}): choose another --split, or other takes to train on by --baseline-data"
        )
