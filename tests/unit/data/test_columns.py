"""Columns of a take: what is written is read, what is wrong is refused, and no column costs another part anything."""

import io
import json
import multiprocessing
import os
import pickle
import re
import shutil
import tarfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from column_samples import TOKENS, columns, depth, gaze
from data_samples import data_command
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from store_samples import FRAMES, STAMPS, array_header, info, jpeg, track, tree, version

from internlm.data.store import (
    COCO_JOINTS,
    KINDS,
    Column,
    EventColumn,
    PackedColumn,
    StoreError,
    StoreWriter,
    TakeConflict,
    TakeInfo,
    TakeStore,
)

NUMBERS = range(0, 50, 5)


def same(read, given) -> None:
    """What was read is what was given, to the type and the last bit."""
    if isinstance(given, EventColumn):
        assert read == given
        return
    assert read.about == dict(given.about)
    if isinstance(given, PackedColumn):
        assert [n for n, _ in read.rows] == read.frames.tolist() == [n for n, _ in given.rows]
        for number, values in given.rows:
            np.testing.assert_array_equal(read.read(number), values, strict=True)
        return
    np.testing.assert_array_equal(read.frames, given.frames, strict=True)
    assert read.arrays.keys() == given.arrays.keys()
    for name, values in given.arrays.items():
        np.testing.assert_array_equal(read.arrays[name], values, strict=True)


# What is written is read


