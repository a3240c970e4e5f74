"""How long a save holds up training: python benchmarks/checkpoint.py [--folder DIR] [--repeats 5]

Prints, for one training state (predictor, observer, centres, both moments of every parameter) in one run, in wall-clock seconds:
- sync: until ``Saver.begin`` returns, the checkpoint on the disk, flushed;
- async: with ``train.async_save``, until it returns, and the wait before the next optimizer step, where a fixed computation
  stands for the forward and backward pass in between; the first one also allocates the memory of the copy;
- copied: what it would be if the copy had to be done before training goes on;
- what the thread needs until the checkpoint is complete, and how much slower the computation runs beside it;
- loading: checking every byte, and filling the state.
Sync and async saves take turns, so that other work on the machine meets both alike; the medians are compared.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from internlm.checkpoint.background import BackgroundSaver
from internlm.config.resolve import parse_config
from internlm.config.schema import Config
from internlm.core.mesh import Mesh
from internlm.train.saving import Saver
from internlm.train.state import TrainState, build_state

MODEL = {
    "hidden_size": 384, "num_layers": 6, "num_heads": 6, "mlp_multiple_of": 64, "image_size": 96, "local_image_size": 48,
    "head_hidden": 1024, "prototypes": 8192,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the checkpoints go (default: the system's temporary folder)")
    parser.add_argument("--repeats", type=int, default=5, help="saves of each kind (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        savers = {kind: saver(Path(folder) / kind, device, asynchronous=kind == "async") for kind in ("sync", "async")}
        state = build_state(configured(folder), device)
        state.engine.zero_grad()
        state.engine.clipped_norm()  # gradients of zero, so that the optimizer has its states
        state.engine.optimizer.step()
        report(state, savers, args.repeats)


def configured(folder: str | Path, *, asynchronous: bool = False) -> Config:
    return parse_config({"run_dir": str(folder), "model": MODEL, "train": {"async_save": asynchronous}})


def saver(folder: Path, device: torch.device, *, asynchronous: bool) -> Saver:
    return Saver(configured(folder, asynchronous=asynchronous), folder, device, Mesh())


def report(state: TrainState, savers: dict[str, Saver], repeats: int) -> None:
    size = sum(piece.tensor.nbytes for part in state.shares().values() for share in part.values() for piece in share.pieces)
    print(f"state: {size / 1e6:.0f} MB on {state.device}")
    first = seconds(lambda: savers["async"].begin(state, {}))
    savers["async"].finish()
    alone = median(computation() for _ in range(3))
    times: dict[str, list[float]] = {"sync": [], "async": [], "copied": [], "thread": [], "beside": []}
    plain = BackgroundSaver(savers["async"].manager)
    plain.start(0, state.shares(), {})
    plain.wait()
    for repeat in range(repeats):
        state.counters.step = repeat + 1
        times["sync"].append(seconds(lambda: savers["sync"].begin(state, {})))
        began = time.perf_counter()
        blocked = seconds(lambda: savers["async"].begin(state, {}))
        times["beside"].append(computation())
        times["async"].append(blocked + seconds(savers["async"].before_step))
        savers["async"].finish()
        times["thread"].append(time.perf_counter() - began)
        times["copied"].append(seconds(lambda: plain.start(state.counters.step, state.shares(), {})))
        plain.wait()
    for name, values in times.items():
        print(f"{name}: median {median(values):.3f} s of {', '.join(f'{value:.3f}' for value in values)}")
    print(f"first async save: {first:.3f} s; the computation alone: {alone:.3f} s")
    for name in ("async", "copied"):
        print(f"blocked, {name} / sync: {median(times[name]) / median(times['sync']):.4f}")
    manager = savers["sync"].manager
    found = manager.load()
    print(f"load: check {seconds(manager.load):.3f} s, fill {seconds(lambda: state.restore(found)):.3f} s")


def computation() -> float:
    """Seconds of a fixed computation, about a second on an idle core."""
    a = torch.randn(512, 512)
    return seconds(lambda: [torch.mm(a, a) for _ in range(150)])


def seconds(action) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
