"""One way to train every forecaster with weights: same windows, same augmentation, same selection, a budget of CPU time."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from internlm.config.schema import OptimConfig
from internlm.solver.clip import clip_grad_norm
from internlm.solver.ema import MovingAverage
from internlm.solver.optim import build_optimizer, set_step_values
from internlm.solver.schedule import learning_rate

from ..data import SELECTION_STRIDE, MotionData, Windows, canonical, windows
from ..metrics import moving, pooled, position_error, velocity_error
from .velocity import zero_velocity

SPEED_WEIGHT = 5.0  # a step between poses is a few millimetres where a pose is centimetres off
Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]  # module, past, future, visible -> scalar
Forecast = Callable[[nn.Module, Tensor], Tensor]  # module, past [N, I, J, 3] -> [N, O, J, 3]


@dataclass(frozen=True)
class Recipe:
    """How long and how fast. ``average``: decay of the moving average of the weights, which is what is evaluated."""

    steps: int
    batch: int = 64
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-3, final_lr=1e-5, warmup_share=0.05))
    average: float = 0.998
    evaluate_every: int = 250
    scale: float = 0.1  # body size is changed by up to this share
    cpu_minutes: float = 20.0


class WindowSampler:
    """Random training windows: any start in any take, mirrored half of the time, scaled."""

    def __init__(self, data: MotionData, past: int, future: int, scale: float, seed: int):
        self.data, self.past, self.span, self.scale = data, past, past + future, scale
        self.joints = np.concatenate([track.joints for track in data.tracks]).astype(np.float32)
        self.visible = np.concatenate([track.visible for track in data.tracks])
        lengths = np.array([len(track.joints) for track in data.tracks])
        firsts = np.cumsum(lengths) - lengths
        self.starts = np.concatenate([f + np.arange(max(n - self.span + 1, 0)) for f, n in zip(firsts, lengths)])
        self.mirrored, self.rng = data.mirrored, np.random.default_rng(seed)

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """past [B, I, J, 3], future [B, O, J, 3], visible bool [B, O, J], canonical."""
        rows = self.rng.choice(self.starts, count)[:, None] + np.arange(self.span)
        joints, visible = self.joints[rows], self.visible[rows]
        flip = self.rng.random(count) < 0.5
        joints[flip] = joints[flip][:, :, self.mirrored] * np.array([-1, 1, 1], np.float32)
        visible[flip] = visible[flip][:, :, self.mirrored]
        joints *= self.rng.uniform(1 - self.scale, 1 + self.scale, (count, 1, 1, 1)).astype(np.float32)
        joints = torch.from_numpy(canonical(joints, self.past, self.data).astype(np.float32))
        seen = visible[:, self.past :] & visible[:, self.past - 1 : self.past]
        return joints[:, : self.past], joints[:, self.past :], torch.from_numpy(seen)


def motion_loss(
    prediction: Tensor, future: Tensor, visible: Tensor, last: Tensor, speed_weight: float = SPEED_WEIGHT
) -> Tensor:
    """Mean joint distance plus ``speed_weight`` x the mean distance of the steps between poses, metres.

    ``prediction``, ``future`` [B, O, J, 3], ``visible`` [B, O, J], ``last`` [B, 1, J, 3] the last observed pose.
    """
    error = prediction - future
    steps = torch.diff(error, dim=1, prepend=torch.zeros_like(last))
    both = visible & torch.cat((visible[:, :1], visible[:, :-1]), dim=1)
    place, speed = (torch.sqrt(e.square().sum(-1) + 1e-12) for e in (error, steps))
    speed_error = (speed * both).sum() / both.sum().clamp(min=1)
    return (place * visible).sum() / visible.sum().clamp(min=1) + speed_weight * speed_error


def fit(
    module: nn.Module,
    loss: Loss,
    forecast: Forecast,
    train: MotionData,
    held_out: MotionData | None,
    *,
    past: int,
    future: int,
    recipe: Recipe,
    seed: int,
    stop_at: int | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> dict:
    """Train ``module`` in place and leave the weights that were best on the held-out takes (without any: the last ones).

    The measure of selection is the mean of MPJPE and MPJVE, each over its value at zero velocity. Training ends after
    ``recipe.steps`` (or ``stop_at`` of them, on the same schedule) or when the process has used ``recipe.cpu_minutes`` more of
    CPU time. Returns what happened.
    """
    chosen = held_out and windows(held_out, past, future, SELECTION_STRIDE)
    floor = held_out and _errors(zero_velocity(chosen.past, future), chosen, held_out.rate)
    sampler = WindowSampler(train, past, future, recipe.scale, seed)
    optimizer = build_optimizer(module, recipe.optim)
    averaged = copy.deepcopy(module).requires_grad_(False).train()
    average = MovingAverage(module, averaged)
    parameters = [p for p in module.parameters() if p.requires_grad]
    cpu, wall, curve, best = time.process_time(), time.monotonic(), [], None
    for step in range(recipe.steps):
        optim = recipe.optim
        lr = learning_rate(step, recipe.steps, peak=optim.lr, final=optim.final_lr, warmup_share=optim.warmup_share)
        set_step_values(optimizer, step=step, lr=lr, weight_decay=optim.weight_decay)
        optimizer.zero_grad(set_to_none=True)
        value = loss(module, *sampler.draw(recipe.batch))
        value.backward()
        clip_grad_norm([p for p in parameters if p.grad is not None], recipe.optim.grad_clip)
        optimizer.step()
        average.update(min(recipe.average, (step + 1) / (step + 10)))
        spent = time.process_time() - cpu
        last = step + 1 == (stop_at or recipe.steps) or spent >= 60 * recipe.cpu_minutes
        if held_out and (last or (step + 1) % recipe.evaluate_every == 0):
            errors = _errors(predict(averaged, forecast, chosen.past), chosen, held_out.rate)
            ratio = sum(errors[name] / floor[name] for name in floor) / 2
            curve.append({"step": step + 1, "loss": float(value.detach()), **errors, "ratio": ratio, "cpu_s": spent})
            note(f"step {step + 1}: loss {curve[-1]['loss']:.4f}, held out {errors['mpjpe_cm']:.2f} cm, "
                 f"{errors['mpjve_cm_s']:.1f} cm/s ({ratio:.3f} of zero velocity), {spent / 60:.1f} CPU min")  # fmt: skip
            if best is None or ratio < best["ratio"]:
                best, weights = curve[-1], {name: value.clone() for name, value in averaged.state_dict().items()}
        if last:
            break
    module.load_state_dict(weights if held_out else averaged.state_dict())
    module.eval()
    report = {
        "parameters": sum(p.numel() for p in parameters),
        "steps": step + 1,
        "steps_planned": stop_at or recipe.steps,
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.monotonic() - wall,
        "seed": seed,
    }
    if held_out:
        report |= {"chosen_step": best["step"], "curve": curve}
        report["held_out"] = {"chosen": best, "zero_velocity": floor, "windows": len(chosen)}
    return report


@torch.no_grad()
def predict(module: nn.Module, forecast: Forecast, past: np.ndarray, batch: int = 256) -> np.ndarray:
    """past float64 [N, I, J, 3] -> float64 [N, O, J, 3], in pieces."""
    training = module.training
    module.eval()
    pieces = [forecast(module, torch.from_numpy(past[i : i + batch]).float()) for i in range(0, len(past), batch)]
    module.train(training)
    return torch.cat(pieces).double().numpy()


def _errors(prediction: np.ndarray, data: Windows, rate: float) -> dict[str, float]:
    return {
        "mpjpe_cm": pooled(position_error(prediction, data.future), data.visible),
        "mpjve_cm_s": pooled(velocity_error(prediction, data.future, rate), moving(data.visible)),
    }
