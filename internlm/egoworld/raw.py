"""EgoWorld in the folder layout of Ego-Exo4D, so that the preprocessing can be run and checked against known truth.

    takes.json  annotations/splits.json  egoworld.json (the settings of every take)
    annotations/ego_pose/<split>/body/{annotation,automatic}/<uid>.json    joints by frame; annotation at 10 Hz, automatic at 30
    annotations/ego_pose/<split>/camera_pose/<uid>.json                    world-to-camera 3x4 of the landscape sensor
    takes/<name>/frame_aligned_videos/downscaled/448/aria01_214-1.mp4      upright h264, 30 Hz, FISHEYE624
    takes/<name>/aria01_noimagestreams.calib.json                          the device calibration that a VRS file carries

As in the real data the world's origin and heading are arbitrary (z up, not the floor), the calibration is that of the raw
2880-pixel landscape sensor while the video is upright and smaller, and every device has its own calibration.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from internlm.core.files import write_text
from internlm.data.camera import ARIA_SIZE
from internlm.data.mocap import Motion
from internlm.data.store import COCO_JOINTS, Camera, TakeStore
from internlm.data.store.unfinished import unfinished
from internlm.egoworld.camera import ARIA_DISTORTION, ARIA_FOCAL
from internlm.egoworld.simulate import SettingsError, SimulatedTake, TakePlan, plan_takes, run_plans, simulate_take
from internlm.egoworld.timeline import FRAME_RATE

RAW_SIZE = 2880
BT601 = 6  # ITU-T H.273, matrix coefficients
CROP = 32  # the 1408 picture is the raw one less 32 pixels on each side, halved
LANDSCAPE_FROM_UPRIGHT = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # the sensor lies on its side: up is -x
MANUAL_STEP = 3  # annotated by hand at 10 Hz, with a phase of each take's own
PINHOLE = [[150.0, 0.0, 255.5], [0.0, 150.0, 255.5], [0.0, 0.0, 1.0]]


def generate_raw(
    path: str | os.PathLike,
    takes: dict[str, int],
    *,
    seed: int = 0,
    size: int = 448,
    seconds: float = 30.0,
    places: Sequence[str] = (),
    motions: Sequence[Motion] = (),
    jobs: int = 1,
    on_take: Callable[[str], None] | None = None,
) -> Path:
    """Write takes = {"train": n, "val": n, "test": n} below ``path``; takes that are complete are kept, and so are others there.

    size: side of the video in pixels, even. Raises SettingsError for an odd size, and where ``path`` has a download or a take
    store that is not EgoWorld's.
    """
    if size % 2:
        raise SettingsError(f"size {size}: h264 video needs an even number of pixels")
    path = Path(path)
    _check_ours(path)
    options = {"seed": seed, "seconds": seconds, "places": places, "motions": motions}
    planned = plan_takes(path, takes, camera=device_camera(np.random.default_rng(0), size), image_stride=1, **options)
    plans = [replace(plan, camera=device_camera(np.random.default_rng([*plan.seed, 214]), size)) for plan in planned]
    (path / "takes").mkdir(parents=True, exist_ok=True)
    _check_recipes(path / "egoworld.json", {plan.name: plan.recipe for plan in plans})
    run_plans([plan for plan in plans if not (path / "takes" / plan.name).is_dir()], write_raw_take, jobs, on_take)
    _write_tables(path, plans)
    return path


def _write_tables(path: Path, plans: Sequence[TakePlan]) -> None:
    """takes.json and splits.json: the planned takes, and those of earlier calls."""
    entries = {entry["take_name"]: entry for entry in _read_json(path / "takes.json", list)}
    _write_json(path / "takes.json", list({**entries, **{plan.name: _take_entry(plan) for plan in plans}}.values()))
    table = _read_json(path / "annotations" / "splits.json", dict)
    splits: dict[str, list[str]] = {}
    for split in ("train", "val", "test"):
        listed = table.get("split_to_take_uids", {}).get(split, [])
        splits[split] = list(dict.fromkeys([*listed, *(plan.uid for plan in plans if plan.split == split)]))
    benchmark = {**table.get("take_uid_to_benchmark", {}), **{plan.uid: ["ego_pose"] for plan in plans}}
    _write_json(path / "annotations" / "splits.json", {"take_uid_to_benchmark": benchmark, "split_to_take_uids": splits})


def _check_ours(path: Path) -> None:
    """SettingsError where a take store or somebody else's download is: its takes.json and splits.json would be lost."""
    if TakeStore.is_store(path):
        raise SettingsError(f"{path}: is a take store; --raw writes the folders of a download: choose a new folder")
    theirs = [name for name in ("takes.json", "metadata/takes.json", "annotations/splits.json") if (path / name).exists()]
    if theirs and not (path / "egoworld.json").is_file():
        raise SettingsError(f"{path}: holds a download that EgoWorld did not write ({theirs[0]}); choose a new folder")


