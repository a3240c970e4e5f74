"""Evaluation on 1, 2 and 4 processes gives identical numbers, and an error on one process ends all of them."""

import io
import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from processes import start

from internlm.config.schema import ClipConfig
from internlm.core.collectives import rank
from internlm.data.clips import ClipDataset
from internlm.data.evaluation import evaluation_clips
from internlm.data.frames import open_images
from internlm.data.store import Camera, PoseTrack, StoreWriter, TakeInfo
from internlm.eval.clips import run_clips
from internlm.eval.errors import EvalError
from internlm.eval.ranks import from_first, gathered, joined, own_share
from internlm.eval.tasks.knn.options import KnnOptions
from internlm.eval.tasks.knn.report import knn_report
from internlm.eval.tasks.linear.options import LinearOptions
from internlm.eval.tasks.linear.report import probe_report
from internlm.eval.tasks.motion.report import motion_report, rollout_report
from internlm.eval.tasks.motion.rollout import roll_out
from internlm.eval.tasks.retrieval.report import retrieval_report
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.config import ModelConfig
from internlm.systems.egoagent.system import JointSystem

MODEL = ModelConfig(
    hidden_size=32, num_layers=1, num_heads=2, mlp_multiple_of=16, image_size=16, local_image_size=16, patch_size=8,
    poses_per_step=2, prototypes=24, head_hidden=32, head_bottleneck=16, init_std=0.2,
)  # fmt: skip


def image_bytes(seed: int, size: int = 20) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_world(path) -> None:
    """Seven takes of two places, one frame of which is broken."""
    numbers = np.arange(24)
    joints = np.random.default_rng(0).normal(size=(24, 17, 3)).astype(np.float32)
    track = PoseTrack(numbers, joints, np.ones((24, 17), bool), numbers, np.tile(np.eye(4), (24, 1, 1)))
    for take in range(7):
        split = "val" if take > 4 else "train"
        info = TakeInfo(
            f"take{take}",
            str(take),
            split,
            30.0,
            Camera("pinhole", 20, 20, (20, 20, 9.5, 9.5)),
            "world",
            {"place": "hall" if take % 2 else "yard"},
            extra={"actions": ["walk", "turn"]},
        )
        broken = b"\x89PNG\r\n\x1a\nbroken"
        frames = [(int(n), broken if (take, n) == (1, 8) else image_bytes(100 * take + int(n))) for n in numbers[::2]]
        writer = StoreWriter(path)
        writer.add_take(info, frames, track, {"frames": numbers, "action": numbers // 12})


def configured(folder) -> Config:
    data = {"images": [str(folder / "world")], "clip": {"pose_stride": 1}}
    return Config.model_validate({"model": MODEL.model_dump(), "data": data})


def trained(config: Config) -> JointSystem:
    system = JointSystem(config)
    system.agent.eval()
    return system


def evaluate(folder, workers: int = 0) -> dict:
    """All evaluations that share work between processes; {} on processes other than 0."""
    torch.manual_seed(0)
    config = configured(folder)
    system = trained(config)
    train, test = (open_images([folder / "world"], split, 1, "place") for split in ("train", "val"))
    how = {"batch": 4, "workers": workers, "max_broken_share": 0.1}
    knn, found = knn_report(system, train, test, KnnOptions(k=(3, 5), **how))
    recipe = {"rates": (0.01, 0.1), "epochs": 3, "probe_batch": 8, "shots": (2,), "draws": 2, "augment": True}
    probe = probe_report(system, train, test, LinearOptions(**recipe, **how))
    clip = ClipConfig(steps=2, frame_stride=2, pose_stride=1)
    dataset = ClipDataset([folder / "world"], "val", clip, 2, 17, 16)
    outputs = run_clips(system, evaluation_clips(dataset, 3, hop=2, only=own_share))
    rolled = roll_out(system, dataset, evaluation_clips(dataset, 3, hop=2, only=own_share), observed=1)
    if rank():
        assert not knn and not probe and not len(outputs.prediction) and rolled is None
        return {}
    retrieval, _ = retrieval_report(outputs, dataset)
    motion = {"next": motion_report(outputs, dataset), "rolled": rollout_report(rolled, dataset, observed=1)}
    sums = {name: [v.hex() for v in values.double().sum(1).tolist()] for name, values in found["test"].values.items()}
    rows = found["train"].rows.tolist()
    return {"knn": knn, "probe": probe, "retrieval": retrieval, "motion": motion, "sums": sums, "rows": rows}


def evaluate_and_write(index: int, world: int, folder) -> None:
    with joined() as reports:
        assert reports == (index == 0)
        result = evaluate(folder)
    assert not dist.is_initialized()
    if reports:
        (folder / f"{world}.json").write_text(json.dumps(result))


def test_one_two_and_four_processes_give_identical_numbers(tmp_path):
    write_world(tmp_path / "world")
    for world in (1, 2, 4):
        start(evaluate_and_write, world, tmp_path, group=False)
    one, two, four = (json.loads((tmp_path / f"{world}.json").read_text()) for world in (1, 2, 4))
    assert one["rows"] == sorted(one["rows"]) and len(one["rows"]) == 59  # each image once, without the broken one
    assert one["knn"]["protocol"]["unreadable_images"] == 1 and one["retrieval"]["queries"] > 10
    assert set(one["motion"]["rolled"]["world"]["zero_velocity"]["by_action"]) == {"walk", "turn"}
    assert one == two
    assert one == four


def test_reading_ahead_changes_nothing(tmp_path):
    write_world(tmp_path / "world")
    assert json.dumps(evaluate(tmp_path)) == json.dumps(evaluate(tmp_path, workers=2))


def fail_on_the_second(index: int, world: int, folder) -> None:
    def work():
        if index == 1:
            raise EvalError("bad feature")
        return {0: {"x": torch.ones(2)}}

    with joined():
        with pytest.raises(EvalError, match="bad feature" if index == 1 else "process 1: EvalError: bad feature"):
            gathered(work)
        with pytest.raises(EvalError, match="no images" if index == 0 else "process 0: EvalError: no images"):
            from_first(lambda: (_ for _ in ()).throw(EvalError("no images")))
    (folder / f"done{index}").touch()


def test_an_error_on_one_process_is_raised_on_all(tmp_path):
    start(fail_on_the_second, 2, tmp_path, group=False)
    assert {path.name for path in tmp_path.iterdir()} == {"done0", "done1"}


def use_the_cache(index: int, world: int, folder) -> None:
    torch.manual_seed(0)
    config = configured(folder)
    train, test = (open_images([folder / "world"], split, 1, "place") for split in ("train", "val"))
    system, reports = trained(config), []
    options = KnnOptions(k=(3,), batch=4, cache=folder / "cache", max_broken_share=0.1)
    with joined():
        for _ in range(2):
            reports.append(knn_report(system, train, test, options)[0])
    assert reports[0] == reports[1]


def test_processes_share_a_cache(tmp_path):
    write_world(tmp_path / "world")
    start(use_the_cache, 2, tmp_path, group=False)
    assert len(list((tmp_path / "cache").iterdir())) == 10  # model, two random floors, pixels and digests, of train and val
