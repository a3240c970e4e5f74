"""What forecasters read: windows of recorded motion, any start in any take, mirrored half of the time, scaled."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from internlm.data.contents import Contents, described
from internlm.data.frames import DataError
from internlm.data.motion import MotionData, Recordings, canonical, hold_out
from internlm.data.order import Stream

from .config import ForecasterRunConfig

WINDOWS = "window"


@dataclass(frozen=True)
class WindowBatch:
    """B windows of I observed and O coming poses of J joints, in metres and ``canonical``."""

    past: Tensor  # float32 [B, I, J, 3]
    future: Tensor  # float32 [B, O, J, 3]
    visible: Tensor  # bool [B, O, J], in the last observed pose too
    noise: Tensor  # float32 [B, O, J, 3], standard normal
    level: Tensor  # float32 [B], uniform in [0, 1): with the noise, all that a method draws for a sample
    sample_ids: Tensor  # int64 [B]


class WindowSource:
    """The training windows of recordings. Raises DataError where no take is long enough or the joints are not so many."""

    def __init__(self, data: MotionData, past: int, future: int, scale: float, joints: int):
        if len(data.joints) != joints:
            raise DataError(f"{data.source}: {len(data.joints)} joints, model.num_joints is {joints}")
        self.data, self.past, self.span, self.scale = data, past, past + future, scale
        lengths = np.array([len(track.joints) for track in data.tracks], dtype=int)
        firsts = np.cumsum(lengths) - lengths
        self.starts = np.concatenate([np.zeros(0, int)] + [f + np.arange(n - self.span + 1) for f, n in zip(firsts, lengths)])
        if not len(self.starts):
            raise DataError(f"{data.source}: no training take has the {self.span} frames of a window")
        self.joints = np.concatenate([track.joints for track in data.tracks]).astype(np.float32)
        self.visible = np.concatenate([track.visible for track in data.tracks])
        self.files, self.mirrored = len(data.tracks), data.mirrored

    def __len__(self) -> int:
        return len(self.starts)

    def contents(self) -> Contents:
        """By recording how many windows each of its unbroken pieces has."""
        pieces: dict[str, list[int]] = {}
        for track in self.data.tracks:
            if (count := len(track.joints) - self.span + 1) > 0:
                pieces.setdefault(track.name, []).append(count)
        return {name: described(sum(counts), "window", str(counts).encode()) for name, counts in pieces.items()}

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One window as the arrays of a ``WindowBatch``."""
        rows = slice(self.starts[index], self.starts[index] + self.span)
        joints, visible = self.joints[rows], self.visible[rows]
        if rng.random() < 0.5:
            joints, visible = joints[:, self.mirrored] * np.array([-1, 1, 1], np.float32), visible[:, self.mirrored]
        joints = joints * np.float32(rng.uniform(1 - self.scale, 1 + self.scale))
        joints = canonical(joints[None], self.past, self.data)[0].astype(np.float32)
        future = joints[self.past :]
        return {
            "past": joints[: self.past],
            "future": future,
            "visible": visible[self.past :] & visible[self.past - 1],
            "noise": rng.standard_normal(future.shape, dtype=np.float32),
            "level": np.float32(rng.random(dtype=np.float32)),
        }


def recordings(config: ForecasterRunConfig) -> Recordings:
    """The recordings of a run."""
    own = config.forecaster
    return Recordings(config.data.clips, own.actions, own.every, own.all_joints, own.frame)


def _open(config: ForecasterRunConfig) -> WindowSource:
    own, data = config.forecaster, recordings(config).open().of(config.data.split)
    if own.takes == "fitted":
        data, _ = hold_out(data)
    return WindowSource(data, own.past, own.future, own.scale, config.model.num_joints)


def streams(config: ForecasterRunConfig) -> dict[str, Stream]:
    """Windows alone."""
    return {WINDOWS: Stream(partial(_open, config), WindowBatch, config.train.clip_batch, number=0)}
