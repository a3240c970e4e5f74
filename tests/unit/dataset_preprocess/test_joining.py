"""Several commands on the takes of one name: each adds its own part or is refused, and none removes what another wrote."""

import json
import multiprocessing
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from column_samples import columns
from data_samples import data_command, jpeg, picture, write_take
from hypothesis import given, settings
from hypothesis import strategies as st
from store_samples import FRAMES, STAMPS, info, track, tree

from dataset_preprocess.extract_vrs_frames import Recording
from dataset_preprocess.manifest import Entry, Manifest
from dataset_preprocess.pipeline import run_jobs
from internlm.data.store import COCO_JOINTS, StoreError, StoreWriter, TakeConflict, TakeInfo, TakeStore
from internlm.egoworld.raw import generate_raw
from internlm.egoworld.simulate import SettingsError, generate_store

SECONDS = 2


def write_motion(path: Path, frames: int = 30 * SECONDS, rate: int = 30) -> Path:
    """A standing person who sways, as an archive with COCO's joint names."""
    heights = np.linspace(1.7, 0.1, len(COCO_JOINTS))
    sway = 0.05 * np.sin(np.arange(frames) / rate)
    joints = np.zeros((frames, len(COCO_JOINTS), 3))
    joints[..., 0] = sway[:, None] + np.where([name.startswith("left") for name in COCO_JOINTS], 0.2, -0.2)
    joints[..., 2] = heights
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, joint_names=np.array(COCO_JOINTS), joints=joints.astype(np.float32), fps=rate, up="z")
    return path


def write_film(path: Path, frames: int = 30 * SECONDS, rate: int = 30) -> Path:
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, 48, 64), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def recordings(tmp_path):
    """(motion file, video) of one name and length."""
    return write_motion(tmp_path / "poses" / "walk.npz"), write_film(tmp_path / "films" / "walk.mp4")


def motion(store: Path, file: Path, *words) -> int:
    return data_command("mocap", store, file, "--workers", 0, *words)


def film(store: Path, file: Path, *words) -> int:
    return data_command("videos", store, file, "--size", 32, "--workers", 0, *words)


def test_motion_and_its_video_become_one_take_in_either_order(tmp_path, recordings):
    poses, video = recordings
    for store, steps in (("a", (motion, film)), ("b", (film, motion))):
        for step in steps:
            words = ("--rate", 30) if step is film else ()
            assert step(tmp_path / store, video if step is film else poses, *words) == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    take = TakeStore(tmp_path / "a").take("walk")
    assert len(take.frame_numbers) == len(take.poses().frames) == 60
    assert take.info.source == "mocap+video" and take.info.pose_space == "world" and take.info.extra["video_rate"] == 30
    assert {source: of["extra"]["file"] for source, of in take.info.extra["writers"].items()} == {
        "mocap": "walk.npz",
        "video": "walk.mp4",
    }
    assert data_command("check", tmp_path / "a") == 0
    before = tree(tmp_path / "a")
    assert motion(tmp_path / "a", poses) == 0 == film(tmp_path / "a", video, "--rate", 30)
    assert motion(tmp_path / "a", poses, "--force") == 0 == film(tmp_path / "a", video, "--rate", 30, "--force")
    assert tree(tmp_path / "a") == before, "the same commands again change nothing"


