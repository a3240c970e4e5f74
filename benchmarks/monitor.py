"""What watching a run costs: python benchmarks/monitor.py [--steps 30]

Prints, in processor seconds of one thread, for a stage-2 step of the demo's model size:
- a step with the clocks of the phases and the probe, beside the same step without them, by turns: the ratio of the medians;
- what marking the phases and probing costs by itself, and its share of the step;
- what a logged step costs more (figures fetched, memory read, records and TensorBoard written), and its share at log_every=10.
"""

import argparse
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "samples"))

from train_samples import both, clip_batch, image_batch, tiny_config

from internlm.monitor.clock import Clock, Probe
from internlm.train.reporting import Report
from internlm.train.state import build_state
from internlm.train.step import TrainStep

CPU = torch.device("cpu")
SIZE = {"hidden_size": 128, "num_layers": 4, "num_heads": 4, "mlp_multiple_of": 64, "prototypes": 512}


class NoClock(Clock):
    """Phases that nobody times."""

    @contextmanager
    def phase(self, name):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="steps of each kind (default: %(default)s)")
    count = parser.parse_args().steps
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        monitor = {"tensorboard": True, "health_every": 10**6}
        config = tiny_config(folder, model=SIZE, train={"accumulation": 2, "log_every": 10**6, "steps": 10**6}, monitor=monitor)
        state, clock = build_state(config, CPU), Clock(CPU)
        step = TrainStep(config, state, Path(folder), torch.float32, clock)
        blocks = state.system.agent.predictor.backbone.blocks
        watched, plain = [], []
        for number in range(count + 3):
            probe = Probe(blocks[len(blocks) // 2].mlp, CPU)
            step.clock = clock
            watched.append(spent(lambda number=number: step(both(image_batch(number), clip_batch(number)))))
            probe.close()
            step.clock = NoClock(CPU)
            plain.append(spent(lambda number=number: step(both(image_batch(number), clip_batch(number)))))
        watched, plain = median(watched[3:]), median(plain[3:])
        print(f"step, watched / plain: {1e3 * watched:.2f} / {1e3 * plain:.2f} ms, ratio {watched / plain:.3f}")
        marks = 2 + 2 * 4 + 6  # data and optimizer, forward and backward of four pieces, the probe's calls
        mark = spent(lambda: [phase(clock) for _ in range(10_000)]) / 10_000
        print(f"marks: {marks} of {1e6 * mark:.2f} us a step, {marks * mark / plain:.3%} of it")
        with Report(config, Path(folder), state, clock, torch.float32) as report:
            outcome = step(both(image_batch(0), clip_batch(0)))
            logged = median(spent(lambda number=number: report._log(number, outcome)) for number in range(1, 50))
        print(f"logged step: {1e3 * logged:.2f} ms more, {logged / (10 * plain):.2%} of ten steps")


def phase(clock: Clock) -> None:
    with clock.phase("forward"):
        pass


def spent(work) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
