"""Options of the evaluation of body motion and of the benchmark of forecasters."""

from dataclasses import dataclass
from pathlib import Path

from ...options import Checked, ClipOptions, option, real, whole


@dataclass(frozen=True, kw_only=True)
class MotionOptions(ClipOptions):
    """Where clips are cut for the roll-out, and what it stands beside."""

    observed: int | None = option(None, "steps of a clip observed before the roll-out (default: half)", type=whole(1))
    no_rollout: bool = option(False, "the teacher-forced next chunk alone")
    baselines: tuple[str, ...] = option((), "train these on the run's takes: ridge, simlpe, diffusion_policy", nargs="+")
    baseline_data: tuple[str, ...] = option((), "take stores whose training takes they see (default: the run's)", nargs="+")
    cpu_minutes: float = option(20.0, "CPU time that one baseline may train", type=real(0, inner=True))
    baseline_steps: int | None = option(None, "training steps of a baseline (default: its recipe's)", type=whole(1))
    seed: int = option(0, "of the baselines", type=whole(0))


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Checked):
    """What is predicted from what, by which methods, and where the results go."""

    data: tuple[str, ...] = option(("cmu",), "the CMU benchmark, or motion files (.npz, .bvh, .amc) or take stores", nargs="+")
    actions: str = option("standard", "of cmu: all = with the extra walks", choices=("standard", "all"))
    methods: tuple[str, ...] = option((), "default: all; earlier results in --out stay in the table", nargs="+")
    frame: str = option("root", "poses relative to their root, or world", choices=("root", "world"))
    past: int = option(30, "observed frames", type=whole(1))
    future: int = option(30, "predicted frames", type=whole(1))
    stride: int = option(10, "frames between test windows", type=whole(1))
    config: str | None = option(None, "recipe of the pose-only EgoAgent (default configs/motion/cmu.py of the source tree)")
    overrides: tuple[str, ...] = option((), "values laid over that recipe", "--set", nargs="+", metavar="section.key=value")
    steps: int | None = option(None, "training steps of every trained method (default: its recipe's)", type=whole(1))
    cpu_minutes: float = option(20.0, "CPU time that one method may train", type=real(0, inner=True))
    threads: int = option(1, "CPU threads (default 1: the same numbers every time)", type=whole(1))
    seed: int = option(0, type=whole(0))
    again: bool = option(False, "train and measure anew what --out already has")
    out: Path = option(Path("runs/bench_motion"), "folder", type=Path)
