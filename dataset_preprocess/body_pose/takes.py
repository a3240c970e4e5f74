"""The pose half of a take: which files belong to it, and the track that the store gets from them."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dataset_preprocess.body_pose.annotations import AUTOMATIC, MANUAL, Annotation, merge, read_annotation, usual_step
from dataset_preprocess.body_pose.camera_pose import CameraPoses, read_camera_poses
from dataset_preprocess.body_pose.filters import Filters, apply_filters
from dataset_preprocess.egoexo import FRAME_RATE, EgoExoTake, read_takes
from dataset_preprocess.errors import RecordingError
from dataset_preprocess.pipeline import SkipTake
from internlm.data.geometry import camera_coordinates, invert_rigid, transform_points
from internlm.data.store import SPLITS, PoseTrack

Coordinates = Literal["world", "camera", "first"]
COORDINATES = ("world", "camera", "first")


@dataclass(frozen=True)
class PoseFiles:
    """The annotation files of one take uid. take None = takes.json does not know it; name: the take's name, or the uid."""

    name: str
    uid: str
    split: str
    take: EgoExoTake | None
    manual: Path | None
    automatic: Path | None
    cameras: Path | None


@dataclass(frozen=True)
class PoseSettings:
    """What decides about a take's poses. annotations: see ``merge``. coordinates: of the stored joints."""

    annotations: str = "either"
    coordinates: Coordinates = "world"
    filters: Filters = field(default_factory=Filters)

    def recorded(self) -> dict[str, Any]:
        """As plain values for the manifest."""
        return asdict(self)


def find_pose_files(root: Path, splits: tuple[str, ...] = SPLITS) -> list[PoseFiles]:
    """Every take of the body-pose benchmark with an annotation, by name; also takes that other files lack.

    Raises RecordingError when there is none, or a uid stands in two splits.
    """
    base = root / "annotations" / "ego_pose"
    takes = {take.uid: take for take in read_takes(root)}
    found: dict[str, PoseFiles] = {}
    for split in splits:
        folders = [base / split / "body" / kind for kind in ("annotation", "automatic")]
        for uid in sorted({path.stem for folder in folders for path in folder.glob("*.json") if path.name[0] != "."}):
            if uid in found:
                raise RecordingError(f"{base}: {uid} is annotated in both {found[uid].split} and {split}")
            take = takes.get(uid)
            paths = (folder / f"{uid}.json" for folder in (*folders, base / split / "camera_pose"))
            manual, automatic, cameras = (path if path.is_file() else None for path in paths)
            found[uid] = PoseFiles(take.name if take else uid, uid, split, take, manual, automatic, cameras)
    if not found:
        raise RecordingError(
            f"{base}: has no body annotations for {', '.join(splits)}; fetch the parts annotations and ego_pose_pseudo_gt "
            "(egoagent data download)"
        )
    return sorted(found.values(), key=lambda files: files.name)


def read_pose_files(files: PoseFiles, choice: str) -> tuple[Annotation, CameraPoses]:
    """Annotation (of the chosen kind) and camera poses of a take, frames rising.

    SkipTake when the take is not in takes.json, or there is no annotation or no camera pose; RecordingError for damage.
    """
    if files.take is None:
        raise SkipTake(f"{files.uid} is annotated, but takes.json does not list it")
    if files.cameras is None:
        raise SkipTake(f"has no camera poses (annotations/ego_pose/{files.split}/camera_pose/{files.uid}.json)")
    manual = read_annotation(files.manual, MANUAL) if files.manual and choice != "automatic" else None
    automatic = read_annotation(files.automatic, AUTOMATIC) if files.automatic and choice != "manual" else None
    annotation = merge(manual, automatic, choice)
    if annotation is None:
        raise SkipTake(f"has no annotated frame of kind {choice!r}")
    cameras = read_camera_poses(files.cameras, files.take.wearers).in_order()
    if cameras.take_name not in (None, files.name):
        raise RecordingError(f"{files.cameras}: belongs to take {cameras.take_name!r}, takes.json says {files.name!r}")
    if not len(cameras.frames):
        raise SkipTake(f"{files.cameras}: has no extrinsics")
    return annotation, cameras


def build_track(
    annotation: Annotation, cameras: CameraPoses, settings: PoseSettings
) -> tuple[PoseTrack, dict[str, np.ndarray], dict[str, Any]]:
    """The track, labels by pose frame (``annotation``: 0 manual, 1 automatic; ``num_views``), and facts and counts.

    Coordinates: "world" as recorded (z up, any origin); "camera": each pose in its own frame's camera, frames without one are
    left out; "first": the camera of the first pose frame that has one is the world, for poses and cameras alike.
    Raises SkipTake when nothing is left.
    """
    if not annotation.visible.any():
        raise SkipTake(f"none of the {len(annotation)} annotated frames has a joint: annotation3D is empty in all of them")
    world_from_camera = cameras.world_from_camera()
    rows = np.searchsorted(cameras.frames, annotation.frames).clip(max=len(cameras.frames) - 1)
    has_camera = cameras.frames[rows] == annotation.frames
    positions = np.where(has_camera[:, None], world_from_camera[rows, :3, 3], np.nan)
    visible, hidden = apply_filters(
        settings.filters, annotation.frames, annotation.joints, annotation.visible, annotation.num_views, positions
    )
    if not has_camera.any():
        raise SkipTake(f"none of the {len(annotation)} annotated frames has a camera pose")
    kept = visible.any(1) & (has_camera if settings.coordinates == "camera" else True)
    if not visible.any():
        told = ", ".join(f"{count:,} by {name}" for name, count in hidden.items() if count)
        raise SkipTake(
            f"the filters hid every one of the {int(annotation.visible.sum()):,} joints in {len(annotation)} frames: {told}; "
            "--no-filters keeps them"
        )
    if not kept.any():
        raise SkipTake(
            f"none of the {int(visible.any(1).sum())} frames with a joint has a camera pose, which --coordinates camera needs"
        )
    joints = annotation.joints
    if settings.coordinates == "camera":
        joints = camera_coordinates(joints, world_from_camera[rows])
    elif settings.coordinates == "first":
        first_from_world = invert_rigid(world_from_camera[rows[has_camera][0]])
        joints = transform_points(first_from_world, joints)
        world_from_camera = first_from_world @ world_from_camera
    frames, joints = annotation.frames[kept], np.where(visible[..., None], joints, 0.0)[kept].astype(np.float32)
    track = PoseTrack(frames, joints, visible[kept], cameras.frames, world_from_camera)
    labels = {"frames": frames, "annotation": annotation.source[kept], "num_views": annotation.num_views[kept]}
    step = usual_step(frames)
    counts = {
        "poses": len(frames),
        "camera_poses": len(cameras.frames),
        "joints": int(visible[kept].sum()),
        "gaps": int((np.diff(frames) != step).sum()),
        "manual_poses": int((annotation.source[kept] == MANUAL).sum()),
        "frames_without_extrinsics": cameras.missing,
        "poses_without_camera": int((~has_camera[kept]).sum()),
        "frames_left_out": int((~kept).sum()),
        **{f"joints_hidden_by_{name}": count for name, count in hidden.items()},
    }
    facts = {"pose_rate": f"{FRAME_RATE / step:g} Hz", **{name: count for name, count in counts.items() if count}}
    return track, labels, facts