def test_columns_of_every_kind_come_back(tmp_path):
    written = columns(NUMBERS)
    assert {name.partition("/")[0] for name in written} == KINDS.keys()
    StoreWriter(tmp_path / "s").add_take(info(), FRAMES, track(range(50)), STAMPS, columns=written)
    take = TakeStore(tmp_path / "s").take("take")
    assert take.columns == sorted(written) and version(tmp_path / "s") == 2
    for name, column in written.items():
        same(take.column(name), column)
    stored = pickle.loads(pickle.dumps(take.column("depth")))
    np.testing.assert_array_equal(stored.read(45), take.column("depth").read(45))
    with pytest.raises(StoreError, match="has nothing for frame 7"):
        stored.read(7)
    with tarfile.open(take.path / "depth.tar") as tar:
        assert tar.getnames()[1] == "frame_0000005.png"
        image = cv2.imdecode(np.frombuffer(tar.extractfile("frame_0000005.png").read(), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(image, np.full((8, 8), 1005, np.uint16), strict=True)


def test_what_is_absent_is_absent(tmp_path):
    StoreWriter(tmp_path / "s").add_take(info(), FRAMES, columns={"gaze": gaze([0, 3])})
    take = TakeStore(tmp_path / "s").take("take")
    assert take.columns == ["gaze"] and take.column("depth") is None and take.column(TOKENS) is None
    for name in (
        "gazes",
        "Gaze",
        "../poses",
        "tokens/rgb",
        "tokens/0123456789AB/rgb",
        "features/",
        "features/a/b",
        "features/..",
        "",
    ):
        with pytest.raises(StoreError, match="is unknown; known: depth, ids, gaze"):
            take.column(name)
        with pytest.raises(StoreError, match="is unknown"):
            StoreWriter(tmp_path / "s").extend_take(info(), columns={name: gaze([0])})


FRAME_NUMBERS = st.lists(st.integers(0, 1 << 40), min_size=1, max_size=6, unique=True).map(sorted)


@st.composite
def any_column(draw):
    """(name, column) of any kind but events, with values over the whole range of its types."""
    name = draw(st.sampled_from(["depth", "ids", "gaze", "actions", TOKENS, "features/a-b_1"]))
    numbers = draw(FRAME_NUMBERS)
    n, frames = len(numbers), np.array(numbers, np.int64)
    array = lambda dtype, *shape: draw(arrays.arrays(dtype, (n, *shape)))  # noqa: E731
    floats = lambda width, *shape: draw(  # noqa: E731
        arrays.arrays(f"f{width // 8}", (n, *shape), elements=st.floats(allow_nan=False, allow_infinity=False, width=width))
    )
    if name in ("depth", "ids"):
        images = array(np.uint16 if name == "depth" else np.uint8, draw(st.integers(1, 5)), draw(st.integers(1, 5)))
        images = images if name == "depth" else np.where(images > 250, np.uint8(255), images)
        return name, PackedColumn(list(zip(numbers, images)), {"kind": "ray"} if name == "depth" else {})
    if name == "gaze":
        return name, Column(frames, {"uv": floats(32, 2), "valid": array(bool)})
    if name == "actions":
        size = draw(st.integers(1, 3))
        about = {"kind": "discrete", "names": draw(st.lists(st.text(), min_size=size, max_size=size))}
        return name, Column(frames, {"action": floats(32, size), "action_valid": array(bool), "terminated": array(bool)}, about)
    if name == TOKENS:
        shape = draw(st.lists(st.integers(1, 3), max_size=3))
        return name, Column(frames, {"codes": array(np.uint16, *shape), "valid": array(bool)}, {"vocabulary": 65536})
    about = {"grid": [1, 2], "weights": "w", "preprocessing": "p", "more": draw(st.dictionaries(st.text(), st.integers()))}
    return name, PackedColumn(list(zip(numbers, floats(16, 2, draw(st.integers(1, 3))))), about)


@settings(max_examples=60, deadline=None)
@given(st.lists(any_column(), min_size=1, max_size=4))
def test_whatever_is_written_is_read_and_joined_in_any_order(tmp_path_factory, given_columns):
    path = tmp_path_factory.mktemp("c")
    written = dict(given_columns)
    StoreWriter(path / "one").extend_take(info(), FRAMES, columns=written)
    writer = StoreWriter(path / "two")
    for name in reversed(written):
        writer.extend_take(info(), columns={name: written[name]})
    writer.extend_take(info(), FRAMES)
    assert tree(path / "one") == tree(path / "two")
    take = TakeStore(path / "two").take("take")
    for name, column in written.items():
        same(take.column(name), column)
    shutil.rmtree(path)


def test_the_guide_has_every_column_and_its_example_runs(root, tmp_path, monkeypatch, capsys):
    text = (root / "docs" / "store.md").read_text()
    table = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("|")]
    told, kind = {}, ""
    for _, column, names, types, *_ in (row for row in table if len(row) == 7):
        kind = column.strip("`").partition("/")[0] or kind
        shapes = types.split("], ")
        for place, name in enumerate(re.findall(r"`(\w+)`", names)):
            told[kind, name] = shapes[min(place, len(shapes) - 1)].rstrip("]"), "(optional)" in names
    declared = {}
    for kind, of in KINDS.items():
        for name, array in of.arrays.items():
            dtype = "text" if array.dtype == "str" else array.dtype
            declared[kind, name] = f"{dtype} [{', '.join(map(str, array.shape))}", array.optional
    assert told == declared
    assert all(f"`{fact}`" in text for of in KINDS.values() for fact in of.about) and "| `events` |" in text
    monkeypatch.chdir(tmp_path)
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "PackedColumn" in block)
    exec(example, {})
    assert capsys.readouterr().out == "['depth', 'gaze'] [31.5 31.5] (64, 64) None\n"


# Versions


def write_version_1(store: Path) -> None:
    """A store as the first version of the format has it, byte by byte from the standard library and numpy."""
    take = store / "takes" / "take"
    take.mkdir(parents=True)
    header = {"format": "egoagent-take-store", "version": 1, "joints": list(COCO_JOINTS)}
    (store / "store.json").write_text(json.dumps(header, indent=1))
    (take / "take.json").write_text(
        '{\n "name": "take",\n "uid": "uid-take",\n "split": "train",\n "frame_rate": 30.0,\n "camera": {\n'
        '  "model": "pinhole",\n  "width": 8,\n  "height": 8,\n  "params": [\n'
        '   4.0,\n   4.0,\n   3.5,\n   3.5\n  ]\n },\n "pose_space": "world",\n'
        ' "labels": {\n  "place": "kitchen"\n },\n "source": "test",\n "extra": {\n  "b": 1,\n  "a": 2\n }\n}'
    )
    index = []
    with open(take / "frames.tar", "wb") as tar:
        for number, data in FRAMES:
            member = tarfile.TarInfo(f"frame_{number:07d}.jpg")
            member.size = len(data)
            tar.write(member.tobuf(tarfile.USTAR_FORMAT))
            index.append((number, tar.tell(), len(data)))
            tar.write(data + bytes(-len(data) % 512))
        tar.write(bytes(1024))
        tar.write(bytes(-tar.tell() % tarfile.RECORDSIZE))
    np.save(take / "frames.idx.npy", np.array(index, np.int64))
    poses = asdict(track(range(50)))
    poses["joints"] = np.where(poses["visible"][..., None], poses["joints"], np.float32(0))
    np.savez(take / "poses.npz", **poses)
    np.savez_compressed(take / "labels.npz", **STAMPS)


