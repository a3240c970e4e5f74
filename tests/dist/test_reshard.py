"""A checkpoint of any mesh continues on any other: every pair of five meshes, data and tensor parallel.

The processes of a world train all its meshes in turn and, once every mesh has saved, continue all checkpoints on each.
"""

import json
import os
from functools import partial
from itertools import chain, pairwise, product
from pathlib import Path

import pytest
import torch
import torch._dynamo  # fully_shard needs it: imported once here and not in every forked process
from mesh_samples import GLOBAL, configured, healthy, inputs, near
from processes import start
from train_samples import tiny_config

from internlm.checkpoint import manager as manager_module
from internlm.checkpoint.background import BackgroundSaver
from internlm.checkpoint.manager import CheckpointError, CheckpointManager, read_checkpoint
from internlm.core.boxes import Share
from internlm.core.mesh import open_mesh
from internlm.systems.egoagent.streams import streams
from internlm.train.state import TrainState, build_state
from internlm.train.step import TrainStep

pytestmark = pytest.mark.timeout(900)  # of which the first test's fixture takes nearly all
CPU = torch.device("cpu")
SAVED, STEPS = 2, 3
TOLERANCE = 1e-5
MESHES = {"1x1": (1, 1, 1), "2x1": (1, 2, 1), "1x2": (1, 1, 2), "2x2": (1, 2, 2), "4x1": (1, 4, 1)}  # named data × tp
PAIRS = list(product(MESHES, MESHES))


def tensors_of(state: TrainState) -> dict[str, dict[str, torch.Tensor]]:
    """What lies on this process."""
    parts = {part: shares for part, shares in state.shares().items() if part != "rng"}
    return {
        part: {f"{name} {i}": p.tensor.clone() for name, share in shares.items() for i, p in enumerate(share.pieces)}
        for part, shares in parts.items()
    }


def train(name: str, folder: Path, source: str | None) -> dict:
    """Losses of the steps after the save, what the generator gives there, and what lies here at the end."""
    shape = MESHES[name]
    with open_mesh(shape, CPU) as mesh:
        config = configured("joint", dict(zip(("dp_replicate", "dp_shard", "tp"), shape, strict=True)), mesh.data.size)
        state = build_state(config, CPU, mesh)
        healthy(state)
        step, losses, drawn = TrainStep(config, state, folder, torch.float32), [], None
        if source:
            state.restore(CheckpointManager(folder / source, group=mesh.saves).load())
            drawn = torch.rand(4)
        for number in range(state.counters.step, STEPS):
            outcome = step(inputs("joint", number, mesh.data.rank, mesh.data.size))
            losses.append({name: float(value) for name, value in outcome.losses.items()})
            if number + 1 == SAVED and not source:
                losses.clear()
                torch.rand(1 + mesh.world.rank)  # every process's generator is somewhere else
                save(state, config, CheckpointManager(folder / name, group=mesh.saves), asynchronous=mesh.data.size > 1)
                drawn = torch.rand(4)
    return {"losses": losses, "drawn": drawn, "data rank": mesh.data.rank, "tensors": tensors_of(state)}


def save(state: TrainState, config, manager: CheckpointManager, *, asynchronous: bool) -> None:
    background = BackgroundSaver(manager)
    if not asynchronous:
        manager.save(SAVED, state.shares(), state.meta(config))
        return
    background.start(SAVED, state.shares(), state.meta(config), moving=state.moving())
    background.before_change()
    for part, shares in state.shares().items():  # from now on the copies count
        for piece in chain.from_iterable(share.pieces for share in shares.values() if part != "rng"):
            piece.tensor.add_(1)
    background.wait()
    assert background.failure() is None
    state.restore(manager.load())


def refusals(folder: Path) -> None:
    """What fails on one process is said by both, and the last good checkpoint stays."""
    with open_mesh((1, 2, 1), CPU) as mesh:
        manager = CheckpointManager(folder / "refusals", group=mesh.saves)
        rank = mesh.world.rank
        parts = {"predictor": {f"of {rank}": Share.whole(torch.full((3,), float(rank)))}}
        manager.save(1, parts, {"mine": 1})
        written = manager_module.write_share
        background = BackgroundSaver(manager)
        for asynchronous in (False, True):
            manager_module.write_share = partial(full_disk, written) if rank == 1 else written
            said = ""
            try:
                if asynchronous:
                    background.start(2, parts, {})
                    background.wait()
                    raise background.failure()
                manager.save(2, parts, {})
            except CheckpointError as error:
                said = str(error)
            manager_module.write_share = written
            assert "step 2 could not be written" in said and "process 1: [Errno 28] No space left" in said, said
            assert "last good one is" in said and "step_000000001" in said
            assert rank or os.listdir(manager.folder) == ["step_000000001"]  # the first process clears up
        newest = manager.save(2, parts, {})
        if rank == 0:
            (newest / "predictor-00001-of-00002.safetensors").write_bytes(b"damaged")
        mesh.saves.texts("")
        assert manager.load().step == 1  # on both, whoever checked the damaged file
        # Both hold the same tensor and both save it: the mistake is found before anything is visible.
        with pytest.raises((ValueError, CheckpointError), match="pieces of predictor.twice have 6 values, the tensor 3"):
            manager.save(3, {"predictor": {"twice": torch.ones(3)}}, {})
        assert manager.list() == [1, 2]


