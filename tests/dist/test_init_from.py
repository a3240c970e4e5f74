"""Several processes that begin from another run's weights: the same on all, and each file's sum is read once."""

import json
from pathlib import Path

import pytest
import torch
from processes import start

from internlm.checkpoint import sums
from internlm.checkpoint.manager import CheckpointError, CheckpointManager
from internlm.core.boxes import Share
from internlm.core.collectives import Group
from internlm.systems.egoagent.config import EgoAgentConfig, ModelConfig
from internlm.systems.egoagent.loss import JointLoss
from internlm.systems.egoagent.network import EgoAgent
from internlm.systems.egoagent.weights import init_from

TINY = {
    "hidden_size": 16, "num_layers": 1, "num_heads": 2, "mlp_multiple_of": 8, "image_size": 16, "local_image_size": 8,
    "patch_size": 8, "head_hidden": 8, "head_bottleneck": 4, "prototypes": 6, "poses_per_step": 1, "num_joints": 2,
}  # fmt: skip
PARTS = ("predictor", "observer", "loss")


def fresh(seed):
    torch.manual_seed(seed)
    agent = EgoAgent(ModelConfig(**TINY))
    return agent, JointLoss(EgoAgentConfig().loss, 6)


def tensors(agent, loss):
    return {"predictor": agent.predictor.state_dict(), "observer": agent.observer.state_dict(), "loss": loss.state_dict()}


@pytest.fixture
def folder(tmp_path):
    parts = {part: {name: Share.whole(tensor) for name, tensor in found.items()} for part, found in tensors(*fresh(0)).items()}
    CheckpointManager(tmp_path / "first" / "checkpoints").save(4, parts, {"config": {"stage": "joint"}})
    return tmp_path


def begin(rank: int, world: int, folder: str, given: str) -> None:
    hashed, true = [], sums.sha256
    sums.sha256 = lambda path: (hashed.append(path.name), true(path))[1]
    agent, loss = fresh(rank + 1)
    try:
        init_from(agent, loss, Path(folder) / given, Group(torch.distributed.group.WORLD, world, rank))
        same = all(
            torch.equal(tensor, expected[name])
            for found, expected in zip(tensors(agent, loss).values(), tensors(*fresh(0)).values())
            for name, tensor in found.items()
        )
    except CheckpointError as error:
        same = str(error)
    (Path(folder) / f"{rank}.json").write_text(json.dumps([same, hashed]))


def ended(folder):
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("given", ["first", "first/checkpoints/step_000000004"])
def test_all_have_the_weights_and_each_part_was_verified_once(folder, given):
    start(begin, 2, str(folder), given)
    (first, hashed), (second, also_hashed) = ended(folder)
    assert first is second is True
    assert sorted(name for name in hashed + also_hashed if name != "meta.json") == sorted(f"{part}.safetensors" for part in PARTS)


def test_what_one_finds_damaged_is_refused_by_all(folder):
    damaged = folder / "first/checkpoints/step_000000004/predictor.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x7f")
    start(begin, 2, str(folder), "first/checkpoints/step_000000004")
    messages = [said for said, _ in ended(folder)]
    assert messages[0] == messages[1] and "predictor.safetensors is damaged" in messages[0]
