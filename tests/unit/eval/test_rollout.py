"""Rolled-out motion: what is fed back, in which camera, and what the reports say of a figure that does nothing."""

import numpy as np
import pytest
import torch
from data_samples import body, write_take

from internlm.data.evaluation import evaluation_clips
from internlm.eval.clips import run_clips
from internlm.eval.errors import EvalError
from internlm.eval.tasks.motion import report as motion_protocol
from internlm.eval.tasks.motion import rollout
from internlm.systems.egoagent import clips
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.network import ClipReadout, EgoAgent
from internlm.systems.egoagent.system import JointSystem

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
    system = JointSystem(config)
    system.agent.eval()
    dataset = system.clips([str(store)], "train")
    return system, dataset, list(evaluation_clips(dataset, 2, hop=15))


@pytest.mark.parametrize("coordinates", ["chunk", "camera"])
def test_a_network_that_stands_still_stands_still_in_the_right_frame(tmp_path, coordinates):
    """A fresh offset head repeats the last pose before: in the camera of I_k (chunk), in each own camera (camera)."""
    system, dataset, batches = setting(tmp_path, coordinates)
    rolled = rollout.roll_out(system, dataset, batches, observed=1)
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
    system, dataset, batches = setting(tmp_path, coordinates)
    asked, batch = [], batches[0]

    def answer(cache, layout, *, patches=None, past, actions):
        frames, queries, acted = getattr(cache, "read", (0, 0, 0))
        now = slice(queries, queries + past[0].shape[1])
        cache.read = frames + (0 if patches is None else patches.shape[1]), now.stop, acted + actions[0].shape[1]
        asked.append(cache.read)
        if cache.read[0] == now.stop:  # images known
            assert torch.equal(past[1], batch.past_visible[:, now])
            torch.testing.assert_close(past[0] * past[1][..., None], batch.past_poses[:, now], atol=1e-4, rtol=0)
            torch.testing.assert_close(actions[0], batch.poses[:, acted : cache.read[2]], atol=1e-4, rtol=0)
        return ClipReadout(batch.poses[:, now], past[1].float(), past[0])

    monkeypatch.setattr(system.agent.predictor, "append", answer)
    rolled = rollout.roll_out(system, dataset, batches[:1], observed=1)
    expected = [(2, 2, 1), (3, 3, 2), (2, 2, 1), (2, 3, 2)]  # images, action queries and actions read so far
    assert asked == expected, "with the images, then with those up to I_k alone"
    mask = rolled.visible
    assert mask[:, :, 3].all() and not mask[:, :, 4].any(), "joint 4 is never visible"
    np.testing.assert_allclose(rolled.images[mask], rolled.target[mask], atol=1e-4)


def read_anew(predictor, batch, images, k, moves):
    """Every chunk from a pass over all before it: what the cache spares."""
    poses, visible, past, past_visible = (x.clone() for x in (batch.poses, batch.visible, batch.past_poses, batch.past_visible))
    seen = past_visible[:, k].any(1, keepdim=True).expand_as(visible[:, k])
    for step in range(k, poses.shape[1]):
        upto = slice(0, step + 1)
        given = (poses[:, upto], visible[:, upto], past[:, upto], past_visible[:, upto])
        poses[:, step], visible[:, step] = predictor.forward_clip(images[:, upto], *given).action[:, -1], seen
        if step + 1 < poses.shape[1]:
            past[:, step + 1] = poses[:, step] if moves is None else clips._turned(moves[:, step], poses[:, step])
            past_visible[:, step + 1] = seen
    return poses[:, k:].double().numpy()


@pytest.mark.parametrize("sequence", ["causal", "block"])
@pytest.mark.parametrize("target", ["offset", "absolute"])
@torch.no_grad()
def test_a_roll_out_is_that_of_whole_passes(tmp_path, sequence, target):
    system, dataset, batches = setting(tmp_path, "chunk", steps=5)
    torch.manual_seed(1)
    model = Config(**CONFIG).model.model_copy(update=dict(sequence=sequence, pose_target=target, num_layers=3))
    predictor = EgoAgent(model).eval().predictor
    predictor.pose_head.layers[-1].weight.normal_(std=0.1)
    batch, anchors, _ = rollout.with_cameras(dataset, batches[0])
    moves = torch.from_numpy(rollout.invert_rigid(anchors[:, 1:]) @ anchors[:, :-1]).float()
    images = clips.normalise_clip(batch.images)
    for observed in (1, 2, 4):
        for frames, between in ((5, moves), (observed + 1, None)):
            found = clips.roll_out(predictor, batch, observed, frames, between)
            expected = read_anew(predictor, batch, images[:, :frames], observed, between)
            assert found.shape[1] == 5 - observed
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_one_step_is_the_teacher_forced_chunk(tmp_path):
    system, dataset, batches = setting(tmp_path, "chunk")
    with torch.no_grad():
        system.agent.predictor.pose_head.layers[-1].bias.normal_(std=0.1)
    rolled = rollout.roll_out(system, dataset, batches, observed=2)
    outputs = run_clips(system, batches)
    np.testing.assert_allclose(rolled.no_images, outputs.action[:, 2].numpy(), atol=1e-5)
    report = motion_protocol.rollout_report(rolled, dataset, observed=2)
    scores = report["world"]
    assert scores["model_with_images"]["mpjpe_cm"] == pytest.approx(scores["model_without_images"]["mpjpe_cm"], abs=1e-3)
    assert report["head_camera"]["model_without_images"]["mpjpe_cm"] == pytest.approx(scores["model_without_images"]["mpjpe_cm"])


@pytest.mark.parametrize("coordinates", ["chunk", "camera"])
def test_teacher_forced_report_has_the_world_beside_the_camera(tmp_path, coordinates):
    system, dataset, batches = setting(tmp_path, coordinates)
    report = motion_protocol.motion_report(run_clips(system, batches), dataset)
    assert report["detail"]["mpjpe_cm"] == pytest.approx(report["mpjpe_cm"])
    assert report["detail"]["mpjpe_cm_at_ms"].keys() == {"67", "167"} and report["detail"]["mpjpe_cm_interval"]
    # zero velocity in the world: the body walks 2 cm a frame, so poses 1..5 are 2, 4, .. 10 cm away
    assert report["world"]["floors"]["zero_velocity"]["mpjpe_cm"] == pytest.approx(6.0, abs=1e-2)
    assert report["world"]["floors"]["constant_velocity"]["mpjpe_cm"] == pytest.approx(0.0, abs=1e-2)
    assert report["world"]["mpjpe_cm"] == pytest.approx(report["mpjpe_cm"], abs=1e-2), "a rigid move changes no distance"


def test_what_cannot_be_rolled_out_says_why(tmp_path):
    system, dataset, batches = setting(tmp_path, "camera")
    with pytest.raises(EvalError, match="choose 1 to 2"):
        rollout.roll_out(system, dataset, batches, observed=3)
    dataset.pose_stride = 2
    with pytest.raises(EvalError, match="leave gaps"):
        rollout.roll_out(system, dataset, batches, observed=1)
