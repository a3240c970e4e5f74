"""Every way to forecast motion that the comparisons know, trained by one call on the same takes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from internlm.systems.egoagent.config import EgoAgentConfig as Config

from ..errors import EvalError
from .baselines.velocity import constant_velocity, zero_velocity
from .data import MotionData

Note = Callable[[str], None]
TITLES = {
    "zero_velocity": "zero velocity",
    "constant_velocity": "constant velocity",
    "ridge": "ridge regression",
    "simlpe": "siMLPe",
    "diffusion_policy": "diffusion policy (transformer)",
    "egoagent": "EgoAgent, poses only",
}
BASELINES = tuple(name for name in TITLES if name != "egoagent")
SAMPLES = 8  # draws whose mean is also reported for the diffusion policy


@dataclass(frozen=True)
class Forecaster:
    """``forecast``: past float64 [N, I, J, 3] (metres, canonical) -> [N, O, J, 3]; ``report`` says how it was made."""

    name: str
    forecast: Callable[[np.ndarray], np.ndarray]
    report: dict[str, Any]
    module: Any = None  # torch.nn.Module of the trained ones
    variants: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = ()


def make(
    name: str, train: MotionData, held_out: MotionData, *, past: int, future: int, seed: int, config: Config | None = None,
    cpu_minutes: float = 20.0, steps: int | None = None, note: Note = lambda line: None,
) -> Forecaster:  # fmt: skip
    """Train (where there is something to train) the forecaster ``name`` of ``TITLES``.

    ``train`` and ``held_out`` are in the frame that predictions are made in: a first training on ``train`` chooses, on
    ``held_out``, how long to train; a second one on both ends there. ``config``: a pose-only run, needed for ``egoagent``.
    ``steps`` replaces the recipe's. Raises EvalError for an unknown name or a missing config.
    """
    if name == "zero_velocity":
        return Forecaster(name, lambda poses: zero_velocity(poses, future), {})
    if name == "constant_velocity":
        return Forecaster(name, lambda poses: constant_velocity(poses, future), {})
    if name == "ridge":
        from .baselines.ridge import Ridge

        ridge = Ridge(future)
        return Forecaster(name, report=ridge.fit(train, held_out, past), forecast=ridge.predict)
    if name not in TITLES:
        raise EvalError(f"method {name!r} is unknown; choose from {', '.join(TITLES)}")
    return _trained(name, train, held_out, past, future, seed, config, cpu_minutes, steps, note)


def _trained(
    name: str, train: MotionData, held_out: MotionData, past: int, future: int, seed: int, config: Config | None,
    cpu_minutes: float, steps: int | None, note: Note,
) -> Forecaster:  # fmt: skip
    import torch

    from .baselines.fit import fit, predict

    def build() -> tuple:
        torch.manual_seed(seed)
        return _networks(name, past, future, len(train.joints), config)

    with torch.random.fork_rng(devices=[]):
        module, loss, forecasts, recipe = build()
        # Half of the time chooses when to stop, half trains on all takes until there.
        recipe = replace(recipe, cpu_minutes=cpu_minutes / 2, steps=steps or recipe.steps)
        recipe = replace(recipe, evaluate_every=min(recipe.evaluate_every, max(recipe.steps // 10, 1)))
        spans = {"past": past, "future": future, "recipe": recipe, "seed": seed}
        chosen = fit(module, loss, forecasts[name], train, held_out, note=note, **spans)
        module, loss, forecasts, _ = build()
        everything = replace(train, tracks=train.tracks + held_out.tracks)
        final = fit(module, loss, forecasts[name], everything, None, stop_at=chosen["chosen_step"], **spans)
    report = {**final, "cpu_seconds": chosen["cpu_seconds"] + final["cpu_seconds"], "selection": chosen}
    if name == "egoagent":
        report["config"] = config.model_dump(mode="json", include={"model", "optim"})
    run = {key: lambda poses, f=f: predict(module, f, poses) for key, f in forecasts.items()}
    return Forecaster(name, run.pop(name), report, module, tuple(run.items()))


def _networks(name: str, past: int, future: int, joints: int, config: Config | None) -> tuple:
    """Fresh network, its loss, its forecasts by name, its recipe."""
    from internlm.config.schema import OptimConfig

    from .baselines.fit import Recipe, motion_loss

    size = 3 * joints
    optim = OptimConfig(lr=5e-4, final_lr=5e-6, warmup_share=0.05, weight_decay=1e-2)
    if name == "simlpe":
        from .baselines.simlpe import SiMLPe

        def predict(module, poses):
            return module(poses.flatten(2)).unflatten(2, (-1, 3))

        def loss(module, poses, target, visible):
            return motion_loss(predict(module, poses), target, visible, poses[:, -1:])

        return SiMLPe(size, past, future), loss, {name: predict}, Recipe(steps=400, optim=optim, evaluate_every=50)
    if name == "diffusion_policy":
        from .baselines.diffusion import DiffusionPolicy

        def draws(samples):
            return lambda module, poses: module.sample(poses.flatten(2), samples=samples).unflatten(2, (-1, 3))

        def noise_loss(module, poses, target, visible):
            return module.loss(poses.flatten(2), target.flatten(2), visible.repeat_interleave(3, -1))

        forecasts = {name: draws(1), f"{name}_mean_of_{SAMPLES}": draws(SAMPLES)}
        return DiffusionPolicy(size, past, future), noise_loss, forecasts, Recipe(steps=2000, optim=optim)
    from internlm.systems.egoagent.network import EgoNetwork

    from . import pose_agent

    if config is None or config.model.use_images:
        raise EvalError("egoagent without images needs a config with model.use_images False, as configs/motion/cmu.py")
    model = config.model.model_copy(update={"num_joints": joints})
    recipe = Recipe(steps=config.train.steps, batch=config.train.clip_batch, optim=config.optim, evaluate_every=50)
    return EgoNetwork(model), pose_agent.loss, {name: lambda module, poses: pose_agent.roll_out(module, poses, future)}, recipe
