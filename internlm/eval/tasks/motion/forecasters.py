"""Every way to forecast motion that the comparisons know, trained by one call on the same takes."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from internlm.config.load import load_config
from internlm.data.motion import SELECTION_STRIDE, MotionData, Recordings, Windows, hold_out, windows, zero_velocity

from ...errors import EvalError
from .metrics import moving, pooled, position_error, velocity_error

if TYPE_CHECKING:
    from internlm.config.schema import Config
    from internlm.systems.base import Predicts
    from internlm.train.loop import AfterStep
    from internlm.train.state import TrainState
    from internlm.train.step import StepOutcome

Note = Callable[[str], None]
TITLES = {
    "zero_velocity": "zero velocity",
    "constant_velocity": "constant velocity",
    "ridge": "ridge regression",
    "simlpe": "siMLPe",
    "diffusion_policy": "diffusion policy (transformer)",
    "egoagent": "EgoAgent, poses only",
}
CONFIGS = Path(__file__).resolve().parents[4] / "configs" / "motion"
FILES = {"simlpe": "simlpe.py", "diffusion_policy": "diffusion_policy.py", "egoagent": "cmu.py"}  # of the others: floors.py
SAMPLES = 8  # draws whose mean is also reported where forecasts are drawn
POSES = "body_pose"


@dataclass(frozen=True)
class Forecaster:
    """``forecast``: past float64 [N, I, J, 3] (metres, canonical) -> [N, O, J, 3]; ``report`` says how it was made."""

    name: str
    forecast: Callable[[np.ndarray], np.ndarray]
    report: dict[str, Any]
    variants: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = ()


def note(line: str) -> None:
    """Print a line on what a method does."""
    print(f"  {line}", flush=True)


def make(
    name: str, recordings: Recordings, *, past: int, future: int, seed: int, folder: Path, file: str | Path | None = None,
    overrides: Sequence[str] = (), cpu_minutes: float = 20.0, steps: int | None = None, note: Note = lambda line: None,
) -> Forecaster:  # fmt: skip
    """Train (where there is something to train) the forecaster ``name`` of ``TITLES`` on the training takes of recordings.

    A first run chooses, on takes that are held out, how long to train; a second one on all takes ends there. ``file`` replaces
    the method's recipe in configs/motion, ``overrides`` are laid over it, ``steps`` replaces its number; ``folder`` takes the two
    run folders. Half of ``cpu_minutes`` is for each. Raises EvalError for an unknown name, without the recipe, or where a signal
    stops a run.
    """
    if name not in TITLES:
        raise EvalError(f"method {name!r} is unknown; choose from {', '.join(TITLES)}")
    from internlm.systems.resolve import build_system

    train = recordings.open().of("train")
    fixed = {
        "system": "forecaster", "seed": seed, "data.clips": list(recordings.paths), "model.num_joints": len(train.joints),
        "forecaster.method": name, "forecaster.past": past, "forecaster.future": future,
        **{f"forecaster.{key}": getattr(recordings, key) for key in ("actions", "every", "all_joints", "frame")},
        **({"train.steps": steps} if steps else {}),
    }  # fmt: skip
    file = Path(file or CONFIGS / FILES.get(name, "floors.py"))
    if not file.is_file():
        raise EvalError(f"{file} does not exist: recipes belong to the source tree, not to an installed package; use a clone")
    config = partial(_config, file, overrides, fixed)
    if name not in FILES:
        system = build_system(config())
        return Forecaster(name, partial(predict, system), system.solve())
    chosen = choose(config(run_dir=folder / "chosen", takes="fitted"), hold_out(train)[1], cpu_minutes / 2, note)
    stop, spent = chosen["chosen_step"], _clock()
    final, system = run(
        config(run_dir=folder / "final"), lambda state, _: state.counters.step == stop or spent() >= 30 * cpu_minutes
    )
    report = {**final, "steps_planned": stop, "cpu_seconds": chosen["cpu_seconds"] + final["cpu_seconds"], "selection": chosen}
    report["config"] = system.config.model_dump(mode="json", include={"model", "optim", "forecaster"})
    variants = ((f"{name}_mean_of_{SAMPLES}", partial(predict, system, samples=SAMPLES)),) if system.draws else ()
    return Forecaster(name, partial(predict, system), report, variants)


def choose(config: "Config", held_out: MotionData, cpu_minutes: float, note: Note) -> dict[str, Any]:
    """Train, and look ten times how well the held-out takes are forecast; returns what happened.

    The measure of selection is the mean of MPJPE and MPJVE, each over its value at zero velocity.
    """
    own, every, curve, spent = config.forecaster, max(config.train.steps // 10, 1), [], _clock()
    chosen = windows(held_out, own.past, own.future, SELECTION_STRIDE)
    floor = _errors(zero_velocity(chosen.past, own.future), chosen, held_out.rate)

    def look(state: "TrainState", outcome: "StepOutcome") -> bool:
        seconds, step = spent(), state.counters.step
        over = seconds >= 60 * cpu_minutes
        if over or step == config.train.steps or step % every == 0:
            errors, loss = _errors(predict(state.system, chosen.past), chosen, held_out.rate), float(outcome.losses["loss"])
            ratio = sum(errors[name] / floor[name] for name in floor) / 2
            curve.append({"step": step, "loss": loss, **errors, "ratio": ratio, "cpu_s": seconds})
            note(f"step {step}: loss {loss:.4f}, held out {errors['mpjpe_cm']:.2f} cm, "
                 f"{errors['mpjve_cm_s']:.1f} cm/s ({ratio:.3f} of zero velocity), {seconds / 60:.1f} CPU min")  # fmt: skip
        return over

    report, _ = run(config, look)
    best = min(curve, key=lambda point: point["ratio"])
    held = {"chosen": best, "zero_velocity": floor, "windows": len(chosen)}
    return {**report, "chosen_step": best["step"], "curve": curve, "held_out": held}


def run(config: "Config", ended: "AfterStep") -> tuple[dict[str, Any], Any]:
    """Train anew, in this process alone, to the end or until ``ended``: what happened, and the system."""
    import torch

    from internlm.core.mesh import Mesh
    from internlm.train.loop import CALLER, train

    spent, wall = _clock(), time.monotonic()
    with torch.random.fork_rng(devices=[]):
        result = train(config, resume=False, after_step=ended, mesh=Mesh())
    if result.stopped_by not in (None, CALLER):
        raise EvalError(f"{result.run_dir} was stopped by {result.stopped_by}; the same command trains this method anew")
    modules = [part.module for part in result.state.system.parts().values() if part.trained]
    report = {
        "parameters": sum(p.numel() for module in modules for p in module.parameters()),
        "steps": result.step,
        "steps_planned": config.train.steps,
        "cpu_seconds": spent(),
        "wall_seconds": time.monotonic() - wall,
        "seed": config.seed,
    }
    return report, result.state.system


def predict(system: "Predicts", past: np.ndarray, batch: int = 256, samples: int = 1) -> np.ndarray:
    """past float64 [N, I, J, 3] -> float64 [N, O, J, 3], in pieces."""
    import torch

    pieces = [torch.from_numpy(past[i : i + batch]) for i in range(0, len(past), batch)]
    return torch.cat([system.predict({POSES: piece}, samples=samples)[POSES].double().cpu() for piece in pieces]).numpy()


def _config(
    file: Path, overrides: Sequence[str], fixed: dict[str, Any], run_dir: Path | None = None, takes: str = "all"
) -> "Config":
    """A method's recipe, trained in this process on its CPU, whose time can be counted."""
    import torch

    here = {
        "run_dir": run_dir and str(run_dir), "forecaster.takes": takes, "data.workers": 0, "train.device": "cpu",
        "train.threads": torch.get_num_threads(), "monitor.tensorboard": False, "monitor.progress": False,
    }  # fmt: skip
    return load_config(file, [*overrides, *(f"{key}={json.dumps(value)}" for key, value in (fixed | here).items())])


def _clock() -> Callable[[], float]:
    """CPU seconds of this process from now on."""
    began = time.process_time()
    return lambda: time.process_time() - began


def _errors(prediction: np.ndarray, data: Windows, rate: float) -> dict[str, float]:
    return {
        "mpjpe_cm": pooled(position_error(prediction, data.future), data.visible),
        "mpjve_cm_s": pooled(velocity_error(prediction, data.future, rate), moving(data.visible)),
    }