def _read_json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else kind()
    except ValueError as error:
        raise SettingsError(f"{path}: is damaged ({error}); choose a new folder") from None
    if not isinstance(content, kind):
        raise SettingsError(f"{path}: is damaged (a {type(content).__name__}); choose a new folder")
    return content


def _check_recipes(path: Path, recipes: dict[str, dict[str, Any]]) -> None:
    """Remember the settings of every take; SettingsError when takes of the same names were made with others."""
    known = _read_json(path, dict)
    for name in recipes.keys() & known.keys():
        if known[name] != recipes[name]:
            raise SettingsError(f"{path.parent}: take {name!r} was made with other settings; choose a new folder")
    _write_json(path, {**known, **recipes})


def write_raw_take(plan: TakePlan) -> str:
    """Simulate a take and write its video, calibration and annotations; the take folder appears last."""
    import cv2

    cv2.setNumThreads(1)
    take = simulate_take(plan.seed, plan.place, plan.camera, seconds=plan.seconds, image_stride=1, motion=plan.motion)
    with unfinished(plan.path / "takes" / plan.name) as folder:
        video = folder / "frame_aligned_videos" / "downscaled" / "448" / "aria01_214-1.mp4"
        video.parent.mkdir(parents=True)
        write_video(video, take)
        _write_json(folder / "aria01_noimagestreams.calib.json", device_calibration(plan.camera, serial=plan.uid[:12]))
        rng = np.random.default_rng([*plan.seed, 3])
        world = arbitrary_world(take, rng)
        poses = plan.path / "annotations" / "ego_pose" / plan.split
        phase = int(rng.integers(MANUAL_STEP))
        every = range(len(take.joints))
        _write_json(poses / "body" / "automatic" / f"{plan.uid}.json", body_json(take, world, every))
        _write_json(poses / "body" / "annotation" / f"{plan.uid}.json", body_json(take, world, every[phase::MANUAL_STEP]))
        _write_json(poses / "camera_pose" / f"{plan.uid}.json", camera_json(take, world, plan))
    return plan.name


# Camera


def device_camera(rng: np.random.Generator, size: int) -> Camera:
    """An upright FISHEYE624 camera of ``size`` pixels whose calibration differs from device to device, as real ones do."""
    focal = ARIA_FOCAL + rng.uniform(-4, 4)
    centre = (ARIA_SIZE - 1) / 2 + rng.uniform(-8, 8, 2)
    distortion = np.array(ARIA_DISTORTION) * rng.uniform(0.98, 1.02, len(ARIA_DISTORTION))
    scale = size / ARIA_SIZE
    place = (centre + 0.5) * scale - 0.5
    return Camera("fisheye624", size, size, (focal * scale, *place, *distortion))


