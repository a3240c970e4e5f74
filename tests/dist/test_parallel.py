"""Two and four processes train as one does: losses, gradient norms, weights and optimizer states after five steps, any mesh.

Every process of a world runs all cases in turn, so that processes are started three times in all.
"""

import os
import signal
from pathlib import Path

import pytest
import torch
import torch._dynamo  # fully_shard needs it: imported once here and not in every forked process
from mesh_samples import RUNS, TOLERANCE, configured, healthy, inputs, near
from processes import start
from train_samples import tiny_config

from internlm.checkpoint.manager import CheckpointManager, read_checkpoint
from internlm.core.collectives import ALONE
from internlm.core.mesh import MeshError, open_mesh, read_launch
from internlm.monitor.metrics import read_metrics
from internlm.parallel.plan import _enter, _enter_tokens
from internlm.train import loop
from internlm.train.state import build_state
from internlm.train.step import TrainStep

pytestmark = pytest.mark.timeout(1200)  # of which the first test's fixture takes nearly all
CPU = torch.device("cpu")
STEPS, SAVED = 5, 3  # optimizer steps, and how many come before the checkpoint
PARTS = ("predictor", "observer", "loss", "optimizer")  # what is the same on every mesh

# Continued from one process's checkpoint and from their own.
RESUMED = {2: ("zero 3", "tp, sequence"), 4: ("dp × tp", "hsdp")}
FULL = {"activation_checkpointing": "full"}
SELECTIVE = {"activation_checkpointing": "selective"}
CASES = {
    2: {
        "zero 3": ("joint", dict(dp_shard=2)),
        "zero 2": ("joint", dict(dp_shard=2, zero=2)),
        "replicate": ("joint", dict(dp_replicate=2)),
        "stage 1": ("pretrain", dict(dp_shard=2)),
        "stage 1, zero 2": ("pretrain", dict(dp_shard=2, zero=2)),
        "one blind": ("blind", dict(dp_shard=2)),
        "sinkhorn": ("sinkhorn", dict(dp_shard=2, **FULL)),
        "accumulation": ("pieces", dict(dp_shard=2, zero=2, **SELECTIVE)),
        "tp": ("joint", dict(tp=2, sequence_parallel=False)),
        "tp, sequence": ("joint", dict(tp=2)),
        "tp, sequence, full": ("blind", dict(tp=2, **FULL)),
        "tp, selective": ("pretrain", dict(tp=2, **SELECTIVE)),
        "tp, sinkhorn": ("sinkhorn", dict(tp=2)),
        "tp, stage 1": ("pretrain", dict(tp=2, sequence_parallel=False)),
    },
    4: {
        "dp": ("joint", dict(dp_shard=4)),
        "dp, stage 1": ("pretrain", dict(dp_shard=4, zero=2)),
        "hsdp": ("joint", dict(dp_replicate=2, dp_shard=2)),
        "hsdp, stage 1": ("pretrain", dict(dp_replicate=2, dp_shard=2, **FULL)),
        "dp × tp": ("joint", dict(dp_shard=2, tp=2)),
        "dp × tp, plain": ("blind", dict(dp_shard=2, tp=2, sequence_parallel=False, **FULL)),
        "dp × tp, stage 1": ("pretrain", dict(dp_shard=2, tp=2)),
        "dp × tp, sinkhorn": ("sinkhorn", dict(dp_shard=2, tp=2, zero=2)),
        "replicate × tp": ("pieces", dict(dp_replicate=2, tp=2)),
    },
}


def train(run: str, parallel: dict, folder: Path, resume_from: str | None = None) -> dict:
    """Figures of every step and, on the process that writes, the whole tensors at the end.

    ``resume_from``: name of a case whose checkpoint the run continues from.
    """
    shape = tuple(parallel.get(axis, 1) for axis in ("dp_replicate", "dp_shard", "tp"))
    with open_mesh(shape, CPU) as mesh:
        config = configured(run, parallel, mesh.data.size)
        state = build_state(config, CPU, mesh)
        healthy(state)
        step = TrainStep(config, state, folder, torch.float32)
        losses, norms = [], []
        if resume_from:
            state.restore(CheckpointManager(folder / resume_from, group=mesh.saves).load())
        for number in range(state.counters.step, STEPS):
            outcome = step(inputs(run, number, mesh.data.rank, mesh.data.size), keep_outputs=True)
            assert outcome.finite and all(kept["teacher"].shape[-1] == config.model.prototypes for kept in outcome.kept)
            losses.append({name: float(value) for name, value in outcome.losses.items()})
            norms.append(float(outcome.grad_norm))
            if number + 1 == SAVED:
                manager = CheckpointManager(folder / f"{mesh.world.size} {run} {shape}", group=mesh.saves)
                manager.save(SAVED, state.shares(), state.meta(config))
        end = CheckpointManager(folder / "end", group=mesh.saves).save(STEPS, state.shares(), state.meta(config))
        tensors = dict(read_checkpoint(end, PARTS).parts) if mesh.writes else {}
        counters = dict(vars(state.counters))
    return {"losses": losses, "norms": norms, "tensors": tensors, "counters": counters}


