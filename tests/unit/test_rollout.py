"""Rolled-out motion: what is fed back, in which camera, and what the reports say of a figure that does nothing."""

import numpy as np
import pytest
import torch
from data_samples import body, write_take

from internlm.data.loader import evaluation_clips
from internlm.eval.clips import open_clips, run_clips
from internlm.eval.errors import EvalError
from internlm.eval.motion import protocol as motion_protocol
from internlm.eval.motion import rollout
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.network import ClipReadout, EgoAgent

CONFIG = dict(
    stage="joint",
    model=dict(
        hidden_size=32, num_layers=1, num_heads=2, mlp_multiple_of=16, image_size=32, local_image_size=16, patch_size=16,
        prototypes=8, head_hidden=16, head_bottleneck=8, pose_target="offset", pose_context=True, init_std=0.2,
    ),
    train=dict(clip_batch=2, image_batch=0, accumulation=1),
)  # fmt: skip


def setting(tmp_path, coordinates: str, steps: int = 3, **take):
    store = tmp_path / "s"
    if not store.exists():
        write_take(store, "one", **take)
        write_take(store, "two", **take)
    config = Config(**CONFIG, data=dict(clips=[str(store)], clip=dict(steps=steps, frame_stride=5, pose_coordinates=coordinates)))
    torch.manual_seed(0)
    agent = EgoAgent(config.model).eval()
    dataset = open_clips(config, [str(store)], "train")
    return agent, dataset, list(evaluation_clips(dataset, 2, hop=15))


@pytest.mark.parametrize("coordinates", ["chunk", "camera"])
def test_a_network_that_stands_still_stands_still_in_the_right_frame(tmp_path, coordinates):
    """A fresh offset head repeats the last pose before: in the camera of I_k (chunk), in each own camera (camera)."""
    agent, dataset, batches = setting(tmp_path, coordinates)
    rolled = rollout.roll_out(agent, dataset, batches, observed=1)
    report = motion_protocol.rollout_report(rolled, dataset, observed=1)
    for part, model in (("world", "model_with_images"), ("head_camera", "model_without_images")):
        if coordinates == "camera" and part == "world":
            continue  # standing still before a moving camera is no standing still in the world
        scores = report[part]
        assert scores[model]["mpjpe_cm"] == pytest.approx(scores["zero_velocity"]["mpjpe_cm"], abs=1e-3)
        assert scores[model]["mpjpe_cm"] > 1
    assert report["world"]["constant_velocity"]["mpjpe_cm"] == pytest.approx(0, abs=1e-3), "the body walks evenly"
    truth = np.stack([body(np.arange(5, 15) + first) for first in batches[0].frame_numbers[:, 0].numpy()])
    seen = rolled.visible[:2]
    assert seen[:, :, :4].all() and not seen[:, :, 4].any()
    np.testing.assert_allclose(rolled.target[:2][seen], truth[seen], atol=1e-5, err_msg="chunks 1 and 2 in world metres")


@pytest.mark.parametrize("coordinates", ["chunk", "camera"])
def test_predictions_are_fed_back_in_the_coordinates_of_the_next_step(tmp_path, coordinates, monkeypatch):
    """A network that always answers with the truth of its step: the past that it is shown must then be the true past too."""
    agent, dataset, batches = setting(tmp_path, coordinates)
    asked = []

    def answer(images, poses, visible, past, past_visible):
        step, frames = poses.shape[1] - 1, images.shape[1]
        asked.append((step, frames))
        batch = batches[0]
        if frames == step + 1:  # images known
            assert torch.equal(past_visible, batch.past_visible[:, : step + 1])
            shown = past * past_visible[..., None]
            torch.testing.assert_close(shown, batch.past_poses[:, : step + 1], atol=1e-4, rtol=0)
            torch.testing.assert_close(poses[:, :step], batch.poses[:, :step], atol=1e-4, rtol=0)
        return ClipReadout(batch.poses[:, : step + 1], visible.float(), poses)

    monkeypatch.setattr(agent.predictor, "forward_clip", answer)
    rolled = rollout.roll_out(agent, dataset, batches[:1], observed=1)
    assert asked == [(1, 2), (2, 3), (1, 2), (2, 2)], "with the images, then with those up to I_k alone"
    mask = rolled.visible
    assert mask[:, :, 3].all() and not mask[:, :, 4].any(), "joint 4 is never visible"
    np.testing.assert_allclose(rolled.images[mask], rolled.target[mask], atol=1e-4)


def test_one_step_is_the_teacher_forced_chunk(tmp_path):
    agent, dataset, batches = setting(tmp_path, "chunk")
    with torch.no_grad():
        agent.predictor.pose_head.layers[-1].bias.normal_(std=0.1)
    rolled = rollout.roll_out(agent, dataset, batches, observed=2)
    outputs = run_clips(agent, batches)
    np.testing.assert_allclose(rolled.no_images, outputs.action[:, 2].numpy(), atol=1e-5)
    report = motion_protocol.rollout_report(rolled, dataset, observed=2)
    scores = report["world"]
    assert scores["model_with_images"]["mpjpe_cm"] == pytest.approx(scores["model_without_images"]["mpjpe_cm"], abs=1e-3)
    assert report["head_camera"]["model_without_images"]["mpjpe_cm"] == pytest.approx(scores["model_without_images"]["mpjpe_cm"])


@pytest.mark.parametrize("coordinates", ["chunk", "camera"])
def test_teacher_forced_report_has_the_world_beside_the_camera(tmp_path, coordinates):
    agent, dataset, batches = setting(tmp_path, coordinates)
    report = motion_protocol.motion_report(run_clips(agent, batches), dataset)
    assert report["detail"]["mpjpe_cm"] == pytest.approx(report["mpjpe_cm"])
    assert report["detail"]["mpjpe_cm_at_ms"].keys() == {"67", "167"} and report["detail"]["mpjpe_cm_interval"]
    # zero velocity in the world: the body walks 2 cm a frame, so poses 1..5 are 2, 4, .. 10 cm away
    assert report["world"]["floors"]["zero_velocity"]["mpjpe_cm"] == pytest.approx(6.0, abs=1e-2)
    assert report["world"]["floors"]["constant_velocity"]["mpjpe_cm"] == pytest.approx(0.0, abs=1e-2)
    assert report["world"]["mpjpe_cm"] == pytest.approx(report["mpjpe_cm"], abs=1e-2), "a rigid move changes no distance"


def test_what_cannot_be_rolled_out_says_why(tmp_path):
    agent, dataset, batches = setting(tmp_path, "camera")
    with pytest.raises(EvalError, match="choose 1 to 2"):
        rollout.roll_out(agent, dataset, batches, observed=3)
    dataset.pose_stride = 2
    with pytest.raises(EvalError, match="leave gaps"):
        rollout.roll_out(agent, dataset, batches, observed=1)