def full_disk(write, folder: Path, *arguments):
    write(folder, *arguments)
    raise OSError(28, os.strerror(28))


def child(index: int, world: int, folder: Path, continues: bool) -> None:
    own = [name for name, shape in MESHES.items() if shape[0] * shape[1] * shape[2] == world]
    for name, source in product(own, MESHES if continues else [None]):
        result = train(name, folder, source)
        tensors = result.pop("tensors")
        if not continues:
            torch.save(tensors, folder / f"{name} {index}.pt")
        else:
            undisturbed = torch.load(folder / f"{name} {index}.pt")
            near(tensors, undisturbed)
            result["bitwise"] = all(
                torch.equal(tensors[part][key], t) for part in tensors for key, t in undisturbed[part].items()
            )
        result["drawn"] = result["drawn"].tolist()
        (folder / f"{name} from {source} {index}.json").write_text(json.dumps(result))
    if world == 2 and not continues:
        refusals(folder)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """(mesh, source or None) -> what each process found."""
    folder = tmp_path_factory.mktemp("reshard")
    for continues, world in product((False, True), (1, 2, 4)):
        start(child, world, folder, continues)

    def read(name: str, source: str | None) -> list[dict]:
        world = MESHES[name][1] * MESHES[name][2]
        return [json.loads((folder / f"{name} from {source} {index}.json").read_text()) for index in range(world)]

    read.folder = folder
    return read


@pytest.mark.parametrize(("source", "name"), PAIRS)
def test_every_pair_continues(results, source, name):
    undisturbed, continued = results(name, None), results(name, source)  # tensors were compared by the processes
    for other in (undisturbed[0], results("1x1", None)[0], results(source, None)[0]):
        for ours, theirs in zip(continued[0]["losses"], other["losses"], strict=True):
            assert ours == pytest.approx(theirs, rel=TOLERANCE, abs=TOLERANCE)
    if source == name:
        for mine, before in zip(continued, undisturbed, strict=True):
            assert (mine["losses"], mine["drawn"], mine["bitwise"]) == (before["losses"], before["drawn"], True)
    else:
        drawn = {}
        for mine in continued:
            assert drawn.setdefault(mine["data rank"], mine["drawn"]) == mine["drawn"]
        assert all(first != second for first, second in pairwise(drawn.values()))


@pytest.mark.parametrize("name", MESHES)
def test_the_whole_tensors_are_those_of_one_process(results, name):
    whole, divided = (read_checkpoint(results.folder / mesh / f"step_{SAVED:09d}") for mesh in ("1x1", name))
    processes = MESHES[name][1] * MESHES[name][2]
    assert (divided.path / "index.json").exists() == (processes > 1)
    files = list(divided.path.glob("predictor*.safetensors"))
    assert len(files) == processes and max(f.stat().st_size for f in files) < 2 * min(f.stat().st_size for f in files)
    parts = [part for part in whole.parts if part != "rng"]
    near({part: divided.parts[part] for part in parts}, {part: whole.parts[part] for part in parts})
    assert sorted(divided.index["rng"]) == [f"rank{rank}/cpu" for rank in range(processes)]


@pytest.mark.parametrize("mixing", ["both", "alternate"])
def test_every_world_size_sees_the_same_samples_in_the_same_order(mixing):
    def order(world: int) -> list:
        train = {"image_batch": GLOBAL // world, "clip_batch": 2 * GLOBAL // world, "mixing": mixing}
        kinds = streams(tiny_config(train=train)).values()
        steps = [[[kind.positions(step, rank, world) for kind in kinds] for rank in range(world)] for step in range(6)]
        # A step's global batch: the processes' samples by turns.
        return [
            [list(chain.from_iterable(zip(*(pair[kind] for pair in step), strict=True))) for kind in (0, 1)] for step in steps
        ]

    assert order(1) == order(2) == order(4)
    images = [position for images, _ in order(1) for position in images]
    assert images == list(range(len(images))) and len(images) >= 3 * GLOBAL
