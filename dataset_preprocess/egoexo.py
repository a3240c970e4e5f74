"""The folder tree of an Ego-Exo4D download: which takes there are, which cameras their wearers had, which files belong to them.

<root>/takes.json (or <root>/metadata/takes.json)             name, uid, cameras of every take
<root>/annotations/splits.json                                 official split of every take
<root>/annotations/ego_pose/<split>/camera_pose/<uid>.json     the takes of the body-pose benchmark, split differently
<root>/takes/<name>/frame_aligned_videos/[downscaled/448/]aria01_214-1.mp4
<root>/takes/<name>/aria01.vrs | aria01_noimagestreams.vrs | aria01_noimagestreams.calib.json
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shown
from typing import Any

from dataset_preprocess.errors import RecordingError
from dataset_preprocess.json_input import read_json
from internlm.data.store.foreign import is_foreign

SOURCE = "egoexo4d"  # what the store says of these takes
FRAME_RATE = 30.0  # of all frame-aligned videos; annotations count their frames
SPLITS = ("train", "val", "test")
RGB_STREAM = "214-1"
VIDEO_FOLDERS = {"448": "frame_aligned_videos/downscaled/448", "full": "frame_aligned_videos"}


@dataclass(frozen=True)
class EgoExoTake:
    """One take. ``wearers``: the ids of its head-worn Arias ("aria01"), in order; split None = in no list of the download."""

    name: str
    uid: str
    folder: Path
    wearers: tuple[str, ...]
    split: str | None = None
    task: str = ""


def read_takes(root: Path) -> list[EgoExoTake]:
    """Takes that the download knows, by name: those of takes.json, or without that file every folder below ``takes``.

    Raises RecordingError when there is neither, or takes.json is damaged.
    """
    table = find_table(root)
    splits = read_splits(root)
    if table is not None:
        takes = [_take(entry, root, splits, f"{table}: take {row}") for row, entry in enumerate(read_json(table, list))]
    elif (root / "takes").is_dir():
        folders = [folder for folder in (root / "takes").iterdir() if folder.is_dir() and not is_foreign(folder.name)]
        takes = [EgoExoTake(folder.name, folder.name, folder, tuple(_arias_on_disk(folder))) for folder in folders]
    else:
        raise RecordingError(f"{root}: neither takes.json nor a takes folder; give the folder that `egoexo -o` wrote to")
    names = [take.name for take in takes]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RecordingError(f"{table}: lists the take {twice!r} twice")
    return sorted(takes, key=lambda take: take.name)


def find_table(root: Path) -> Path | None:
    """takes.json where the downloader puts it, or where EgoAgent's first release looked for it."""
    return next((path for path in (root / "takes.json", root / "metadata" / "takes.json") if path.is_file()), None)


def read_splits(root: Path) -> dict[str, str]:
    """take uid -> split. The body-pose benchmark has its own split, which wins: its test poses must stay unseen."""
    splits: dict[str, str] = {}
    path = root / "annotations" / "splits.json"
    if path.is_file():
        listed = read_json(path, dict).get("split_to_take_uids")
        if not isinstance(listed, dict):
            raise RecordingError(f"{path}: has no object split_to_take_uids")
        for split, uids in listed.items():
            if not isinstance(uids, list) or not all(isinstance(uid, str) for uid in uids):
                raise RecordingError(f"{path}: split_to_take_uids.{split} is {shown(uids)}, expected a list of take uids")
            if split in SPLITS:
                splits.update((uid, split) for uid in uids)
    for split in SPLITS:
        for kind in ("camera_pose", "body/annotation", "body/automatic"):
            files = (root / "annotations" / "ego_pose" / split / kind).glob("*.json")
            splits.update((file.stem, split) for file in files)
    return splits


def rgb_video(take: EgoExoTake, aria: str, kind: str) -> Path:
    """The frame-aligned RGB video of one Aria: "448" pixels, "full" size, or "any", the small one if there. It may be missing."""
    paths = [take.folder / folder / f"{aria}_{RGB_STREAM}.mp4" for name, folder in VIDEO_FOLDERS.items() if kind in (name, "any")]
    return next((path for path in paths if path.is_file()), paths[0])


def calibration_files(take: EgoExoTake, aria: str) -> Iterator[Path]:
    """Existing files that carry the calibration of one Aria: JSON before VRS, since it needs no further package."""
    for name in (f"{aria}_noimagestreams.calib.json", f"{aria}.calib.json", f"{aria}_noimagestreams.vrs", f"{aria}.vrs"):
        path = take.folder / name
        if path.is_file():
            yield path


def _take(entry: Any, root: Path, splits: dict[str, str], where: str) -> EgoExoTake:
    if not isinstance(entry, dict):
        raise RecordingError(f"{where}: is no object")
    name, uid = entry.get("take_name"), entry.get("take_uid")
    if not (isinstance(name, str) and isinstance(uid, str)):
        raise RecordingError(f"{where}: take_name {name!r} or take_uid {uid!r} is no text")
    for value in (name, uid):
        if not value or value[0] == "." or any(sign in value for sign in "/\\\0"):
            raise RecordingError(f"{where}: {value!r} cannot be the name of a file")
    folder = root / "takes" / name
    wearers = _wearers(entry)
    if wearers is None:
        wearers = _arias_on_disk(folder)
    task = entry.get("parent_task_name") or entry.get("task_name")
    return EgoExoTake(name, uid, folder, tuple(wearers), splits.get(uid), task if isinstance(task, str) else "")


def _wearers(entry: dict[str, Any]) -> list[str] | None:
    """Ids of the Arias with ``is_ego`` and a video; None when the entry has no camera list. GoPros on a head are left out."""
    capture = entry.get("capture")
    cameras = capture.get("cameras") if isinstance(capture, dict) else None
    if not isinstance(cameras, list):
        return None
    ids = {
        camera["cam_id"]
        for camera in cameras
        if isinstance(camera, dict) and camera.get("is_ego") is True and isinstance(camera.get("cam_id"), str)
    }
    videos = entry.get("frame_aligned_videos")
    if isinstance(videos, dict) and videos:
        ids &= videos.keys()
    return sorted(cam for cam in ids if cam.startswith("aria") and cam.isalnum())


def _arias_on_disk(folder: Path) -> list[str]:
    ending = f"_{RGB_STREAM}.mp4"
    found = {path.name[: -len(ending)] for path in folder.glob(f"frame_aligned_videos/**/aria*{ending}")}
    found |= {path.name.split(".")[0].removesuffix("_noimagestreams") for path in folder.glob("aria*.vrs")}
    return sorted(found)