def sensor_params(camera: Camera) -> list[float]:
    """FISHEYE624 parameters of the raw 2880-pixel landscape sensor whose upright, cropped, halved and scaled picture
    ``camera`` describes. Inverse of: crop 32, halve, scale to the picture's size, turn by 90 degrees clockwise."""
    scale = ARIA_SIZE / camera.width
    focal, cx, cy = camera.params[0] * scale, *((np.array(camera.params[1:3]) + 0.5) * scale - 0.5)
    x, y = cy, ARIA_SIZE - 1 - cx
    p0, p1, s0, s1, s2, s3 = camera.params[9:15]
    raw_place = [2 * c + CROP + 0.5 for c in (x, y)]
    # Tangential and prism terms are vectors in the picture plane and turn with the axes: x_l = y_u, y_l = -x_u.
    return [float(v) for v in (2 * focal, *raw_place, *camera.params[3:9], p1, -p0, s2, s3, -s0, -s1)]


def device_calibration(camera: Camera, serial: str) -> dict[str, Any]:
    """The calibration JSON of a device, reduced to what describes its RGB camera."""
    about = json.loads(Path(__file__).with_name("device_calibration.json").read_bytes())
    about["Serial"] = about["CameraCalibrations"][0]["SerialNumber"] = serial
    about["CameraCalibrations"][0]["Projection"]["Params"] = sensor_params(camera)
    return about


def write_video(path: Path, take: SimulatedTake) -> None:
    """Upright h264 video of every frame. One encoder thread, so that the bytes are the same on every machine load."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=int(FRAME_RATE), options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = take.camera.width, take.camera.height, "yuv420p"
        stream.thread_count = 1
        stream.codec_context.colorspace = BT601  # what the conversion below uses; without a mark large videos are read by BT.709
        for _, rgb, _ in take.images():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode())


# Annotations


def arbitrary_world(take: SimulatedTake, rng: np.random.Generator) -> np.ndarray:
    """Transform [4, 4] from room to recording coordinates: z up, origin at the first camera position, any heading."""
    angle = rng.uniform(-np.pi, np.pi)
    c, s = np.cos(angle), np.sin(angle)
    world = np.eye(4)
    world[:2, :2] = [[c, -s], [s, c]]
    world[:3, 3] = -world[:3, :3] @ take.world_from_camera[0, :3, 3]
    return world


def body_json(take: SimulatedTake, world: np.ndarray, frames: Sequence[int]) -> dict[str, list[dict]]:
    """Joints by frame; a joint that is not visible has no entry, as in the real files."""
    joints = np.round(take.joints @ world[:3, :3].T + world[:3, 3], 5)
    result: dict[str, list[dict]] = {}
    for frame in frames:
        seen = {
            name: {"x": float(p[0]), "y": float(p[1]), "z": float(p[2]), "num_views_for_3d": 4}
            for name, p, visible in zip(COCO_JOINTS, joints[frame], take.visible[frame], strict=True)
            if visible
        }
        result[str(frame)] = [{"annotation3D": seen, "annotation2D": {}}]
    return result


def camera_json(take: SimulatedTake, world: np.ndarray, plan: TakePlan) -> dict[str, Any]:
    """World-to-camera of the landscape sensor by frame, with the 512-pixel pinhole that the published files carry."""
    camera_from_world = np.linalg.inv(world @ take.world_from_camera)
    camera_from_world[:, :3] = LANDSCAPE_FROM_UPRIGHT @ camera_from_world[:, :3]
    extrinsics = {str(frame): matrix[:3].tolist() for frame, matrix in enumerate(camera_from_world)}
    return {
        "metadata": {"take_name": plan.name, "take_uid": plan.uid},
        "aria01": {"camera_intrinsics": PINHOLE, "camera_extrinsics": extrinsics},
    }


def _take_entry(plan: TakePlan) -> dict[str, Any]:
    video = "frame_aligned_videos/downscaled/448/aria01_214-1.mp4"
    return {
        "take_name": plan.name,
        "take_uid": plan.uid,
        "capture_uid": plan.uid,
        "root_dir": f"takes/{plan.name}",
        "task_name": plan.place,
        "parent_task_name": plan.place,
        "duration_sec": plan.seconds,
        "validated": True,
        "capture": {"cameras": [{"cam_id": "aria01", "is_ego": True, "device_type": "aria"}]},
        "frame_aligned_videos": {"aria01": {"rgb": {"cam_id": "aria01", "stream_id": "214-1", "relative_path": video}}},
    }


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content))