def run_loop(index: int, folder: Path) -> None:
    """A run of the training loop on two processes, once whole and once stopped by a signal that only the second process gets."""

    def source(start: int, *, stop_at: int | None):
        for step in range(start, 8):
            if step == stop_at and index == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield inputs("joint", step, index, 2)

    def run(name: str, stop_at: int | None = None):
        train = {"image_batch": 2, "clip_batch": 2}
        config = tiny_config(folder / name, train=train, parallel={"dp_shard": 2})
        return loop.train(config, batches=lambda start: source(start, stop_at=stop_at))

    assert run("whole").finished
    stopped = run("stopped", stop_at=4)
    assert (stopped.finished, stopped.step, stopped.stopped_by is None) == (False, 5, False)
    assert run("stopped").finished


def child(index: int, world: int, folder: Path) -> None:
    cases = CASES.get(world, {run: (run, {}) for run in RUNS})
    for name, (run, parallel) in cases.items():
        try:
            result = train(run, parallel, folder)
        except Exception as error:
            raise RuntimeError(f"case {name!r}") from error
        if index == 0:
            torch.save(result, folder / f"{world} {name}.pt")
    for name in RESUMED.get(world, ()):
        run, parallel = cases[name]
        shape = tuple(parallel.get(axis, 1) for axis in ("dp_replicate", "dp_shard", "tp"))
        for source in (f"1 {run} (1, 1, 1)", f"{world} {run} {shape}"):
            result = train(run, parallel, folder, source)
            if index == 0:
                torch.save(result, folder / f"{world} {name} from {source}.pt")
    if world == 2:
        run_loop(index, folder)


class Results:
    """(world, case) -> what its training gave."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, world: int, name: str) -> dict:
        return torch.load(self.folder / f"{world} {name}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """All cases, trained."""
    folder = tmp_path_factory.mktemp("parity")
    for world in (1, *CASES):
        start(child, world, folder)
    return Results(folder)


@pytest.mark.parametrize(("world", "name"), [(world, name) for world, cases in CASES.items() for name in cases])
def test_parity_with_one_process(results, world, name):
    run, _ = CASES[world][name]
    expected, found = results(1, run), results(world, name)
    assert found["counters"] == expected["counters"]
    for ours, theirs in zip(found["losses"], expected["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=TOLERANCE)
    assert found["norms"] == pytest.approx(expected["norms"], rel=TOLERANCE)
    near(found["tensors"], expected["tensors"])


@pytest.mark.parametrize(("world", "name"), [(world, name) for world, names in RESUMED.items() for name in names])
def test_a_checkpoint_continues_on_any_mesh(results, world, name):
    run, parallel = CASES[world][name]
    shape = tuple(parallel.get(axis, 1) for axis in ("dp_replicate", "dp_shard", "tp"))
    foreign, own = results(world, f"{name} from 1 {run} (1, 1, 1)"), results(world, f"{name} from {world} {run} {shape}")
    near(foreign["tensors"], results(1, run)["tensors"])
    undisturbed = results(world, name)
    assert own["losses"] == undisturbed["losses"][SAVED:] and own["norms"] == undisturbed["norms"][SAVED:]
    for part, tensors in undisturbed["tensors"].items():
        assert all(torch.equal(own["tensors"][part][key], tensor) for key, tensor in tensors.items()), part


def test_a_signal_to_one_process_stops_all_and_the_run_continues_bitwise(results):
    folder = results.folder
    whole, stopped = (CheckpointManager(folder / name / "checkpoints") for name in ("whole", "stopped"))
    assert whole.list() == stopped.list() == [6, 8]
    for part, tensors in whole.load().parts.items():
        other = stopped.load().parts[part]
        assert tensors.keys() == other.keys() and all(torch.equal(other[key], tensor) for key, tensor in tensors.items()), part
    first, second = ([(r["step"], r["loss"]) for r in read_metrics(folder / name)] for name in ("whole", "stopped"))
    assert first == second and len(first) == 8


def test_the_launch_is_read_from_torchrun_or_a_slurm_step():
    slurm = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}
    found = read_launch(slurm)
    assert (found.rank, found.world, found.local_rank, found.by) == (3, 8, 1, "srun")
    assert read_launch(slurm | {"RANK": "1", "WORLD_SIZE": "2"}).by == "torchrun"
    assert read_launch({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}).world == 1  # a batch script's own process runs alone


def test_another_number_of_processes_than_the_mesh_has_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MeshError, match=r"= 4 processes and 2 were started; set parallel.dp_shard"), open_mesh((1, 2, 2), CPU):
        pass


@pytest.mark.parametrize("enter", [_enter, _enter_tokens])
def test_what_enters_a_divided_layer_travels_in_the_compute_dtype(enter):
    x = torch.randn(2, 3, 4)
    assert enter(ALONE, None, (x,))[0].dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert enter(ALONE, None, (x,))[0].dtype == torch.bfloat16