@pytest.mark.parametrize("first", ["motion", "film"])
def test_parts_that_do_not_belong_together_are_refused_and_both_stay(tmp_path, recordings, capfd, first):
    poses, video = recordings
    store = tmp_path / "s"
    steps = [(motion, poses), (film, video)][:: 1 if first == "motion" else -1]
    assert steps[0][0](store, steps[0][1]) == 0
    before = tree(store / "takes")
    capfd.readouterr()
    assert steps[1][0](store, steps[1][1]) == 1, "30 Hz and the default 5 Hz"
    told = capfd.readouterr().err
    rates = ("30", "5.0") if first == "motion" else ("5.0", "30")
    for word in ("take 'walk'", f"frame_rate {rates[0]}", f"now {rates[1]}", "poses", "--rate", "another store", "--replace"):
        assert word in told, (word, told)
    assert tree(store / "takes") == before
    assert data_command("check", store) == 0, "nothing is wrong with what is there"
    assert "1 refused" in (out := capfd.readouterr().out) and "odd: step" in out
    short = (
        write_film(tmp_path / "short" / "walk.mp4", 40) if first == "motion" else write_motion(tmp_path / "x" / "walk.npz", 40)
    )
    store = tmp_path / "t"
    assert steps[0][0](store, steps[0][1], *(("--rate", 30) if first == "film" else ())) == 0
    before = tree(store / "takes")
    assert steps[1][0](store, short, *(("--rate", 30) if first == "motion" else ())) == 1
    told = capfd.readouterr().err
    ends = ("frame 39", "frame 59") if first == "motion" else ("frame 59", "frame 39")
    assert f"images end at {ends[0]} and its poses at {ends[1]}" in told, told
    assert tree(store / "takes") == before


def test_replace_removes_what_another_command_wrote_and_says_so(tmp_path, recordings, capfd):
    poses, video = recordings
    store = tmp_path / "s"
    assert motion(store, poses) == 0 and film(store, video, "--replace") == 0
    take = TakeStore(store).take("walk")
    assert take.poses() is None and take.info.source == "video" and take.info.frame_rate == 5
    capfd.readouterr()
    assert data_command("check", store) == 0
    assert "step motion: 1 skipped" in capfd.readouterr().out
    assert Manifest(store, "motion").read("walk").reason == "its take 'walk' was replaced by step frames (--replace)"
    assert motion(store, poses) == 1, "tried again, and refused"
    assert motion(store, poses, "--replace") == 0
    take = TakeStore(store).take("walk")
    assert len(take.poses().frames) == 60 and len(take.frame_numbers) == 0


def test_force_makes_its_own_part_again_at_another_rate(tmp_path, recordings):
    video = recordings[1]
    store = tmp_path / "s"
    assert film(store, video) == 0 and film(store, video, "--rate", 10, "--force") == 0
    assert TakeStore(store).take("walk").info.frame_rate == 10
    assert film(store, video, "--rate", 10, "--split", "val", "--force") == 0
    assert TakeStore(store).take("walk").info.split == "val"


def test_another_file_of_the_same_name_is_not_taken_for_done(tmp_path, recordings, capfd):
    store = tmp_path / "s"
    assert film(store, recordings[1]) == 0
    other = write_film(tmp_path / "second" / "walk.mp4", 90)
    capfd.readouterr()
    assert film(store, other) == 1
    assert "was made from another file of that name (walk.mp4 of" in capfd.readouterr().out
    assert film(store, recordings[1]) == 0, "the first one is kept"
    recordings[1].unlink()
    other.unlink()
    assert film(store, tmp_path / "second" / "walk.mp4") == 0, "a source that is gone cannot be compared"


