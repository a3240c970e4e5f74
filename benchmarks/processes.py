"""What a second process brings on a CPU: python benchmarks/processes.py [--steps 60 --batch 48]

Stage 1 of the demo, by one process and by two that share its batch, one thread each, on the same world in one run: seconds a step
(median of the logged ones) and the last loss. Two processes are copies (``dp_replicate``) or hold half of everything
(``dp_shard``). Run it on a machine that does nothing else: processes that wait for each other show every disturbance.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from internlm.egoworld.simulate import generate_store

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "dino_pretrain" / "demo.py"
MESHES = {"one process": {}, "two copies": {"dp_replicate": 2}, "two shards": {"dp_shard": 2}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=48, help="images a step, of all processes together")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        generate_store(Path(folder) / "world", {"train": 8}, seed=1, size=96, seconds=30, image_stride=15, jobs=2)
        found = {name: train(Path(folder), mesh, args) for name, mesh in MESHES.items()}
    alone = found["one process"]["seconds_per_step"]
    for figures in found.values():
        figures["speed_up"] = round(alone / figures["seconds_per_step"], 2)
    print(json.dumps(found, indent=1))


def train(folder: Path, mesh: dict[str, int], args: argparse.Namespace) -> dict[str, float]:
    run, processes = folder / "_".join(["run", *mesh]), 2 if mesh else 1
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"] if mesh else []
    values = {f"parallel.{axis}": size for axis, size in mesh.items()} | {
        "run_dir": run,
        "data.images": json.dumps([str(folder / "world")]),
        "train.steps": args.steps,
        "train.threads": 1,
        "train.image_batch": args.batch // processes,
        "train.log_every": 1,
        "train.checkpoint_every": 10 * args.steps,
        "monitor.tensorboard": "false",
        "monitor.progress": "false",
    }
    words = ["internlm.cli", "train", str(CONFIG), *(f"{key}={value}" for key, value in values.items())]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    subprocess.run([sys.executable, "-m", *launcher, *words], check=True, **quiet)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = median(record["seconds_per_step"] for record in records[len(records) // 4 :])
    return {"seconds_per_step": round(seconds, 4), "last_loss": records[-1]["loss"]}


if __name__ == "__main__":
    main()
