#!/usr/bin/env python3
"""Does a change leave training bit for bit as it was? Trains two revisions on the same data and compares what they leave.

    python tools/same_losses.py BEFORE [AFTER]      # commits, branches or folders; AFTER: this checkout as it is

Both stages, one process and dp2 x tp2, 20 steps with accumulation 2. Compared are losses, gradient norms and schedules of each
step, and every tensor of the last checkpoint. Exit code 0: equal in all bits; 1: not, with the first difference of each run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

STEPS = 20
SHAPE = """
model = dict(
    hidden_size=32, num_layers=2, num_heads=4, mlp_multiple_of=16, init_std=0.05, image_size=32, local_image_size=16,
    patch_size=16, stem_norm="batch", pose_target="offset", pose_context=True, prototypes=64, head_hidden=32, head_bottleneck=16,
)
optim = dict(lr=2e-3, momentum=0.99)
monitor = dict(tensorboard=False, progress=False, health_every=5)
"""
STAGES = {
    "pretrain": """
stage = "pretrain"
loss = dict(targets="sinkhorn", koleo_weight=0.1, row_chunk=16)
data = dict(images=["world"], workers=0, crops=dict(local_crops=2))
train = dict(steps={steps}, image_batch={batch}, accumulation=2, log_every=1, checkpoint_every=100, threads=1)
""",
    "joint": """
stage = "joint"
loss = dict(row_chunk=16)
data = dict(
    images=["world"], clips=["world"], workers=0, crops=dict(local_crops=2),
    clip=dict(steps=3, frame_stride=5, color_jitter=0.5, crop_scale=(0.7, 1.0)),
)
train = dict(steps={steps}, image_batch={batch}, clip_batch={batch}, accumulation=2, log_every=1, checkpoint_every=100, threads=1)
""",
}
MESHES = {"one process": [], "dp2 x tp2": ["parallel.dp_shard=2", "parallel.tp=2"]}
SAMPLES = 8  # of each kind in a step, on all processes together
# Figures that depend on the clock or the machine.
TIMED = ("time/", "memory/", "seconds", "images_per_s", "tokens_per_s", "data_share", "probe", "mfu", "slowest", "rank")
PARTS = ("predictor", "observer", "loss", "optimizer")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after", nargs="?", default=str(ROOT))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, checkout(args.before) as before, checkout(args.after) as after:
        work, faults = Path(folder), 0
        egoagent(before, work, ["world", "world", "--takes=3", "--val-takes=1", "--test-takes=1", "--seconds=4", "--size=48"])
        for stage, text in STAGES.items():
            for mesh, overrides in MESHES.items():
                name = f"{stage}, {mesh}"
                processes = 4 if overrides else 1
                batch = SAMPLES // (2 if overrides else 1)
                config = work / f"{stage}_{processes}.py"
                config.write_text(SHAPE + text.format(steps=STEPS, batch=batch))
                runs = []
                for tree, which in ((before, "before"), (after, "after")):
                    run = work / f"{which}_{stage}_{processes}"
                    egoagent(tree, work, ["train", str(config), f"--run-dir={run}", *overrides], processes)
                    runs.append(run)
                difference = compare(*runs)
                faults += difference is not None
                print(f"{name}: {difference or f'{STEPS} steps equal in all bits'}", flush=True)
    return 1 if faults else 0


@contextmanager
def checkout(name: str) -> Iterator[Path]:
    """A folder as it is, or a revision of this repository in a folder of its own."""
    if Path(name).is_dir():
        yield Path(name).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--quiet", "--detach", str(tree), name], check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)], check=True)


def egoagent(tree: Path, work: Path, words: list[str], processes: int = 1) -> None:
    """Run a command of a tree in ``work``."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, "-m", "internlm.cli", *words]
    result = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{tree}: egoagent {' '.join(words)} ended with {result.returncode}:\n{result.stderr[-3000:]}")


def compare(before: Path, after: Path) -> str | None:
    """The first difference of two runs, or None."""
    from internlm.checkpoint.manager import find_checkpoint

    figures = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (before, after)]
    if len(figures[0]) != len(figures[1]):
        return f"{len(figures[0])} records before, {len(figures[1])} after"
    for old, new in zip(*figures, strict=True):
        names = [name for name in old if not name.startswith(TIMED)]
        absent = [name for name in names if name not in new]
        if absent:
            return f"step {old['step']}: {', '.join(absent)} no longer logged"
        for name in names:
            if old[name] != new[name]:
                return f"step {old['step']}: {name} was {old[name]!r}, is {new[name]!r}"
    parts = [find_checkpoint(run, PARTS).parts for run in (before, after)]
    for part in PARTS:
        old, new = parts[0][part], parts[1][part]
        if old.keys() != new.keys():
            return f"{part} holds other tensors: {sorted(old.keys() ^ new.keys())[:5]}"
        for name, tensor in old.items():
            if tensor.dtype != new[name].dtype or not tensor.equal(new[name]):
                return f"{part}.{name} differs after {STEPS} steps"
    return None


if __name__ == "__main__":
    sys.exit(main())