def test_takes_of_other_writers_are_never_replaced(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    world = TakeInfo("walk", "walk", "train", 30.0, pose_space="world", source="egoworld", extra={"recipe": "7"})
    writer.add_take(world, FRAMES, track(range(46)), {"frames": np.arange(3), "action": np.arange(3)})
    before = tree(tmp_path / "s")
    other = replace(world, pose_space=None, source="aria-vrs", extra={"file": "walk.vrs"})
    for parts, message in (
        ({"frames": FRAMES}, "'egoworld' wrote its frames, and"),
        ({"frames": FRAMES, "labels": STAMPS}, "labels action would be lost"),
        ({"poses": track(range(46))}, "'egoworld' wrote its poses, and"),
    ):
        with pytest.raises(TakeConflict, match=message):
            writer.extend_take(replace(other, pose_space="world" if "poses" in parts else None), **parts)
    with pytest.raises(StoreError, match="got no frame"):
        writer.extend_take(world, [])
    assert tree(tmp_path / "s") == before


COLUMNS = {"gaze": "gaze", "features": "features/dinov2"}
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["mocap", "video", "egoexo4d"]),
        st.sets(st.sampled_from(["frames", "poses", "labels", "gaze", "features"]), min_size=1),
        st.sampled_from([30.0, 30.0, 30.0, 5.0]),
        st.sampled_from(["train", "train", "val"]),
        st.sampled_from([46, 46, 46, 20]),
        st.booleans(),
    ),
    max_size=7,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_whatever_commands_come_a_part_changes_only_by_its_own_writer(tmp_path_factory, steps):
    """Each step gives its parts and leaves the others, or is refused and changes nothing; repeated, it changes nothing."""
    path = tmp_path_factory.mktemp("steps")
    writer, owner = StoreWriter(path / "s"), {}
    for source, parts, rate, split, length, packed in steps:
        row = TakeInfo(
            "t", "t", split, rate, None, "world" if "poses" in parts else None, {source: "1"}, source, {"file": source}
        )
        given = {
            "frames": [(n, data) for n, data in FRAMES if n < length] if "frames" in parts else None,
            "poses": track(range(length)) if "poses" in parts else None,
            "labels": {"frames": np.arange(length), source: np.arange(length)} if "labels" in parts else None,
            "columns": {COLUMNS[part]: columns(range(length))[COLUMNS[part]] for part in parts & COLUMNS.keys()},
        }
        before = tree(path / "s")
        if not owner and parts == {"labels"}:
            continue
        try:
            writer.extend_take(row, **given, packed=packed)
        except TakeConflict as error:
            assert tree(path / "s") == before and "take 't'" in str(error) and "--replace" in str(error)
            continue
        assert all(owner.get(part, source) == source for part in parts), "another's part was replaced"
        owner |= dict.fromkeys(parts, source)
        take = TakeStore(path / "s").take("t")
        there = {"frames": len(take.frame_numbers), "poses": take.poses(), "labels": take.labels()}
        there |= {part: take.column(name) for part, name in COLUMNS.items()}
        assert {part for part, value in there.items() if value} == set(owner)
        assert take.info.source == "+".join(sorted(set(owner.values()))) and take.info.labels == dict.fromkeys(
            sorted(set(owner.values())), "1"
        )
        after = tree(path / "s")
        changed = {name.split("/")[-1].split(".")[0] for name in before if before[name] != after.get(name) and "/t/" in name}
        assert changed <= {"take", *parts} | ({"dinov2"} if "features" in parts else set()) | (
            {f"frame_{n:07d}" for n, _ in FRAMES} if "frames" in parts else set()
        )
        writer.extend_take(row, **given, packed=packed)
        assert tree(path / "s") == after
    shutil.rmtree(path)


def test_a_world_is_not_generated_over_recordings(tmp_path):
    name = generated_name(tmp_path / "w")
    StoreWriter(tmp_path / "s").add_take(
        TakeInfo(name, name, "train", 30.0, source="mocap", pose_space="world"), poses=track(range(5))
    )
    before = tree(tmp_path / "s")
    with pytest.raises(StoreError, match=f"take '{name}' was made from 'mocap'; choose a new folder"):
        generate_store(tmp_path / "s", {"train": 1}, size=16, seconds=1.0)
    assert tree(tmp_path / "s") == before


def test_a_world_gets_the_depth_that_its_takes_lack(tmp_path):
    generate_store(tmp_path / "whole", {"train": 1}, size=16, seconds=0.5, depth=True)
    generate_store(tmp_path / "s", {"train": 1}, size=16, seconds=0.5)
    generate_store(tmp_path / "s", {"train": 1}, size=16, seconds=0.5, depth=True)
    assert tree(tmp_path / "s") == tree(tmp_path / "whole")


