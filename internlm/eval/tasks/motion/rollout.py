"""Body motion over several chunks: the agent's own predictions fed back as actions, with and without the coming images.

A clip of T steps is cut at step k: its first k steps and image I_k are observed, chunks k..T-1 are predicted.
``images``: the images (and so the cameras) of the later steps are known, poses are not. ``no_images``: nothing after I_k is
known; the later steps have no image tokens and stay in the camera of I_k.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from internlm.core.collectives import rank
from internlm.data.batch import ClipBatch, to_device
from internlm.data.clips import ClipDataset
from internlm.data.geometry import invert_rigid, transform_points
from internlm.systems.base import Foresees

from ...clips import Device, each_batch
from ...errors import EvalError


@dataclass(frozen=True)
class RollOuts:
    """C clips cut at one step; float64 metres. ``world``: every pose in the world; ``own``: in the dataset's coordinates.

    In ``own`` coordinates ``chunk`` means the camera of I_k for all poses, ``camera`` each pose's own camera.
    """

    past: np.ndarray  # world [C, I, J, 3]: all observed poses
    past_visible: np.ndarray  # bool [C, I, J]
    target: np.ndarray  # world [C, O, J, 3]
    visible: np.ndarray  # bool [C, O, J]: also visible in the last two observed poses
    own_past: np.ndarray  # [C, I, J, 3]
    own_target: np.ndarray  # [C, O, J, 3]
    images: np.ndarray  # world [C, O, J, 3], predicted
    no_images: np.ndarray  # own [C, O, J, 3], predicted
    takes: np.ndarray  # int64 [C]
    anchors: np.ndarray  # int64 [C], frame number of I_k


@torch.no_grad()
def roll_out(
    system: Foresees, dataset: ClipDataset, batches: Iterable[ClipBatch], *, observed: int, device: Device = "cpu"
) -> RollOuts | None:
    """Roll a system over clips cut at step ``observed`` (>= 1). Several processes: as ``clips.run_clips``, None on others.

    Raises EvalError when the clips have no later step, when chunks leave gaps (the past of a chunk must be the chunk before),
    or when no camera pose is stored.
    """
    clip, poses = dataset.clip, dataset.pose_offsets.shape[1]
    if not 1 <= observed < clip.steps:
        raise EvalError(f"clips of {clip.steps} steps cannot be cut at step {observed}; choose 1 to {clip.steps - 1}")
    if poses * dataset.pose_stride != clip.frame_stride:
        chunks = f"chunks of {poses} poses every {dataset.pose_stride} frames"
        raise EvalError(f"{chunks} leave gaps in steps of {clip.frame_stride} frames: predictions cannot be fed back")

    def cut(batch: ClipBatch) -> dict[str, Tensor] | None:
        if (found := with_cameras(dataset, batch)) is None:
            return None
        arrays = _cut(system, dataset, *found, observed, device)
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    joined = each_batch(batches, cut)
    if rank():
        return None
    if joined is None:
        raise EvalError("no clip has the camera poses of all its frames: nothing can be fed back between cameras")
    return RollOuts(**{name: tensor.numpy() for name, tensor in joined.items()})


def with_cameras(dataset: ClipDataset, batch: ClipBatch) -> tuple[ClipBatch, np.ndarray, np.ndarray] | None:
    """The clips whose camera poses are all stored, world_from_camera of their images [C, T, 4, 4] and of their poses
    [C, T, P, 4, 4] (with ``chunk`` coordinates, the image's)."""
    first, anchors, own, kept = batch.frame_numbers[:, 0].numpy(), [], [], []
    for row, take in enumerate(batch.takes.tolist()):
        at, known = dataset.cameras(take, first[row] + dataset.image_offsets[:-1])
        poses, pose_known = at[:, None].repeat(dataset.pose_offsets.shape[1], 1), known
        if dataset.clip.pose_coordinates == "camera":
            poses, pose_known = dataset.cameras(take, first[row] + dataset.pose_offsets)
        if known.all() and pose_known.all():
            anchors.append(at)
            own.append(poses)
            kept.append(row)
    if not kept:
        return None
    rows = torch.tensor(kept)
    return type(batch)(**{name: value[rows] for name, value in vars(batch).items()}), np.stack(anchors), np.stack(own)


def _cut(
    system: Foresees, dataset: ClipDataset, batch: ClipBatch, anchors: np.ndarray, own: np.ndarray, k: int, device: Device
) -> dict[str, np.ndarray]:
    chunked = dataset.clip.pose_coordinates == "chunk"
    moved = to_device(batch, device)
    truth = batch.poses.double().numpy()
    world = transform_points(own, truth)
    moves = torch.from_numpy(invert_rigid(anchors[:, 1:]) @ anchors[:, :-1]).float().to(device) if chunked else None
    known = system.roll_out(moved, k, frames=dataset.clip.steps, moves=moves).double().cpu().numpy()
    alone = system.roll_out(moved, k, frames=k + 1, moves=None).double().cpu().numpy()
    here = anchors[:, k : k + 1, None] if chunked else own[:, k:]
    before = batch.past_poses[:, 0].double().numpy()  # the chunk before the clip, in the coordinates of its first step
    before_world = transform_points(anchors[:, :1] if chunked else own[:, 0], before)
    past = np.concatenate([before_world[:, None], world[:, :k]], 1)
    past_visible = np.concatenate([batch.past_visible[:, :1].numpy(), batch.visible[:, :k].numpy()], 1)
    own_past = transform_points(invert_rigid(anchors[:, k])[:, None, None], past)
    if not chunked:
        own_past = np.concatenate([before[:, None], truth[:, :k]], 1)
    visible = batch.visible[:, k:].numpy()
    fair = past_visible.reshape(len(visible), -1, visible.shape[-1])[:, -2:].all(1)
    return {
        "past": _frames(past),
        "past_visible": _frames(past_visible),
        "target": _frames(world[:, k:]),
        "visible": _frames(visible & fair[:, None, None]),
        "own_past": _frames(own_past),
        "own_target": _frames(transform_points(invert_rigid(here), world[:, k:])),
        "images": _frames(transform_points(own[:, k:], known)),
        "no_images": _frames(alone),
        "takes": batch.takes.numpy(),
        "anchors": batch.frame_numbers[:, k].numpy(),
    }


def _frames(chunks: np.ndarray) -> np.ndarray:
    """[C, T, P, ...] -> [C, T·P, ...]."""
    return chunks.reshape(len(chunks), -1, *chunks.shape[3:])
