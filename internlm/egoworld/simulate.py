"""From a seed to takes: a room, a wearer moving in it, and what the head camera sees. Writes the take store.

Every take has its own room. All randomness of a take comes from (seed, split, index), so the bytes of a store depend on
its arguments only, never on how many processes wrote it.
"""

import hashlib
import multiprocessing
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from internlm.core.errors import UserError
from internlm.data.camera import rays
from internlm.data.mocap import Motion
from internlm.data.store import SPLITS, Camera, PackedColumn, PoseTrack, StoreError, StoreWriter, TakeInfo
from internlm.data.store.column_files import read_column
from internlm.data.store.reader import read_track
from internlm.egoworld.body import BodyTrack, capsules, draw_proportions, draw_tints, head_camera
from internlm.egoworld.camera import default_camera
from internlm.egoworld.place_motion import PlacementError, fit, label_actions
from internlm.egoworld.programs import Wearer
from internlm.egoworld.render import Renderer
from internlm.egoworld.rooms import PLACES, Room, make_room
from internlm.egoworld.sight import FieldOfView
from internlm.egoworld.timeline import ACTIONS, FRAME_RATE

JPEG_QUALITY = 95
DROPOUT = 0.03  # share of joint observations lost in short gaps, as in annotated recordings


class SettingsError(UserError):
    """The asked-for world cannot be made; the message names the setting."""