def test_version_1_is_read_and_a_take_without_columns_is_still_written_so(tmp_path):
    write_version_1(tmp_path / "old")
    take = TakeStore(tmp_path / "old").take("take")
    assert take.info == info(extra={"a": 2, "b": 1}) and take.read_frame(45) == jpeg(45) and take.columns == []
    assert len(take.poses().frames) == 50 and take.labels()["timestamp_ns"].tolist() == [1, 5, 9]
    StoreWriter(tmp_path / "new").add_take(info(extra={"b": 1, "a": 2}), FRAMES, track(range(50)), STAMPS)
    assert tree(tmp_path / "new") == tree(tmp_path / "old")


def test_a_column_joins_a_take_of_version_1_and_changes_nothing_else(tmp_path):
    write_version_1(tmp_path / "s")
    before = tree(tmp_path / "s")
    StoreWriter(tmp_path / "s").extend_take(info(), columns={"gaze": gaze(NUMBERS)})
    after = tree(tmp_path / "s")
    assert {name for name in after if after[name] != before.get(name)} == {"store.json", "takes/take/gaze.npz"}
    assert before.keys() < after.keys() and version(tmp_path / "s") == 2
    assert StoreWriter(tmp_path / "s").add_take(info("b"), FRAMES) and version(tmp_path / "s") == 2


def test_depth_of_egoworld_before_there_were_columns_is_read(tmp_path):
    write_version_1(tmp_path / "s")
    values = np.arange(2 * 8 * 8, dtype=np.uint16).reshape(2, 8, 8)
    path = tmp_path / "s" / "takes" / "take" / "depth.npz"
    np.savez_compressed(path, frames=np.array([0, 5]), depth_mm=values)
    take = TakeStore(tmp_path / "s").take("take")
    assert take.columns == ["depth"] and take.column("depth").about == {"kind": "ray"}
    np.testing.assert_array_equal(take.column("depth").read(5), values[1], strict=True)
    np.savez_compressed(path, frames=np.array([0]), depth_mm=values)
    with pytest.raises(StoreError, match=r"depth_mm is uint16 \[2, 8, 8\], expected uint16 \[1, H, W\]"):
        take.column("depth")


@pytest.mark.parametrize("wrong", [0, 3, "2", True, None, 1.5, [1]])
def test_other_versions_are_refused(tmp_path, wrong):
    write_version_1(tmp_path / "s")
    header = json.loads((tmp_path / "s" / "store.json").read_text())
    (tmp_path / "s" / "store.json").write_text(json.dumps({**header, "version": wrong}))
    with pytest.raises(StoreError, match="cannot be read, this code reads versions 1 and 2"):
        TakeStore(tmp_path / "s")


# Joining


def other(**parts) -> TakeInfo:
    return replace(info(), source="eyes", labels={}, extra={"device": "a"}, pose_space=None, camera=None, **parts)


