"""The demo: a small world, both training stages, every evaluation, one report. Minutes on two CPU cores.

Everything lies in the output folder and is made once: a rerun keeps the world and continues or reuses the two runs as
long as their settings are the same.
"""

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from internlm.core.errors import UserError

from .size import DemoSize
from .training import train_stage

if TYPE_CHECKING:
    from internlm.systems.egoagent.config import EgoAgentConfig as Config
    from internlm.train.loop import TrainResult

    from .evaluation import Evaluated

STAGES = {"stage1": "dino_pretrain/demo.py", "stage2": "joint_train/demo.py"}


def run_demo(
    out: Path,
    size: DemoSize,
    *,
    seed: int = 1,
    split: str = "test",
    jobs: int = 1,
    processes: int = 1,
    configs: Path | None = None,
    fresh: bool = False,
) -> dict[str, Any] | None:
    """Make the world, train, evaluate on ``split``, write report.json and report.html into ``out``.

    Returns the report; None when a signal stopped the training (its state is saved, the same call goes on).
    """
    from rich.console import Console

    console, clock = Console(), _Clock()
    files = find_configs(configs)
    out.mkdir(parents=True, exist_ok=True)
    console.rule("[bold]1/4 World")
    world = make_world(out, size, seed=seed, jobs=jobs)
    clock.lap("world")
    settings = stage_configs(files, out, world, size, seed)
    results: dict[str, TrainResult] = {}
    for number, (stage, title) in enumerate((("stage1", "Visual pretraining"), ("stage2", "Joint training")), start=2):
        console.rule(f"[bold]{number}/4 {title}")
        result = train_stage(settings[stage], fresh=fresh, processes=processes)
        clock.lap(stage)
        if result is None or not result.finished:
            by = result.stopped_by if result else "a signal"
            console.print(f"Stopped by {by}; the state is saved, the same command goes on.")
            return None
        results[stage] = result
    console.rule("[bold]4/4 Evaluation on takes in rooms that training never saw")
    from .evaluation import evaluate

    done = evaluate(results["stage2"], settings["stage2"], world, size, split=split)
    clock.lap("evaluation")
    report = assemble(done, results, settings) | {"split": split, "data": {"world": "EgoWorld (synthetic)", **asdict(size)}}
    report |= {"seed": seed, "seconds": clock.total, "seconds_by_part": clock.laps}
    _publish(out, report, done, results)
    return report


def find_configs(folder: Path | None) -> dict[str, Path]:
    """The two config files, from ``folder`` or from beside the package's source; UserError when they are not there."""
    root = folder or Path(__file__).resolve().parents[2] / "configs"
    files = {stage: root / name for stage, name in STAGES.items()}
    missing = [str(path) for path in files.values() if not path.is_file()]
    if missing:
        way_out = "run 'make demo' in a clone, or name a folder with both files (--configs FOLDER)"
        raise UserError(f"{missing[0]} does not exist: the demo's configs belong to the source tree; {way_out}")
    return files


def make_world(out: Path, size: DemoSize, *, seed: int, jobs: int) -> Path:
    """The take store of this size and seed; takes that exist already are kept."""
    from rich.progress import track

    from internlm.data.store import StoreWriter
    from internlm.egoworld.simulate import generate_store

    takes = dict(zip(("train", "val", "test"), size.takes, strict=True))
    shape = {"takes": takes, "seconds": size.seconds, "size": size.side, "image_stride": size.image_stride, "seed": seed}
    path = out / f"world-{_digest(shape)}"
    had = len(list((StoreWriter(path).path / "takes").glob("[!.]*")))
    names: list[str] = []
    steps = iter(track(range(sum(size.takes) - had), description=f"{sum(size.takes)} takes of {size.seconds:.0f} s"))
    next(steps, None)

    def on_take(name: str) -> None:
        names.append(name)
        next(steps, None)

    generate_store(path, **shape, jobs=jobs, on_take=on_take)
    print(f"{path}: {sum(size.takes)} takes, {len(names)} of them made now")
    return path


def stage_configs(files: dict[str, Path], out: Path, world: Path, size: DemoSize, seed: int) -> dict[str, "Config"]:
    """The resolved configs of both stages."""
    from internlm.config.load import load_config

    stages = {}
    for stage, path in files.items():
        common = [f"seed={seed}", f"run_dir={json.dumps(str(out / stage))}", f"data.images={json.dumps([str(world)])}"]
        if stage == "stage2":
            common += [f"data.clips={json.dumps([str(world)])}", f"train.init_from={json.dumps(str(out / 'stage1'))}"]
        stages[stage] = load_config(path, [*common, *getattr(size, stage)])
    return stages


def assemble(done: "Evaluated", results: dict[str, "TrainResult"], settings: dict[str, "Config"]) -> dict[str, Any]:
    """What report.json says of the model."""
    return {
        "what": "EgoAgent at demo size, trained from scratch on the synthetic EgoWorld; not comparable with published figures",
        **done.reports,
        "health": {stage: {"verdict": result.verdict, "bad_steps": result.bad_steps} for stage, result in results.items()},
        "collapsed": any(result.verdict for result in results.values()),
        "steps": {stage: config.train.steps for stage, config in settings.items()},
        "parameters": sum(p.numel() for p in results["stage2"].state.system.agent.predictor.parameters()),
        "device": str(next(results["stage2"].state.system.agent.parameters()).device),
    }


def _publish(out: Path, report: dict[str, Any], done: "Evaluated", results: dict[str, "TrainResult"]) -> None:
    from rich.console import Console

    from internlm.eval.report.page import write_json
    from internlm.eval.report.summary import print_table

    from .page import summary, write_page

    page = write_page(out / "report.html", report, done, {stage: result.run_dir for stage, result in results.items()})
    path = write_json(out / "report.json", report)
    print_table("Held-out takes", done.figures)
    console = Console()
    console.print(summary(report))
    console.print(f"Figures: {path}   Page: {page}")


def _digest(shape: dict[str, Any]) -> str:
    """Short name of a world: its shape and the code and tables that make it, so that a new version never reuses old takes."""
    from internlm import egoworld
    from internlm.data import camera

    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    code = sorted(path for path in Path(egoworld.__file__).parent.rglob("*") if path.suffix in (".py", ".json"))
    for path in (*code, Path(camera.__file__)):  # and its camera's rays
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


class _Clock:
    """Wall seconds of the parts of this call."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 1)
        self._last = now

    @property
    def total(self) -> float:
        return round(time.monotonic() - self._began, 1)