def test_a_raw_world_is_not_written_over_a_download_and_keeps_its_own_takes(tmp_path):
    for name in ("takes.json", "metadata/takes.json", "annotations/splits.json"):
        path = tmp_path / name.replace("/", "_") / name
        path.parent.mkdir(parents=True)
        path.write_text("[]")
        before = tree(tmp_path / name.replace("/", "_"))
        with pytest.raises(SettingsError, match="holds a download that EgoWorld did not write"):
            generate_raw(tmp_path / name.replace("/", "_"), {"train": 1}, size=16, seconds=0.2)
        assert tree(tmp_path / name.replace("/", "_")) == before
    StoreWriter(tmp_path / "s")
    with pytest.raises(SettingsError, match="is a take store"):
        generate_raw(tmp_path / "s", {"train": 1}, size=16, seconds=0.2)
    pytest.importorskip("av")
    generate_raw(tmp_path / "r", {"train": 2, "val": 1}, size=16, seconds=0.2)
    before = tree(tmp_path / "r")
    generate_raw(tmp_path / "r", {"train": 1}, size=16, seconds=0.2)
    assert tree(tmp_path / "r") == before
    (tmp_path / "r" / "takes.json").write_text("[")
    with pytest.raises(SettingsError, match=r"takes.json: is damaged"):
        generate_raw(tmp_path / "r", {"train": 1}, size=16, seconds=0.2)


def generated_name(path: Path) -> str:
    generate_store(path, {"train": 1}, size=16, seconds=1.0)
    return TakeStore(path).infos[0].name


def test_pictures_without_a_camera_take_the_old_camera_with_them(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    writer.extend_take(info(pose_space=None), FRAMES)
    writer.extend_take(replace(info(), camera=None), poses=track(range(46)))
    assert TakeStore(tmp_path / "s").take("take").info.camera is not None
    writer.extend_take(replace(info(pose_space=None), camera=None), FRAMES)
    assert TakeStore(tmp_path / "s").take("take").info.camera is None


def test_check_names_parts_that_the_manifest_has_and_the_store_lacks(tmp_path, capsys):
    write_take(tmp_path / "s", "walk")
    for step, facts in (("frames", {"frames": 12}), ("motion", {"takes": ["walk"], "poses": 60})):
        Manifest(tmp_path / "s", step).write("walk", Entry("done", facts=facts))
    assert data_command("check", tmp_path / "s") == 0, capsys.readouterr().out
    take = tmp_path / "s" / "takes" / "walk"
    (take / "poses.npz").rename(tmp_path / "away.npz")
    capsys.readouterr()
    assert data_command("check", tmp_path / "s") == 1
    assert "manifest/motion/walk.json calls it done, but its poses are not there" in capsys.readouterr().out
    (tmp_path / "away.npz").rename(take / "poses.npz")
    (take / "frames.tar").unlink()
    (take / "frames.idx.npy").unlink()
    assert data_command("check", tmp_path / "s") == 1
    assert "manifest/frames/walk.json calls it done, but its frames are not there" in capsys.readouterr().out
    write_take(tmp_path / "t", "walk", images=range(0, 30, 5))
    shutil.copytree(tmp_path / "s" / "manifest", tmp_path / "t" / "manifest")
    assert data_command("check", tmp_path / "t") == 1
    assert "manifest/frames/walk.json says 12 frames, 6 are there" in capsys.readouterr().out


def test_a_take_of_which_a_part_is_lost_is_made_again(tmp_path, recordings):
    store = tmp_path / "s"
    assert motion(store, recordings[0]) == 0
    before = tree(store)
    (store / "takes" / "walk" / "poses.npz").unlink()
    assert motion(store, recordings[0]) == 0 and tree(store) == before
    shutil.rmtree(store / "takes" / "walk")
    assert motion(store, recordings[0]) == 0 and tree(store) == before


def _add(path: Path, part: str, start, seconds: float) -> None:
    def slowly():
        for number, data in FRAMES:
            time.sleep(seconds / len(FRAMES))
            yield number, data

    start.wait()
    if part == "frames":
        StoreWriter(path).extend_take(info(pose_space=None), slowly(), labels=STAMPS)
    else:
        StoreWriter(path).extend_take(replace(info(), camera=None), poses=track(range(46)))


@pytest.mark.parametrize("exists", [False, True])
def test_two_writers_of_different_parts_at_once_lose_nothing(tmp_path, exists, monkeypatch):
    """The poses come while the frames are being written; neither waits for the other."""
    monkeypatch.setattr("internlm.data.store.unfinished._LOCK_SECONDS", 0.2)
    context = multiprocessing.get_context("fork")
    for attempt, seconds in enumerate([0.0] * 10 + [1.5]):
        path = tmp_path / str(attempt)
        if exists:
            StoreWriter(path).extend_take(info(pose_space=None), FRAMES[:2])
        start = context.Event()
        processes = [context.Process(target=_add, args=(path, part, start, seconds)) for part in ("frames", "poses")]
        for process in processes:
            process.start()
        start.set()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]
        take = TakeStore(path).take("take")
        assert len(take.frame_numbers) == 10 and len(take.poses().frames) == 46 and take.labels().keys() == STAMPS.keys()
        assert take.info.camera is not None and take.info.pose_space == "world"
        assert [entry.name for entry in (path / "takes").iterdir()] == ["take"]