@dataclass(frozen=True)
class SimulatedTake:
    """Everything of one take except the pictures, which ``images`` renders on demand. F frames at 30 Hz."""

    room: Room
    camera: Camera
    image_frames: np.ndarray  # int64 [n], the frame numbers that have an image
    joints: np.ndarray  # float64 [F, 17, 3] world metres
    visible: np.ndarray  # bool [F, 17]
    world_from_camera: np.ndarray  # float64 [F, 4, 4]
    capsules: np.ndarray  # float64 [F, C, 8], the wearer's own body as the renderer takes it
    body_tints: np.ndarray  # [4, 3] colours that the capsules refer to
    moved: list[dict[int, np.ndarray]]  # per frame: object number to its centre, of objects that are not where they were
    actions: np.ndarray  # int64 [F], index into ACTIONS
    gaze: np.ndarray | None  # float64 [F, 3] world point the eyes attend to; None for recorded motion
    about: dict[str, Any] = field(default_factory=dict)

    def images(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(frame number, rgb uint8 [H, W, 3], depth float32 [H, W] metres) of every stored image."""
        renderer = Renderer(self.room, self.camera, self.body_tints)
        for number in self.image_frames:
            rgb, depth = renderer.render(self.world_from_camera[number], self.capsules[number], self.moved[number])
            yield int(number), rgb, depth

    def pose_track(self) -> PoseTrack:
        frames = np.arange(len(self.joints))
        return PoseTrack(frames, self.joints.astype(np.float32), self.visible, frames, self.world_from_camera)

    def labels(self) -> dict[str, np.ndarray]:
        labels = {"frames": np.arange(len(self.joints)), "action": self.actions}
        return labels if self.gaze is None else {**labels, "gaze_target": self.gaze.astype(np.float32)}


def simulate_take(
    seed: int | Sequence[int],
    place: str,
    camera: Camera,
    *,
    seconds: float = 30.0,
    image_stride: int = 5,
    motion: Motion | None = None,
) -> SimulatedTake:
    """One take in a new room of class ``place``: a composed behaviour, or a recorded ``motion`` placed into the room.

    Args:
        seconds: length at 30 Hz; recorded motion may be shorter.
        image_stride: an image every so many frames; poses exist at every frame.
    """
    room_seed, wearer_seed, gap_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(3, np.uint64) >> np.uint64(1))
    rng = np.random.default_rng(wearer_seed)
    frames = round(seconds * FRAME_RATE)
    room_rng = np.random.default_rng(room_seed)
    room = make_room(room_rng, place)
    if motion is None:
        body = draw_proportions(rng)
        wearer = Wearer(room, body, FieldOfView.of(camera), frames, rng)
        line = wearer.compose()
        track = wearer.track(0, frames)
        joints, poses, seen = track.joints, track.world_from_camera, np.ones((frames, 17), bool)
        actions = np.where(standing_still(track), ACTIONS.index("stand"), line.action[:frames])
        gaze = line.gaze[:frames]
        moved = wearer.moved_objects(track)
        about = {"height": round(body.height, 4)}
    else:
        placed, room = _best_room(motion, room, frames, room_rng)
        joints, seen = placed.joints, placed.visible
        poses = head_camera(placed.world_from_head, np.radians(8.0))
        actions, gaze, about = label_actions(placed), None, {"motion": motion.name}
        moved = [{} for _ in range(len(joints))]
    return SimulatedTake(
        room=room,
        camera=camera,
        image_frames=np.arange(0, len(joints), image_stride),
        joints=joints,
        visible=seen & ~gaps(np.random.default_rng(gap_seed), len(joints), DROPOUT),
        world_from_camera=poses,
        capsules=capsules(joints, seen.all(0)),
        body_tints=draw_tints(rng),
        moved=moved,
        actions=actions,
        gaze=gaze,
        about={**about, "room_seed": room_seed},
    )


def _best_room(motion: Motion, room: Room, frames: int, rng: np.random.Generator, tries: int = 5) -> tuple[Motion, Room]:
    """The motion placed into the first of a few rooms that holds all of it, else into the one that holds most."""
    best: tuple[Motion, Room] | None = None
    for attempt in range(tries):
        try:
            placed = fit(motion, room, frames, rng)
        except PlacementError:
            if attempt == tries - 1 and best is None:
                raise
        else:
            if best is None or len(placed) > len(best[0]):
                best = placed, room
            if len(placed) >= min(len(motion), frames):
                break
        room = make_room(rng, room.place)
    return best


def standing_still(track: BodyTrack) -> np.ndarray:
    """Frames bool [F] at which no joint moves faster than 10 cm/s."""
    speed = np.linalg.norm(np.gradient(track.joints, axis=0), axis=-1).max(1) * FRAME_RATE
    return speed < 0.1


def gaps(rng: np.random.Generator, frames: int, share: float) -> np.ndarray:
    """Lost observations bool [F, 17]: short runs per joint, about ``share`` of all."""
    lost = np.zeros((frames, 17), bool)
    mean_length = 7.0
    for joint in range(17):
        for start in rng.integers(0, max(frames, 1), rng.poisson(share * frames / mean_length)):
            lost[start : start + rng.integers(3, 12), joint] = True
    return lost


# Writing


@dataclass(frozen=True)
class TakePlan:
    """What a worker process needs to write one take."""

    path: Path
    name: str
    split: str
    seed: tuple[int, ...]
    place: str
    camera: Camera
    seconds: float
    image_stride: int
    depth: bool = False
    motion: Motion | None = None

    @property
    def uid(self) -> str:
        return str(uuid.UUID(bytes=hashlib.sha256(f"{self.name}:{self.seed}".encode()).digest()[:16]))

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings that the take's bytes depend on, as JSON; stored with it."""
        return {
            "seed": list(self.seed),
            "seconds": self.seconds,
            "image_stride": self.image_stride,
            "dropout": DROPOUT,
            "camera": [self.camera.model, self.camera.width],
            "motion": self.motion.name if self.motion else None,
        }


def plan_takes(
    path: Path, takes: dict[str, int], *, seed: int, places: Sequence[str] = (), motions: Sequence[Motion] = (), **how: Any
) -> list[TakePlan]:
    """Names, seeds and place classes of all takes; places take turns so that every split has them evenly.

    With ``motions`` the takes of a split cycle through the recorded motions of that split (a motion without a split
    belongs to all). how: what is the same in all takes, as in ``TakePlan``: camera, seconds, image_stride, depth.
    """
    places = tuple(places) or tuple(PLACES)
    plans = []
    for split, count in takes.items():
        if split not in SPLITS:
            raise SettingsError(f"takes: split {split!r} is not one of {', '.join(SPLITS)}")
        pool = [motion for motion in motions if motion.split in (None, split)]
        if motions and count and not pool:
            raise SettingsError(f"no recorded motion belongs to split {split!r}; give motions of that split or no takes for it")
        for index in range(count):
            place = places[index % len(places)]
            name, motion = f"{split}_{index:04d}_{place}", pool[index % len(pool)] if pool else None
            plans.append(TakePlan(path, name, split, (seed, SPLITS.index(split), index), place, motion=motion, **how))
    return plans


def write_take(plan: TakePlan) -> str:
    """Simulate one planned take and add it to the store at ``plan.path``; returns its name."""
    cv2.setNumThreads(1)  # takes are the unit of parallel work
    options = {"seconds": plan.seconds, "image_stride": plan.image_stride, "motion": plan.motion}
    take = simulate_take(plan.seed, plan.place, plan.camera, **options)
    about = {**take.about, "recipe": plan.recipe, "actions": list(ACTIONS)}
    labels = {"place": plan.place}
    info = TakeInfo(plan.name, plan.uid, plan.split, FRAME_RATE, plan.camera, "world", labels, source="egoworld", extra=about)
    depths: list[tuple[int, np.ndarray]] = []
    directions, _ = rays(plan.camera)

    def encoded() -> Iterator[tuple[int, bytes]]:
        for number, rgb, depth in take.images():
            if plan.depth:
                depths.append((number, depth_mm(depth, directions)))
            yield number, encode_jpeg(rgb)

    writer, columns = StoreWriter(plan.path), {"depth": PackedColumn(depths, {"kind": "z"})} if plan.depth else None
    if columns and writer.info(plan.name):  # made without depth: it gets that alone
        _check_same_world(plan, take)
        for _ in encoded():
            pass
        writer.extend_take(info, columns=columns)
    else:
        writer.add_take(info, encoded(), take.pose_track(), take.labels(), columns=columns)
    return plan.name


def depth_mm(distance: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """z-depth uint16 [H, W] in millimetres from metres along the pixels' unit directions [H, W, 3]; 0 where there is none."""
    depth = np.rint(1000.0 * np.nan_to_num(distance, posinf=0.0) * directions[..., 2])
    return np.where((depth > 0) & (depth <= np.iinfo(np.uint16).max), depth, 0).astype(np.uint16)


def _check_same_world(plan: TakePlan, take: SimulatedTake) -> None:
    """StoreError when the stored take is not what this code makes of its settings: depth would not belong to its images."""
    there, track = read_track(plan.path / "takes" / plan.name), take.pose_track()
    if there is None or not all(
        a.shape == b.shape and np.allclose(a, b, atol=1e-3)
        for a, b in ((there.joints, track.joints * track.visible[..., None]), (there.world_from_camera, track.world_from_camera))
    ):
        raise StoreError(f"{plan.path}: take {plan.name!r} was made by another version of EgoWorld; choose a new folder")


def encode_jpeg(rgb: np.ndarray) -> bytes:
    """JPEG of an RGB image; full colour resolution, which matters for pictures of 64 pixels."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise RuntimeError(f"OpenCV could not encode a picture of shape {rgb.shape}")
    return data.tobytes()


def generate_store(
    path: str | os.PathLike,
    takes: dict[str, int],
    *,
    seed: int = 0,
    size: int = 64,
    seconds: float = 30.0,
    image_stride: int = 5,
    places: Sequence[str] = (),
    camera: str = "pinhole",
    depth: bool = False,
    motions: Sequence[Motion] = (),
    jobs: int = 1,
    on_take: Callable[[str], None] | None = None,
) -> Path:
    """Write a take store of ``takes`` = {"train": n, "val": n, "test": n}; complete takes of the same settings are kept.

    size: image side in pixels. camera: "pinhole" or "fisheye624". jobs: processes; the result does not depend on it.
    depth: each take has the column "depth"; takes that lack it get it, and nothing else of them changes.
    on_take is called with the name of every finished take. Raises StoreError when ``path`` holds takes of the same names
    that other settings made: resuming would mix two worlds.
    """
    writer = StoreWriter(path)
    lens = default_camera(camera, size)
    options = {"places": places, "depth": depth, "motions": motions}
    plans = plan_takes(Path(path), takes, seed=seed, camera=lens, seconds=seconds, image_stride=image_stride, **options)
    missing = []
    for plan in plans:
        made = writer.info(plan.name)
        if made is None:
            missing.append(plan)
        elif made.extra.get("recipe") != plan.recipe:
            made_by = "with other settings" if made.source == "egoworld" else f"from {made.source!r}"
            raise StoreError(f"{path}: take {plan.name!r} was made {made_by}; choose a new folder")
        elif plan.depth and not _has_depth(writer.path / "takes" / plan.name):
            missing.append(plan)
    run_plans(missing, write_take, jobs, on_take)
    return Path(path)


def _has_depth(folder: Path) -> bool:
    column = read_column(folder, "depth")
    return column is not None and column.about["kind"] == "z"  # an earlier version wrote depth along the pixel's ray


def run_plans(plans: Sequence[Any], work: Callable[[Any], str], jobs: int, on_take: Callable[[str], None] | None) -> None:
    """Call ``work`` on every plan, in ``jobs`` processes when that is more than one."""
    if jobs <= 1 or len(plans) <= 1:
        for plan in plans:
            name = work(plan)
            if on_take:
                on_take(name)
        return
    # Fresh processes: a forked one would inherit the thread pools of whatever the caller has loaded.
    with ProcessPoolExecutor(min(jobs, len(plans)), mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(work, plan) for plan in plans]):
            if on_take:
                on_take(done.result())
            else:
                done.result()
