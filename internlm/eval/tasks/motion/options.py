"""Options of the evaluation of body motion."""

from dataclasses import dataclass

from ...options import ClipOptions, option, real, whole


@dataclass(frozen=True, kw_only=True)
class MotionOptions(ClipOptions):
    """Where clips are cut for the roll-out, and what it stands beside."""

    observed: int | None = option(None, "steps of a clip observed before the roll-out (default: half)", type=whole(1))
    no_rollout: bool = option(False, "the teacher-forced next chunk alone")
    baselines: tuple[str, ...] = option(
        (), "train these on the run's training takes: ridge, simlpe, diffusion_policy", nargs="+", metavar="NAME"
    )
    baseline_data: tuple[str, ...] = option((), "take stores whose training takes they see (default: the run's)", nargs="+")
    cpu_minutes: float = option(20.0, "CPU time that one baseline may train", type=real(0, inner=True))
    baseline_steps: int | None = option(None, "training steps of a baseline (default: its recipe's)", type=whole(1))
    seed: int = option(0, "of the baselines", type=whole(0))
