"""Swinging, walking figures as take stores, and small forecasters on them."""

import re
from pathlib import Path

import numpy as np

from internlm.config.load import load_config
from internlm.data.store import COCO_JOINTS, PoseTrack, StoreWriter, TakeInfo

ROOT = Path(__file__).resolve().parents[2]
FILES = {"simlpe": "simlpe.py", "diffusion_policy": "diffusion_policy.py", "egoagent": "cmu.py"}
POSE_ONLY = ("model.hidden_size=16", "model.num_layers=2", "model.num_heads=2", "model.poses_per_step=5")


def figure(frames: int, seed: int) -> np.ndarray:
    """COCO joints [frames, 17, 3] of one person who walks along y, each but the hips on a sine of its own."""
    rng, time = np.random.default_rng(seed), np.arange(frames)[:, None] / 30
    base = np.random.default_rng(0).normal(size=(17, 3)) * 0.2 + np.array([0, 0, 1.2])
    base[11], base[12] = (0.1, 0, 1), (-0.1, 0, 1)
    swing = 0.1 * np.sin(2 * np.pi * (time + rng.random((1, 17))))[..., None] * np.array([0, 1, 0])
    swing[:, 11:13] = 0  # the hips face one way
    return base + swing + np.array([0, 1.0, 0]) * time[..., None] + rng.normal(size=3)


def motion_store(path: Path, takes: int = 4, tests: int = 1, frames: int = 70) -> Path:
    """A store of that many training and test takes, of one action, without images."""
    for number in range(takes + tests):
        split, name = ("train", f"t{number}") if number < takes else ("test", f"u{number - takes}")
        joints, seen = figure(frames, number).astype(np.float32), np.ones((frames, 17), bool)
        track = PoseTrack(np.arange(frames), joints, seen, np.zeros(0, int), np.zeros((0, 4, 4)))
        StoreWriter(path).add_take(TakeInfo(name, name, split, 30.0, None, "world", {"action": "walk"}), (), track)
    return path


def motion_file(path: Path, recordings: dict[str, np.ndarray]) -> Path:
    """A motion file (npz) of recordings [F, 17, 3] by name, which may begin with ``train/`` or ``test/``."""
    lengths = [len(joints) for joints in recordings.values()]
    joints = np.concatenate(list(recordings.values()))
    np.savez(path, pos_m=joints, joint_names=COCO_JOINTS, fps=30.0, up="z", names=list(recordings), lengths=lengths)
    return path


def forecaster_config(method: str, store: Path, run_dir: Path | None = None, *overrides: str):
    """A run of 8 steps at toy size: 10 poses in, 5 out, 17 joints."""
    small = POSE_ONLY if method == "egoagent" else ()
    return load_config(
        ROOT / "configs" / "motion" / FILES.get(method, "floors.py"),
        [
            f"forecaster.method={method}", "forecaster.past=10", "forecaster.future=5", f"data.clips=[{store}]",
            "model.num_joints=17",
            *(() if run_dir is None else (f"run_dir={run_dir}",)), "data.workers=0", "train.threads=1", "train.steps=8", *small,
            "train.clip_batch=4", "train.checkpoint_every=3", "train.log_every=1", "monitor.tensorboard=false", *overrides,
        ],
    )  # fmt: skip


def bvh_text(frames: int = 8, rate: float = 120.0, yaw: float = 0.0) -> str:
    """A standing figure of 1.7 m in centimetres, hips turned by ``yaw`` degrees about the vertical."""

    def joint(name, offset, inside="", depth=1):
        channels = "CHANNELS 3 Zrotation Yrotation Xrotation"
        inside = inside or "End Site\n{\nOFFSET 0 -5 0\n}\n"
        return f"JOINT {name}\n{{\nOFFSET {offset}\n{channels}\n{inside}}}\n"

    def side(name, x):
        leg = joint(f"{name}UpLeg", f"{x} 0 0", joint(f"{name}Leg", "0 -42 0", joint(f"{name}Foot", "0 -41 0")))
        arm = joint(f"{name}Arm", f"{2 * x} 45 0", joint(f"{name}ForeArm", "0 -30 0", joint(f"{name}Hand", "0 -25 0")))
        return leg + arm

    tree = side("Left", 10) + side("Right", -10) + joint("Neck", "0 50 0", joint("Head", "0 10 0"))
    root = f"ROOT Hips\n{{\nOFFSET 0 0 0\nCHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation\n{tree}}}\n"
    joints = 1 + len(re.findall("JOINT", root))
    rows = [" ".join(map(str, [f, 92.0, 0.0, 0.0, yaw, 0.0] + [0.0] * 3 * (joints - 1))) for f in range(frames)]
    return f"HIERARCHY\n{root}MOTION\nFrames: {frames}\nFrame Time: {1 / rate:.7f}\n" + "\n".join(rows) + "\n"
