"""Takes as clips: T+1 images and T chunks of P body poses, paired by frame number, never by position."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from internlm.config.schema import ClipConfig, CropConfig
from internlm.data.augment import clip_crop, resize_crop
from internlm.data.contents import Contents, described, joined
from internlm.data.frames import BrokenFile, DataError, decode, frame_name, select_takes
from internlm.data.geometry import camera_coordinates, chunk_coordinates, transform_points
from internlm.data.photometric import clip_photometric
from internlm.data.store import COCO_JOINTS, PoseTrack, StoreError, Take

_NO_ROW = -1
_NO_FRAMES, _JOINTS = np.empty(0, np.int64), len(COCO_JOINTS)
_NO_POSES = PoseTrack(
    _NO_FRAMES, np.empty((0, _JOINTS, 3), np.float32), np.empty((0, _JOINTS), bool), _NO_FRAMES, np.empty((0, 4, 4))
)


@dataclass(frozen=True)
class _Track:
    """A take's arrays, with a table from frame number to row (``_NO_ROW`` where there is none)."""

    pose_space: str | None
    has_image: np.ndarray  # bool [span]
    pose_row: np.ndarray  # int32 [span]
    camera_row: np.ndarray  # int32 [span]
    poses: PoseTrack


class ClipDataset:
    """All clips of a split: every (take, first frame number) for which images, poses and needed cameras exist.

    A clip of T steps starting at frame f has images at f, f+s, .., f+T·s (s = clip.frame_stride) and chunk t has the poses
    f+t·s + p·q (q = pose_stride, p < P). Pose coordinates ``camera``: each pose in its own frame's camera. ``chunk``: all
    poses of chunk t, and the P poses before it, in the camera of image I_t. The pose arrays of all takes are kept in memory.

    Raises DataError when no clip exists, saying which condition excluded how many starts.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike],
        split: str | None,
        clip: ClipConfig,
        poses_per_step: int,
        num_joints: int,
        image_size: int,
        crops: CropConfig | None = None,
    ):
        if num_joints != len(COCO_JOINTS):
            raise DataError(f"model.num_joints is {num_joints}; take stores hold the {len(COCO_JOINTS)} COCO joints")
        if not paths:
            raise DataError("no clip paths given (data.clips is empty)")
        self.clip, self.crops, self.image_size = clip, crops or CropConfig(), image_size
        self.pose_stride = clip.pose_stride or clip.frame_stride // poses_per_step
        self.image_offsets = np.arange(clip.steps + 1) * clip.frame_stride
        self.pose_offsets = self.image_offsets[:-1, None] + np.arange(poses_per_step) * self.pose_stride
        self.past_offsets = self.image_offsets[:-1, None] + np.arange(-poses_per_step, 0) * self.pose_stride
        self._by_path = [select_takes(path, split) for path in paths]
        self.takes: list[Take] = [take for takes in self._by_path for take in takes]
        self._tracks = [_load_track(take) for take in self.takes]
        excluded: Counter[str] = Counter()
        starts = [self._valid_starts(track, excluded) for track in self._tracks]
        self.first_frames = np.concatenate(starts)
        self.take_rows = np.repeat(np.arange(len(starts), dtype=np.int32), [len(s) for s in starts])
        if not len(self.first_frames):
            raise DataError(self._nothing_found(paths, split, excluded))

    def __len__(self) -> int:
        return len(self.first_frames)

    def contents(self) -> Contents:
        """By take the first frames of its clips."""
        ends = np.cumsum(np.bincount(self.take_rows, minlength=len(self.takes)))
        starts = iter(np.split(self.first_frames, ends[:-1]))  # one after another for all paths
        return joined(
            [
                {take.info.name: described(len(own), "clip", own.tobytes()) for take, own in zip(takes, starts) if len(own)}
                for takes in self._by_path
            ]
        )

    @property
    def files(self) -> int:
        """Stored images of all takes."""
        return sum(len(take.frame_numbers) for take in self.takes)

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        """One clip as arrays named as in ClipBatch, without the batch axis and sample_ids.

        rng draws the shared crop and photometric change (in the strengths of ``crops``); None = the central square, unchanged.
        Raises BrokenFile, whose ``resume_at`` is the first clip that does not use the broken frame.
        """
        row = int(self.take_rows[index])
        take, track = self.takes[row], self._tracks[row]
        first = int(self.first_frames[index])
        numbers = first + self.image_offsets
        poses, visible = self._poses(track, numbers[:-1], first + self.pose_offsets)
        past_poses, past_visible = self._poses(track, numbers[:-1], first + self.past_offsets)
        return {
            "images": self._images(take, numbers, index, rng),
            "photometric": clip_photometric(rng, self.clip, self.crops),
            "poses": poses,
            "visible": visible,
            "past_poses": past_poses,
            "past_visible": past_visible,
            "frame_numbers": numbers,
            "takes": np.int64(row),
        }

    def cameras(self, take_row: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """world_from_camera float64 [..., 4, 4] of a take's frame numbers [...], and which are stored, bool [...].

        ``take_row`` is the take's place in ``takes``; those that are not stored come out as the identity.
        """
        track = self._tracks[take_row]
        rows, known = _look_up(track.camera_row, numbers)
        stored = track.poses.world_from_camera if len(track.poses.world_from_camera) else np.eye(4)[None]
        return np.where(known[..., None, None], stored[rows], np.eye(4)), known

    def evaluation_starts(self, hop: int | None = None, limit: int | None = None) -> np.ndarray:
        """Indices of clips whose first frames are at least ``hop`` frame numbers apart within a take.

        hop None = clips share no image. limit keeps that many, spread evenly over all.
        """
        if hop is None:
            hop = int(self.image_offsets[-1]) + self.clip.frame_stride
        kept, last_take, last_frame = [], -1, 0
        for index, (take, frame) in enumerate(zip(self.take_rows.tolist(), self.first_frames.tolist())):
            if take != last_take or frame >= last_frame + hop:
                kept.append(index)
                last_take, last_frame = take, frame
        chosen = np.array(kept, np.int64)
        if limit is not None and limit < len(chosen):
            chosen = chosen[np.linspace(0, len(chosen) - 1, limit).round().astype(np.int64)]
        return chosen

    def _images(self, take: Take, numbers: np.ndarray, index: int, rng: np.random.Generator | None) -> np.ndarray:
        images = np.empty((len(numbers), 3, self.image_size, self.image_size), np.uint8)
        crop = clip_crop(rng, self.clip)
        for step, number in enumerate(numbers.tolist()):
            try:
                image = decode(take.read_frame(number))
            except (OSError, ValueError, StoreError) as error:
                row = self.take_rows[index]
                end = int(np.searchsorted(self.take_rows, row, side="right"))
                resume_at = index + int(np.searchsorted(self.first_frames[index:end], number, side="right"))
                raise BrokenFile(frame_name(take, number), error, resume_at) from None
            resize_crop(image, crop.box(*image.shape[:2]), images[step])
        return images

    def _poses(self, track: _Track, anchors: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Joints [T, P, J, 3] and visibility [T, P, J] of frame numbers [T, P] in the configured coordinates.

        Frames that lack a pose or a needed camera come out as zeros, not visible.
        """
        rows, known = _look_up(track.pose_row, numbers)
        joints = track.poses.joints[rows]
        chunk = self.clip.pose_coordinates == "chunk"
        if track.pose_space == "world" or chunk:
            own_rows, own_known = _look_up(track.camera_row, numbers)
            world = joints.astype(np.float64)
            if track.pose_space == "camera":
                world = transform_points(track.poses.world_from_camera[own_rows], world)
            if track.pose_space == "camera" or not chunk:
                known = known & own_known
            if chunk:
                joints = chunk_coordinates(world, track.poses.world_from_camera[_look_up(track.camera_row, anchors)[0]])
            else:
                joints = camera_coordinates(world, track.poses.world_from_camera[own_rows])
        visible = track.poses.visible[rows] & known[..., None]
        return np.where(visible[..., None], joints, 0).astype(np.float32), visible

    def _valid_starts(self, track: _Track, excluded: Counter[str]) -> np.ndarray:
        """First frame numbers int64 of the take's clips; counts the excluded ones by the first reason that holds."""
        starts = np.flatnonzero(track.has_image)
        chunk = self.clip.pose_coordinates == "chunk"
        pose_cameras = track.pose_space == "camera" if chunk else track.pose_space == "world"
        span = len(track.has_image)
        fits = starts + self.image_offsets[-1] < span
        excluded["the take ends before the clip does"] += int((~fits).sum())
        starts = starts[fits]
        checks = [("an image is missing (gap in the frame numbers)", track.has_image, self.image_offsets)]
        checks.append(("a body pose is missing", track.pose_row != _NO_ROW, self.pose_offsets.ravel()))
        if pose_cameras:
            checks.append(("a pose's camera pose is missing", track.camera_row != _NO_ROW, self.pose_offsets.ravel()))
        if chunk:
            checks.append(("an image's camera pose is missing", track.camera_row != _NO_ROW, self.image_offsets[:-1]))
        for reason, present, offsets in checks:
            good = np.ones(len(starts), bool)
            for offset in offsets.tolist():  # one offset at a time keeps memory at one array per take
                good &= present[starts + offset]
            excluded[reason] += int((~good).sum())
            starts = starts[good]
        return starts

    def _nothing_found(self, paths: Sequence[str | os.PathLike], split: str | None, excluded: Counter[str]) -> str:
        frames = sum(int(track.has_image.sum()) for track in self._tracks)
        reasons = "; ".join(f"{count}: {reason}" for reason, count in excluded.items() if count) or "there is no frame"
        return (
            f"no clip in {', '.join(map(str, paths))} (split {split!r}, {len(self.takes)} takes, {frames} frames): a clip "
            f"needs {len(self.image_offsets)} images every {self.clip.frame_stride} frame numbers and {self.pose_offsets.size} "
            f"poses every {self.pose_stride}, coordinates {self.clip.pose_coordinates!r}. Starts excluded: {reasons}"
        )


def _load_track(take: Take) -> _Track:
    try:
        images, poses = take.frame_numbers, take.poses() or _NO_POSES
    except StoreError as error:
        raise DataError(str(error)) from None
    span = 1 + max((int(own[-1]) for own in (images, poses.frames, poses.camera_frames) if len(own)), default=-1)
    has_image = np.zeros(span, bool)
    has_image[images] = True
    return _Track(take.info.pose_space, has_image, _row_table(poses.frames, span), _row_table(poses.camera_frames, span), poses)


def _row_table(numbers: np.ndarray, span: int) -> np.ndarray:
    table = np.full(span, _NO_ROW, np.int32)
    table[numbers] = np.arange(len(numbers))
    return table


def _look_up(table: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of frame numbers (0 where unknown) and which are known; numbers before the take's start are unknown."""
    rows = np.where(numbers >= 0, table[np.clip(numbers, 0, len(table) - 1)], _NO_ROW)
    return np.maximum(rows, 0), rows != _NO_ROW
