"""Pose sequences for forecasting: where they come from, their split, and windows of past and future poses.

``cmu`` is the benchmark: sixteen body joints of the CMU recordings, 30 frames in and 30 out at 30 Hz. Any other source is
a motion file (npz, BVH, AMC) or a take store, as COCO joints.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from internlm.data.frames import DataError
from internlm.data.mocap import read_motions
from internlm.data.mocap.archive import Archive, sequences
from internlm.data.mocap.motion import RATE, Z_UP_FROM_Y_UP
from internlm.data.store import COCO_JOINTS, TakeStore

# The set that reproduces the published zero-velocity floors of these recordings (9.39 cm, 37.1 cm/s): the twelve joints of
# the limbs and four of the trunk. "Spine1" is the point where shoulders and neck meet.
CMU_JOINTS = (
    "LeftArm", "RightArm", "LeftForeArm", "RightForeArm", "LeftHand", "RightHand", "LeftUpLeg", "RightUpLeg",
    "LeftLeg", "RightLeg", "LeftFoot", "RightFoot", "Hips", "Spine1", "Neck", "Neck1",
)  # fmt: skip
CMU_EXTRA = ("walking_extra",)  # not one of the standard actions
SELECTION_STRIDE = 5  # frames between windows that choices are made on
CMU_FILE = Path("cmu_mocap") / "cmu8_30hz.npz"


@dataclass(frozen=True)
class Track:
    """An unbroken piece of a recording: joints float64 [F, J, 3] in world metres, z up; where not ``visible`` [F, J] a joint
    holds its nearest visible position in time. Pieces of one recording have the same ``name``."""

    name: str
    action: str
    split: str | None
    joints: np.ndarray
    visible: np.ndarray


@dataclass(frozen=True)
class MotionData:
    """Recordings of one skeleton at one rate. ``root``: the joints whose mean is the root."""

    source: str
    tracks: tuple[Track, ...]
    joints: tuple[str, ...]
    root: tuple[int, ...]
    rate: float = RATE

    def of(self, split: str) -> "MotionData":
        """The recordings of a split alone. Raises DataError where there are none."""
        tracks = tuple(track for track in self.tracks if track.split == split)
        if not tracks:
            raise DataError(f"{self.source}: no {split} take among {len(self.tracks)}; mark the splits or give more takes")
        return replace(self, tracks=tracks)

    @property
    def recordings(self) -> list[str]:
        """Names of the recordings, each once."""
        return list(dict.fromkeys(track.name for track in self.tracks))

    @property
    def hips(self) -> tuple[int, int]:
        """Left and right hip."""
        pairs = (("LeftUpLeg", "RightUpLeg"), ("left-hip", "right-hip"))
        return next((self.joints.index(a), self.joints.index(b)) for a, b in pairs if a in self.joints and b in self.joints)

    @property
    def mirrored(self) -> np.ndarray:
        """The joint that each one becomes in a mirror, int64 [J]."""
        swap = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
        names = list(self.joints)
        images = [next((name.replace(a, b, 1) for a, b in swap.items() if name.startswith(a)), name) for name in names]
        return np.array([names.index(image) if image in names else names.index(name) for name, image in zip(names, images)])


@dataclass(frozen=True)
class Windows:
    """N windows: ``past`` float64 [N, I, J, 3], ``future`` [N, O, J, 3] metres, ``visible`` bool [N, O, J] of the future."""

    past: np.ndarray
    future: np.ndarray
    visible: np.ndarray
    takes: np.ndarray  # int64 [N], place in the data's recordings
    actions: np.ndarray  # str [N]

    def __len__(self) -> int:
        return len(self.past)


@dataclass(frozen=True)
class Recordings:
    """Which recordings, and what of them: ``paths`` for ``read``, or none for ``cmu``; ``frame`` "root" makes every pose relative
    to its root, "world" leaves it."""

    paths: tuple[str, ...] = ()
    actions: str = "standard"
    every: int = 1
    all_joints: bool = False
    frame: str = "root"

    def open(self) -> MotionData:
        """Read them. Raises DataError."""
        read_here = read(self.paths, every=self.every, all_joints=self.all_joints) if self.paths else cmu(actions=self.actions)
        return root_relative(read_here) if self.frame == "root" else read_here


def cmu(path: str | os.PathLike | None = None, actions: str = "standard") -> MotionData:
    """The CMU benchmark. ``actions``: ``standard``, or ``all`` with the extra walks too.

    ``path`` None: the sample data, in the folder named by EGOAGENT_SHARED_DATA or in ../shared/data.
    """
    path = Path(path) if path else Path(os.environ.get("EGOAGENT_SHARED_DATA") or "../shared/data") / CMU_FILE
    if not path.is_file():
        raise DataError(f"{path}: no such file; set EGOAGENT_SHARED_DATA to the folder that holds {CMU_FILE}")
    archive = Archive(path)
    columns = [str(name) for name in archive.read("joint_names")]
    missing = [name for name in CMU_JOINTS if name not in columns]
    if missing or archive.rate("fps") != RATE:
        raise DataError(f"{path}: the benchmark needs {RATE:g} Hz and the joints {', '.join(CMU_JOINTS)}; missing: {missing}")
    points = archive.numbers("pos_m")[:, [columns.index(name) for name in CMU_JOINTS]] @ Z_UP_FROM_Y_UP.T
    tracks = []
    for name, split, rows in sequences(archive, len(points)):
        action = name.partition("/")[0]
        if actions == "all" or action not in CMU_EXTRA:
            tracks.append(Track(name, action, split, points[rows], np.ones(points[rows].shape[:2], bool)))
    return MotionData(f"cmu, {actions} actions", tuple(tracks), CMU_JOINTS, (CMU_JOINTS.index("Hips"),))


def read(paths: Sequence[str | os.PathLike], *, every: int = 1, all_joints: bool = False) -> MotionData:
    """Motion files or take stores as COCO joints, those visible somewhere or ``all_joints``.

    Splits are those that the takes are marked with; of takes without one every fifth is test and the others are train.
    ``every`` > 1 keeps each n-th frame of a recording, in n tracks. Raises DataError when rates differ.
    """
    found: list[Track] = []
    rates = set()
    for path in paths:
        if TakeStore.is_store(path):
            for take in TakeStore(path).select():
                poses = take.poses()
                if poses is None:
                    continue
                rates.add(take.info.frame_rate)
                found += _runs(take.info.name, take.info.labels.get("action", "all"), take.info.split, poses)
        else:
            rates.add(RATE)
            for motion in read_motions(path):
                action = motion.name.partition("/")[0] if "/" in motion.name else "all"
                found.append(Track(motion.name, action, motion.split, motion.joints, motion.visible))
    if len(rates) != 1:
        raise DataError(f"{', '.join(map(str, paths))}: poses at {sorted(rates)} Hz; one rate is needed")
    found = [_thinned(track, phase, every) for track in found for phase in range(every)]
    seen = np.any([track.visible.any(0) for track in found], axis=0) | all_joints
    kept_names = [name for name, kept in zip(COCO_JOINTS, seen) if kept]
    root = tuple(i for i, name in enumerate(kept_names) if name.endswith("-hip"))
    if len(root) != 2:
        raise DataError(f"{', '.join(map(str, paths))}: no hips, and poses are measured relative to their middle")
    tracks = [replace(t, joints=filled(t.joints, t.visible)[:, seen], visible=t.visible[:, seen]) for t in found]
    unmarked = sorted({track.name for track in tracks if track.split is None})  # a take may be several tracks
    test = set(unmarked[4::5])
    tracks = [replace(t, split=t.split or ("test" if t.name in test else "train")) for t in tracks]
    return MotionData(", ".join(map(str, paths)), tuple(tracks), tuple(kept_names), root, rates.pop() / every)


def hold_out(data: MotionData) -> tuple[MotionData, MotionData]:
    """Training takes into those to fit and those to select on.

    Selected on are the last take of every action and all takes of every fourth action (the third, the seventh, ... by name),
    so that selection sees motion of a kind that fitting does not. Actions with one take are fitted.
    """
    actions = sorted({track.action for track in data.tracks})
    unseen = set(actions[2::4])
    takes = {action: list(dict.fromkeys(t.name for t in data.tracks if t.action == action)) for action in actions}
    held = {name for action, names in takes.items() if len(names) > 1 for name in (names if action in unseen else names[-1:])}
    names = data.recordings
    held = held or set(names[-max(len(names) // 5, 1) :])
    if len(held) >= len(names):
        raise DataError(f"{data.source}: {len(names)} training takes are too few to hold one out for selection")
    parts = [tuple(t for t in data.tracks if (t.name in held) == chosen) for chosen in (False, True)]
    return replace(data, tracks=parts[0]), replace(data, tracks=parts[1])


def windows(data: MotionData, past: int, future: int, stride: int) -> Windows:
    """Windows of ``past`` and ``future`` frames, one every ``stride`` frames, ``canonical``. Shorter takes have none.

    Raises DataError when no take is long enough.
    """
    span = past + future
    starts = [(row, start) for row, t in enumerate(data.tracks) for start in range(0, len(t.joints) - span + 1, stride)]
    if not starts:
        longest = max((len(track.joints) for track in data.tracks), default=0)
        raise DataError(f"{data.source}: no take has the {span} frames of a window (the longest has {longest})")
    joints = np.stack([data.tracks[row].joints[start : start + span] for row, start in starts])
    visible = np.stack([data.tracks[row].visible[start : start + span] for row, start in starts])
    rows = [row for row, _ in starts]
    takes = np.array([data.recordings.index(data.tracks[row].name) for row in rows])
    # A joint counts where the last observed pose has it too: the floors need it.
    mask = visible[:, past:] & visible[:, past - 1 : past]
    joints = canonical(joints, past, data)
    return Windows(joints[:, :past], joints[:, past:], mask, takes, np.array([data.tracks[row].action for row in rows]))


def canonical(joints: np.ndarray, past: int, data: MotionData) -> np.ndarray:
    """Windows [N, F, J, 3] moved as a whole: the root of the last observed pose to the origin, its hip line along x.

    Errors do not change by it, and what was learned facing one way holds for all.
    """
    last = joints[:, past - 1]
    joints = joints - last[:, None, list(data.root)].mean(2, keepdims=True)
    left, right = data.hips
    line = last[:, left] - last[:, right]
    return turned(joints, -np.arctan2(line[:, 1], line[:, 0]))


def turned(joints: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """[N, F, J, 3] turned about the vertical by [N] radians."""
    c, s = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    x, y, z = joints[..., 0], joints[..., 1], joints[..., 2]
    return np.stack([c * x - s * y, s * x + c * y, z], -1)


def root_relative(data: MotionData) -> MotionData:
    """Every pose relative to its own root; a joint counts where the root is visible too."""
    root = list(data.root)
    tracks = (
        replace(t, joints=centred(t.joints, root), visible=t.visible & t.visible[:, root].all(1, keepdims=True))
        for t in data.tracks
    )
    return replace(data, tracks=tuple(tracks))


def zero_velocity(past: np.ndarray, poses: int) -> np.ndarray:
    """Repeat the last observed pose: past [N, Q, J, 3] -> [N, poses, J, 3]."""
    return np.repeat(past[:, -1:], poses, axis=1)


def constant_velocity(past: np.ndarray, poses: int) -> np.ndarray:
    """Continue the last observed step of every joint: past [N, Q, J, 3] -> [N, poses, J, 3]. Needs Q of at least 2."""
    if past.shape[1] < 2:
        raise DataError(f"constant velocity needs two observed poses, got {past.shape[1]}; use chunks of at least 2")
    step = past[:, -1:] - past[:, -2:-1]
    return past[:, -1:] + step * np.arange(1, poses + 1).reshape(1, -1, 1, 1)


def centred(poses: np.ndarray, root: Sequence[int]) -> np.ndarray:
    """[..., J, 3] minus the mean of the root joints."""
    return poses - poses[..., list(root), :].mean(-2, keepdims=True)


def _runs(name: str, action: str, split: str | None, poses) -> list[Track]:
    """A take's unbroken runs of frame numbers."""
    cuts = np.flatnonzero(np.diff(poses.frames) != 1) + 1
    rows = np.split(np.arange(len(poses.frames)), cuts)
    joints = poses.joints.astype(np.float64)
    return [Track(name, action, split, joints[r], poses.visible[r]) for r in rows if len(r)]


def _thinned(track: Track, phase: int, every: int) -> Track:
    return replace(track, joints=track.joints[phase::every], visible=track.visible[phase::every])


def filled(joints: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Invisible joints [F, J, 3] take their nearest visible [F, J] position in time, of two equally near ones the earlier.

    One that is never visible stays as it is. Time and memory grow with F, not with its square.
    """
    count = len(joints)
    frames = np.arange(count)[:, None]
    before = np.maximum.accumulate(np.where(visible, frames, -2 * count))
    after = np.minimum.accumulate(np.where(visible, frames, 3 * count)[::-1])[::-1]
    nearest = np.where(frames - before <= after - frames, before, after)
    nearest = np.where(visible.any(0), nearest, frames)
    return np.take_along_axis(joints, nearest[..., None], axis=0)