def _record(folder: Path, start, count: int) -> None:
    start.wait()
    for number in range(count):
        Manifest(folder, "frames").write("take", Entry("done", facts={"frames": number}))


def test_two_runs_that_record_one_take_at_once_both_succeed(tmp_path):
    context = multiprocessing.get_context("fork")
    start = context.Event()
    processes = [context.Process(target=_record, args=(tmp_path, start, 300)) for _ in range(3)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert Manifest(tmp_path, "frames").read("take").facts == {"frames": 299}
    assert [path.name for path in (tmp_path / "manifest" / "frames").iterdir()] == ["take.json"]


def _refuse(job, *, anew=False):
    raise TakeConflict("another's")


def test_a_refused_command_leaves_the_others_record(tmp_path):
    StoreWriter(tmp_path / "s")
    write_take(tmp_path / "s", "walk")
    Manifest(tmp_path / "s", "frames").write("walk", Entry("done", facts={"frames": 12}, settings={"by": "vrs"}))
    job = Recording("walk", tmp_path / "walk.vrs", "train")
    done = run_jobs([job], _refuse, out=tmp_path / "s", step="frames", workers=0, force=True)
    assert done.failed == {"walk": "another's"}
    assert Manifest(tmp_path / "s", "frames").read("walk") == Entry("done", facts={"frames": 12}, settings={"by": "vrs"})


FOREIGN = (
    *("@eaDir", "lost+found", ".Trash-1000", ".ipynb_checkpoints", ".AppleDouble", ".git", ".nfs0000000001", ".snapshot"),
    *("#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "__pycache__", ".fseventsd"),
)
FOREIGN_FILES = (".DS_Store", "Thumbs.db", "desktop.ini", "._walk", ".nfs0000000002", "Icon\r")


def test_folders_of_systems_and_tools_are_no_takes(tmp_path, capsys):
    store = tmp_path / "s"
    store.mkdir()
    (store / "lost+found").mkdir()  # a fresh disk
    (store / ".DS_Store").write_bytes(b"\0")
    write_take(store, "walk")
    takes = store / "takes"
    for folder in (takes, takes / "walk", store, store / "manifest", store / "manifest" / "frames"):
        folder.mkdir(exist_ok=True)
        for name in FOREIGN:
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "thumb.jpg").write_bytes(b"x")
        for name in FOREIGN_FILES:
            (folder / name).write_bytes(b"x")
    assert [found.name for found in TakeStore(store).infos] == ["walk"]
    assert data_command("check", store) == 0
    out = capsys.readouterr().out
    assert "1 takes (train 1), 0 with faults" in out and out.count("@eaDir") == out.count("lost+found") == 1
    StoreWriter(store).extend_take(TakeStore(store).take("walk").info, [(0, jpeg(picture(1)))])
    assert TakeStore(store).take("walk").frame_numbers.tolist() == [0]
    write_take(store, "@eaDir.2")  # a take may have an odd name
    assert len(TakeStore(store).infos) == 2
    (takes / "half").mkdir()
    with pytest.raises(StoreError, match="half: has no take.json; copy the take again if it was copied in part, or move out"):
        TakeStore(store)


def test_take_json_that_another_writer_damaged_is_not_joined(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    writer.extend_take(replace(info(pose_space=None), source="video"), FRAMES)
    path = tmp_path / "s" / "takes" / "take" / "take.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "extra": {"writers": {"video": 3}}}))
    with pytest.raises(TakeConflict, match="extra 'writers' in its take.json is damaged"):
        writer.extend_take(replace(info(), source="mocap"), poses=track(range(46)))
