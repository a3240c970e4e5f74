"""Every quantity that changes during a run, as a pure function of the optimizer step k in [0, K) (spec §5.1, §2.7).

Nothing here has state: a resumed run continues its schedules because it knows its step.
"""

import math
from collections.abc import Callable

from internlm.config.schema import OptimConfig


def optimizer_schedules(optim: OptimConfig, steps: int) -> dict[str, Callable[[int], float]]:
    """Learning rate and weight decay of a run of so many steps."""
    return {
        "lr": lambda step: learning_rate(step, steps, peak=optim.lr, final=optim.final_lr, warmup_share=optim.warmup_share),
        "weight_decay": lambda step: cosine(step, steps, optim.weight_decay, optim.weight_decay_end),
    }


def learning_rate(step: int, steps: int, *, peak: float, final: float, warmup_share: float) -> float:
    """Linear warm-up peak·(k+1)/W over W = int(share·K) steps, then a cosine from peak to final over K−W."""
    warmup = int(warmup_share * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    return cosine(step - warmup, steps - warmup, peak, final)


def cosine(step: int, steps: int, start: float, end: float) -> float:
    """end − (end − start)·(1 + cos(πk/K))/2; ``end`` from step K on. Weight decay and observer momentum follow it."""
    if step >= steps:
        return end
    return end - (end - start) * (1 + math.cos(math.pi * step / steps)) / 2


def teacher_temperature(step: int, steps: int, *, start: float, end: float, share: float) -> float:
    """Linear from start at step 0 to end at step int(share·K), constant after."""
    warmup = int(share * steps)
    return end if step >= warmup else start + (end - start) * step / warmup