def test_another_writer_adds_a_column_and_removes_none(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    writer.add_take(info(), FRAMES, track(range(46)), STAMPS, columns={"depth": depth(NUMBERS), TOKENS: columns(NUMBERS)[TOKENS]})
    first = tree(tmp_path / "s" / "takes" / "take")
    writer.extend_take(other(), columns={"gaze": gaze(range(46)), "features/a": columns(NUMBERS)["features/dinov2"]})
    take = TakeStore(tmp_path / "s").take("take")
    assert take.columns == ["depth", "features/a", "gaze", TOKENS] and take.info.source == "eyes+test"
    assert take.info.extra["writers"]["eyes"]["parts"] == ["features/a", "gaze"] and take.info.camera == info().camera
    now = tree(take.path)
    assert {name for name in first if now[name] != first[name]} == {"take.json"}
    before = tree(tmp_path / "s")
    for row, added, message in (
        (other(), {"depth": depth(NUMBERS)}, "'test' wrote its depth, and 'eyes' would replace that: use another store"),
        (info(), {"gaze": gaze(NUMBERS)}, "'eyes' wrote its gaze, and 'test' would"),
        (other(uid="x"), {"gaze": gaze(NUMBERS)}, "has uid 'uid-take' in the store, now 'x'"),
        (other(frame_rate=15.0), {"gaze": gaze(NUMBERS)}, "has frame_rate 30.0 in the store, now 15.0"),
        (other(), {"gaze": gaze(range(90))}, "its column gaze goes on to frame 89, but its images end at frame 45 and its poses"),
    ):
        with pytest.raises(TakeConflict, match=message):
            writer.extend_take(row, columns=added)
        assert tree(tmp_path / "s") == before
    writer.extend_take(other(), columns={"gaze": gaze(range(9))})
    assert len(TakeStore(tmp_path / "s").take("take").column("gaze").frames) == 9


def test_a_column_that_is_written_again_leaves_no_file_of_the_old_one(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    writer.extend_take(info(), FRAMES)
    np.savez(tmp_path / "s" / "takes" / "take" / "depth.npz", frames=np.array([0]), depth_mm=np.ones((1, 8, 8), np.uint16))
    writer.extend_take(info(), columns={"depth": depth(NUMBERS)})
    assert {p.name for p in (tmp_path / "s" / "takes" / "take").glob("depth*")} == {"depth.tar", "depth.idx.npy", "depth.json"}
    writer.extend_take(info(), columns={"features/a": columns([0])["features/dinov2"]})
    writer.extend_take(info(), columns={"features/a": columns([5])["features/dinov2"]})
    assert TakeStore(tmp_path / "s").take("take").column("features/a").frames.tolist() == [5]


def test_writers_of_columns_frames_and_poses_work_at_the_same_time(tmp_path, monkeypatch):
    monkeypatch.setattr("internlm.data.store.unfinished._LOCK_SECONDS", 0.1)
    writer = StoreWriter(tmp_path / "s")

    def rows(names):
        yield 0, np.ones((2, 2), np.uint16)
        if names:
            name, added = names[0]
            writer.extend_take(info(), **added(names[1:]))
            writer.discard("take")  # live writers keep their folders
        with pytest.raises(StoreError, match="is being written by another process"):
            writer.extend_take(info(), columns={"depth": depth([0])})

    work = [
        ("gaze", lambda rest: {"columns": {"gaze": gaze([0])}}),
    ]
    writer.extend_take(info(), FRAMES, columns={})
    writer.extend_take(info(), columns={"depth": PackedColumn(rows(work), {"kind": "z"})})
    assert TakeStore(tmp_path / "s").take("take").columns == ["depth", "gaze"]


def _extend_for_ever(path, count):
    while True:
        StoreWriter(path).extend_take(other(), columns={"gaze": gaze([count.value % 40])})
        count.value += 1


def test_readers_never_miss_a_part_while_a_column_is_added(tmp_path):
    """While a take is exchanged its folder is away: what is there must not be read as absent."""
    path = tmp_path / "s"
    StoreWriter(path).add_take(info(), FRAMES, track(range(46)), STAMPS, columns={"depth": depth(NUMBERS)})
    context = multiprocessing.get_context("spawn")
    count = context.Value("i", 0)
    process = context.Process(target=_extend_for_ever, args=(path, count), daemon=True)
    process.start()
    try:
        while count.value < 150:
            assert process.is_alive()
            take = TakeStore(path).take("take")
            assert take.read_frame(5) == jpeg(5) and take.poses() is not None and take.labels()
            assert "depth" in take.columns and take.column("depth").read(45)[0, 0] == 1045
            assert count.value < 3 or take.column("gaze") is not None
    finally:
        process.kill()
        process.join()


def test_what_a_killed_writer_of_a_column_left_is_removed(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    writer.extend_take(info(), FRAMES)
    before, takes = tree(tmp_path / "s"), tmp_path / "s" / "takes"
    for part in (".depth", ".poses", "", ".features_a"):
        (takes / f".partial{part}-take").mkdir()
        (takes / f".lock-.partial{part}-take").touch()
    (takes / ".lock-.partial.ids-take").touch()
    (takes / ".partial-take2").mkdir()
    writer.discard("take")
    (takes / ".partial-take2").rmdir()
    assert tree(tmp_path / "s") == before


def test_a_take_may_be_columns_alone_but_not_nothing(tmp_path):
    writer = StoreWriter(tmp_path / "s")
    for write in (writer.add_take, writer.extend_take):
        with pytest.raises(StoreError, match="neither frames nor poses"):
            write(info("nothing"), columns={})
    assert version(tmp_path / "s") == 1
    writer.add_take(info("one"), columns={TOKENS: columns([0])[TOKENS]})
    writer.extend_take(info("two"), columns={TOKENS: columns([0])[TOKENS]})
    assert data_command("check", tmp_path / "s") == 0


# What is wrong is refused

F = np.array([0, 5], np.int64)
UV, VALID = np.zeros((2, 2), np.float32), np.ones(2, bool)
ACTION = {"action": np.zeros((2, 1), np.float32), "action_valid": VALID}
CONTINUOUS = {"kind": "continuous", "names": ["a"]}
GRID = {"grid": [1, 1], "weights": "w", "preprocessing": "p"}


def changed(name: str, key: str, value) -> Column:
    column = columns(F.tolist())[name]
    return replace(column, arrays={**column.arrays, key: value})


WRONG = {
    "rows in disorder": ("gaze", Column(F[::-1], {"uv": UV, "valid": VALID}), "frame numbers do not rise: 5 is followed by 0"),
    "a negative number": ("gaze", Column(F - 1, {"uv": UV, "valid": VALID}), "frame number -1 is negative"),
    "numbers of floats": ("gaze", Column(F / 1, {"uv": UV, "valid": VALID}), "frame numbers are float64"),
    "no rows": ("gaze", Column(F[:0], {"uv": UV[:0], "valid": VALID[:0]}), "has no rows"),
    "no validity": ("gaze", Column(F, {"uv": UV}), "has uv, but not valid"),
    "only validity": ("gaze", Column(F, {"valid": VALID}), "lacks uv"),
    "another type": (
        "gaze",
        Column(F, {"uv": UV.astype(float), "valid": VALID}),
        r"uv is float64 \[2, 2\], expected float32 \[2, 2\]",
    ),
    "bytes swapped": ("gaze", Column(F, {"uv": UV.astype(">f4"), "valid": VALID}), "uv is >f4"),
    "another shape": ("gaze", Column(F, {"uv": UV[:1], "valid": VALID}), r"uv is float32 \[1, 2\], expected float32 \[2, 2\]"),
    "objects": ("gaze", Column(F, {"uv": UV.astype(object), "valid": VALID}), "uv is object"),
    "NaN": ("gaze", Column(F, {"uv": UV * np.nan, "valid": VALID}), "uv is not finite in row 0"),
    "an unknown array": ("gaze", Column(F, {"uv": UV, "valid": VALID, "pupil": UV}), "has the unknown array 'pupil'"),
    "no unit vector": (
        "gaze",
        Column(F, {"uv": UV, "valid": VALID, "direction": np.ones((2, 3), np.float32)}),
        "not of length 1",
    ),
    "the wrong form": ("gaze", depth([0]), "is given as PackedColumn; columns of this kind are stored as npz"),
    "facts missing": ("actions", Column(F, ACTION), "does not say its kind: 'continuous' or 'discrete'"),
    "facts of another kind": (
        "actions",
        Column(F, ACTION, {"kind": ["continuous"], "names": ["a"]}),
        "kind .'continuous'. is not",
    ),
    "names of another length": ("actions", Column(F, ACTION, {**CONTINUOUS, "names": ["a", "b"]}), "names .* one entry for each"),
    "a limit that is a number": ("actions", Column(F, ACTION, {**CONTINUOUS, "low": 3}), "low 3 does not have one entry"),
    "facts that JSON has not": ("actions", Column(F, ACTION, {**CONTINUOUS, "low": [np.nan]}), "not plain JSON"),
    "facts of objects": ("actions", Column(F, ACTION, {**CONTINUOUS, "low": object()}), "not plain JSON"),
    "rewards that may not count": (
        "actions",
        Column(F, {**ACTION, "reward": UV[:, 0]}, CONTINUOUS),
        "reward, but not reward_valid",
    ),
    "too many objects": (
        "objects",
        Column(
            F[:1],
            {
                "kinds": np.full(251, "a"),
                "colours": np.full(251, "a"),
                "half_size": np.ones((251, 3), np.float32),
                "centre": np.zeros((1, 251, 3), np.float32),
                "box": np.full((1, 251, 4), -1, np.float32),
                "held": np.zeros((1, 251), np.int8),
                "pixels": np.zeros((1, 251), np.int32),
                "full": np.zeros((1, 251), np.int32),
            },
        ),
        "has 251 objects, ids have room for 250",
    ),
    "another number of objects": (
        "objects",
        changed("objects", "kinds", np.array(["a"] * 3)),
        r"colours is <U\d \[2\], expected str \[3\]",
    ),
    "names as bytes": ("objects", changed("objects", "kinds", np.array([b"a", b"b"])), "kinds is |S1"),
    "a box of what is not seen": (
        "objects",
        changed("objects", "pixels", np.zeros((2, 2), np.int32)),
        "contradict each other at frame 0",
    ),
    "more seen than there is": ("objects", changed("objects", "full", np.ones((2, 2), np.int32)), "contradict each other"),
    "code above": (
        TOKENS,
        Column(F, {"codes": np.full((2, 3), 9, np.uint16), "valid": VALID}, {"vocabulary": 9}),
        "holds the code 9",
    ),
    "vocabulary": (
        TOKENS,
        Column(F, {"codes": np.zeros((2, 3), np.uint16), "valid": VALID}, {"vocabulary": True}),
        "from 1 to 65536",
    ),
    "another grid": ("features/a", PackedColumn([(3, np.ones((4, 3), np.float16))], GRID), "of frame 3: has 4 vectors a frame"),
    "features of NaN": ("features/a", PackedColumn([(3, np.full((1, 3), np.nan, np.float16))], GRID), "of frame 3 is not finite"),
    "no image": ("depth", PackedColumn([], {"kind": "z"}), "has no rows"),
    "depth of no kind": ("depth", PackedColumn(depth([0]).rows), "does not say its kind: 'z' or 'ray'"),
    "depth in metres": (
        "depth",
        PackedColumn([(0, np.ones((2, 2)))], {"kind": "z"}),
        "depth_mm of frame 0 is float64",
    ),
    "depth of objects": ("depth", PackedColumn([(0, np.full((2, 2), None))], {"kind": "z"}), "depth_mm of frame 0 is object"),
    "depth of two sizes": (
        "depth",
        PackedColumn([*depth([0]).rows, *depth([5], 4).rows], {"kind": "z"}),
        r"of frame 5 is uint16 \[1, 4, 4\], expected uint16 \[1, 8, 8\]",
    ),
    "depth in disorder": ("depth", depth([5, 0]), "frame 0 comes after frame 5"),
    "ids of no object": ("ids", PackedColumn([(0, np.full((2, 2), 251, np.uint8))]), "holds the id 251; objects have 1 to 250"),
    "ids of two bytes": ("ids", PackedColumn(depth([0]).rows), "expected uint8"),
    "events of text": ("events", EventColumn(["a"]), "is not a list of JSON objects"),
    "events that end first": ("events", EventColumn([{"id": 0, "before": 3, "after": 2}]), "they must rise"),
    "events in disorder": ("events", EventColumn([{"id": k, "before": 3 - k, "after": 4} for k in range(2)]), "in the order of"),
    "events of one id": ("events", EventColumn([{"id": 0, "before": 3, "after": 4}] * 2), "given twice"),
    "event without an end": ("events", EventColumn([{"id": 0, "before": 3}]), "must be whole numbers"),
    "texts of numbers": (
        "events",
        EventColumn([{"id": 0, "before": 3, "after": 3, "texts": {"a": 1}}]),
        "does not map names to texts",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_as_declared_is_refused_and_nothing_changes(tmp_path, case):
    name, column, message = WRONG[case]
    writer = StoreWriter(tmp_path / "s")
    writer.extend_take(info(), FRAMES)
    before = tree(tmp_path / "s")
    for write in (partial(writer.extend_take, info()), partial(writer.add_take, info("new"), FRAMES)):
        with pytest.raises(StoreError, match=message) as error:
            write(columns={name: column})
        assert name in str(error.value)
    assert tree(tmp_path / "s") == before


def _pack(stem: Path, values: np.ndarray | bytes) -> None:
    """A tar and index in the place of those of ``stem``, with one array for frame 0, pickled if need be."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True) if isinstance(values, np.ndarray) else file.write(values)
    stem.with_suffix(".tar").unlink()
    with tarfile.open(stem.with_suffix(".tar"), "w") as tar:
        member = tarfile.TarInfo("frame_0000000.npy")
        member.size = len(file.getvalue())
        tar.addfile(member, io.BytesIO(file.getvalue()))
    np.save(stem.with_suffix(".idx.npy"), np.array([[0, 512, member.size]]))


HOSTILE = {
    "cut archive": lambda take: os.truncate(take / "gaze.npz", 200),
    "archive of objects": lambda take: np.savez(take / "gaze.npz", frames=F, uv=np.full((2, 2), None), valid=VALID),
    "archive without numbers": lambda take: np.savez(take / "gaze.npz", uv=UV, valid=VALID),
    "archive of another shape": lambda take: np.savez(take / "gaze.npz", frames=F, uv=UV[:1], valid=VALID),
    "archive that is a folder": lambda take: ((take / "gaze.npz").unlink(), (take / "gaze.npz").mkdir()),
    "features of objects": lambda take: _pack(take / "features" / "dinov2", np.full((6, 5), None)),
    "features of another grid": lambda take: _pack(take / "features" / "dinov2", np.ones((7, 5), np.float16)),
    "features of a huge shape": lambda take: _pack(take / "features" / "dinov2", array_header((1 << 40, 5))),
    "lost facts of features": lambda take: (take / "features" / "dinov2.json").unlink(),
    "lost tar of features": lambda take: (take / "features" / "dinov2.tar").unlink(),
    "lost facts": lambda take: (take / "depth.json").unlink(),
    "facts that are a list": lambda take: (take / "depth.json").write_text("[]"),
    "cut facts": lambda take: (take / "actions.json").write_text('{"kind": '),
    "facts of another kind": lambda take: (take / "depth.json").write_text('{"kind": 3}'),
    "lost archive": lambda take: (take / "actions.npz").unlink(),
    "lost tar": lambda take: (take / "depth.tar").unlink(),
    "lost index": lambda take: (take / "depth.idx.npy").unlink(),
    "cut tar": lambda take: os.truncate(take / "depth.tar", 700),
    "index of another take": lambda take: np.save(take / "depth.idx.npy", np.array([[0, 512, 30], [5, 600, 40]])),
    "pictures in the place of depth": lambda take: [
        shutil.copy(take / f"frames{e}", take / f"depth{e}") for e in (".tar", ".idx.npy")
    ],
    "ids in the place of depth": lambda take: [shutil.copy(take / f"ids{e}", take / f"depth{e}") for e in (".tar", ".idx.npy")],
    "events of text": lambda take: (take / "events.json").write_text('"x"'),
    "nested events": lambda take: (take / "events.json").write_text("[" * 100000),
    "events without a start": lambda take: (take / "events.json").write_text('[{"id": 1}]'),
    "cut tokens": lambda take: os.truncate(take / f"{TOKENS}.npz", 100),
    "tokens of another vocabulary": lambda take: (take / f"{TOKENS}.json").write_text('{"vocabulary": 10}'),
    "beyond the end": lambda take: np.savez(take / "gaze.npz", frames=F + 80, uv=UV, valid=VALID),
}


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "s"
    StoreWriter(path).add_take(info(), FRAMES, track(range(50)), columns=columns(NUMBERS))
    return path


@pytest.mark.parametrize("harm", HOSTILE)
def test_damaged_columns_are_faults_and_the_others_are_read(sample, tmp_path, harm, capsys):
    shutil.copytree(sample, tmp_path / "s")
    HOSTILE[harm](tmp_path / "s" / "takes" / "take")
    assert data_command("check", tmp_path / "s") == 1
    out = capsys.readouterr().out
    assert "1 with faults" in out and "  fault: " in out and "Traceback" not in out
    take, failed = TakeStore(tmp_path / "s").take("take"), 0
    for name in columns([0]):
        try:
            column = take.column(name)
            assert column is not None
            for number in column.frames.tolist() if hasattr(column, "read") else ():
                column.read(number)
        except StoreError as error:
            failed += 1
            assert str(tmp_path) in str(error) and name in str(error)
    assert failed == (harm not in ("beyond the end",)), "one column and no other"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damaged_byte_of_a_column_is_a_finding_at_most(sample, tmp_path_factory, data):
    from dataset_preprocess.check_store import check_store

    copy = tmp_path_factory.mktemp("copy") / "s"
    shutil.copytree(sample, copy)
    files = sorted(p for p in (copy / "takes" / "take").rglob("*") if p.is_file() and "frames" not in p.name)
    file = data.draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        del content[place:]
    file.write_bytes(content)
    assert check_store(copy) in (0, 1)
    shutil.rmtree(copy)


def test_check_and_show_tell_of_columns(sample, tmp_path, capsys):
    assert data_command("check", sample) == 0
    assert " ".join(sorted(columns([0]))) in capsys.readouterr().out
    assert data_command("show", sample, "take", tmp_path / "x.png") == 0
    out = capsys.readouterr().out
    assert "depth: 10 rows, frames 0 to 45; z; depth_mm [mm, along the optical axis (z) or the pixel's ray]" in out
    assert "gaze: 10 rows, frames 0 to 45; 60% valid; uv [pixels of the stored image]" in out
    assert f"{TOKENS}: 10 rows" in out and "events: 10 rows, frames 0 to 45" in out and "x.png" in out


ODD = {
    "depth in centimetres": ({"depth": PackedColumn([(0, np.full((8, 8), 30, np.uint16))], {"kind": "z"})}, "is 30 mm (median)"),
    "no depth at all": ({"depth": PackedColumn([(0, np.zeros((8, 8), np.uint16))], {"kind": "z"})}, "no pixel has a depth"),
    "depth of another size": ({"depth": depth([0], 4)}, "is 4x4, the camera says 8x8"),
    "depth without an image": ({"depth": depth([0, 3, 4])}, "frame 3 has no image (and 1 times more)"),
    "gaze that is never valid": ({"gaze": Column(F, {"uv": UV, "valid": ~VALID})}, "no value is valid"),
    "gaze beside the image": ({"gaze": Column(F, {"uv": UV + 9, "valid": VALID})}, "outside the image at frame 0 (and 1"),
    "gaze in millimetres": (
        {"gaze": Column(F, {"uv": UV, "valid": VALID, "target": np.full((2, 3), 3e3, np.float32)})}, "is the unit the metre?",
    ),
    "an action beyond its limits": (
        {"actions": Column(F, ACTION, {**CONTINUOUS, "low": [0.5]})}, "an action is beyond its low [0.5]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_values_that_can_hardly_be_right_are_odd(tmp_path, case, capsys):
    added, message = ODD[case]
    StoreWriter(tmp_path / "s").add_take(info(), FRAMES, columns=added)
    assert data_command("check", tmp_path / "s") == 0 and data_command("check", tmp_path / "s", "--strict") == 1
    out = capsys.readouterr().out
    assert f"odd: {next(iter(added))}: " in out and message in out
