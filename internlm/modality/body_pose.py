"""Body pose: a chunk of poses as one token, and the poses read out of a hidden state."""

import torch
from torch import Tensor, nn

from internlm.core.roles import Division

MOTION_SCALE = 10.0  # differences between poses of a chunk are centimetres; this brings them to the range of positions


def pose_features(poses: Tensor, visible: Tensor) -> Tensor:
    """Turn poses ``[..., P, J, 3]`` (metres) with visibility ``[..., P, J]`` into ``[..., P·J·3]`` input features.

    The last pose and the scaled differences between successive poses: an invertible linear map of the chunk for visible
    joints. Missing joints contribute zeros, never a coordinate.
    """
    seen = visible.unsqueeze(-1).to(poses.dtype)
    poses = poses * seen
    motion = (poses[..., 1:, :, :] - poses[..., :-1, :, :]) * seen[..., 1:, :, :] * seen[..., :-1, :, :]
    return torch.cat((motion * MOTION_SCALE, poses[..., -1:, :, :]), dim=-3).flatten(-3)


def last_observed(poses: Tensor, visible: Tensor) -> Tensor:
    """The most recent visible position of each joint in ``[..., P, J, 3]`` -> ``[..., J, 3]``.

    A joint that is visible nowhere in the window takes the mean of the joints that are, or zero where none is.
    """
    seen = visible.unsqueeze(-1)
    latest, known = poses[..., 0, :, :] * seen[..., 0, :, :], seen[..., 0, :, :]
    for p in range(1, poses.shape[-3]):
        latest = torch.where(seen[..., p, :, :], poses[..., p, :, :], latest)
        known = known | seen[..., p, :, :]
    count = known.sum(-2, keepdim=True).clamp(min=1)
    return torch.where(known, latest, (latest * known).sum(-2, keepdim=True) / count)


class PoseProjector(nn.Module):
    """Proj_a: one chunk of P poses -> one token. MLP ``P·J·3 -> h -> h`` (spec §2.3)."""

    def __init__(self, hidden: int, poses: int, joints: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(poses * joints * 3, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    def forward(self, poses: Tensor, visible: Tensor) -> Tensor:
        return self.layers(pose_features(poses, visible))


class PoseHead(nn.Module):
    """MLP_a: hidden at the action query -> P poses in metres and a visibility logit per joint (spec §2.3, §4.3).

    ``offset`` predicts the change from the last observed pose and starts at zero, i.e. as the zero-velocity baseline.
    """

    division = Division(columns={"layers.0": 1}, rows=("layers.2",), enter="layers.0")

    def __init__(self, hidden: int, poses: int, joints: int, target: str):
        super().__init__()
        self.shape, self.offset = (poses, joints), target == "offset"
        first, last = nn.Linear(hidden, hidden), nn.Linear(hidden, poses * joints * 4)
        self.layers = nn.Sequential(first, nn.GELU(), last)
        if self.offset:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, hidden: Tensor, past_poses: Tensor, past_visible: Tensor) -> tuple[Tensor, Tensor]:
        """``hidden [..., h]``, past ``[..., P, J, 3]`` -> poses ``[..., P, J, 3]``, visibility logits ``[..., P, J]``."""
        raw = self.layers(hidden).float().unflatten(-1, (*self.shape, 4))
        poses, visibility = raw[..., :3], raw[..., 3]
        if self.offset:
            poses = last_observed(past_poses, past_visible).unsqueeze(-3) + poses
        return poses, visibility
