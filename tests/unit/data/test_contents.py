"""What a checkpoint knows of its data's order, and what a run says that is resumed on other data."""

import json
import logging
import os
import shutil
import sys

import numpy as np
import pytest
from data_samples import jpeg, picture, write_take
from motion_samples import forecaster_config, motion_store
from train_samples import batches, same_weights, tiny_config

from internlm import cli
from internlm.checkpoint.manager import CheckpointManager
from internlm.data.contents import difference, joined, listed, recorded
from internlm.data.frames import ImageFolder, open_images
from internlm.systems.egoagent.streams import CLIPS, IMAGES, streams
from internlm.systems.forecaster.streams import streams as forecaster_streams
from internlm.train.loop import CALLER, train


def numbers(text: str) -> int:
    return int(text.split()[0])


def store(path, *names, images=range(12), **options):
    for name in names:
        write_take(path, name, images=images, size=16, **options)
    return path


def drop(path, name):
    shutil.rmtree(path / "takes" / name)


def run(run_dir, *paths, steps=6, **train_options):
    """A joint run on stores."""
    data = {"images": tuple(map(str, paths)), "clips": tuple(map(str, paths)), "workers": 0}
    return tiny_config(
        run_dir,
        model={"num_joints": 17},
        data=data,
        train={"steps": steps, "image_batch": 2, "clip_batch": 2, "checkpoint_every": 2} | train_options,
    )


def until(step):
    return lambda state, outcome: state.counters.step == step


def warned(caplog):
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("data changed")]


def test_a_stores_takes_are_told_apart_by_their_frames(tmp_path):
    path = store(tmp_path / "s", "a", "b")
    first = open_images([path], "train").contents()
    assert list(first) == ["a", "b"] and {numbers(text) for text in first.values()} == {12}
    assert open_images([path], "train").contents() == first
    shutil.move(path, tmp_path / "elsewhere")
    assert open_images([tmp_path / "elsewhere"], "train").contents() == first
    strided = open_images([tmp_path / "elsewhere"], "train", frame_stride=2).contents()
    assert list(strided) == ["a", "b"] and numbers(strided["a"]) == 6
    drop(tmp_path / "elsewhere", "b")
    store(tmp_path / "elsewhere", "b", images=range(1, 13))  # as many frames, other numbers
    now = open_images([tmp_path / "elsewhere"], "train").contents()
    assert now["a"] == first["a"] and now["b"] != first["b"] and numbers(now["b"]) == 12


def test_images_are_told_by_their_folders_and_names(tmp_path):
    for name in ("cat/1.jpg", "cat/deep/2.jpg", "dog/1.jpg", "top.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"never read")
    first = ImageFolder(tmp_path).contents()
    assert {name: numbers(text) for name, text in first.items()} == {"cat": 2, "dog": 1, ".": 1}
    (tmp_path / "dog/1.jpg").rename(tmp_path / "dog/2.jpg")
    (tmp_path / "dog/1.jpg").write_bytes(b"")
    (tmp_path / "top.jpg").rename(tmp_path / "cat/top.jpg")
    now = ImageFolder(tmp_path).contents()
    found = difference(first, now)
    assert found.startswith("1 removed (.), 2 changed (cat: was 2 images, ") and "; is 3 images, " in found
    assert "dog: was 1 image," in found


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_a_folder_whose_name_is_not_utf8_can_be_recorded(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/1.jpg", "wb"):
        pass
    (name,) = ImageFolder(tmp_path).contents()
    assert name == r"caf\xe9" and json.loads(json.dumps({name: 1}).encode())


def test_several_paths_are_kept_apart(tmp_path):
    one, two = store(tmp_path / "one", "a", "b"), store(tmp_path / "two", "a")
    (tmp_path / "f" / "x").mkdir(parents=True)
    (tmp_path / "f" / "x" / "1.jpg").write_bytes(jpeg(picture(1)))
    first = open_images([one], "train").contents()
    both = open_images([one, two, tmp_path / "f"], "train").contents()
    assert list(both) == ["a", "b", "path 2: a", "path 3: x"] and {name: both[name] for name in first} == first
    turned = open_images([two, one], "train").contents()
    assert list(turned) == ["a", "path 2: a", "path 2: b"]


def test_clips_are_told_by_their_first_frames(tmp_path):
    one, two = store(tmp_path / "one", "a", "b"), store(tmp_path / "two", "c")
    store(two, "none", poses=range(1), cameras=range(1))  # gives no clip, and decides nothing
    config = run(None, one, two)
    opened = streams(config)[CLIPS].open()
    found = opened.contents()
    assert list(found) == ["a", "b", "path 2: c"] and sum(map(numbers, found.values())) == len(opened)
    drop(one, "a")
    store(one, "a", poses=range(4, 60))  # the same images, fewer with poses
    now = streams(config)[CLIPS].open().contents()
    assert numbers(now["a"]) < numbers(found["a"]) and {**now, "a": None} == {**found, "a": None}
    assert list(streams(config)[IMAGES].open().contents()) == ["a", "b", "path 2: c", "path 2: none"]


def test_windows_are_told_by_recording(tmp_path):
    source = forecaster_streams(forecaster_config("simlpe", motion_store(tmp_path)))["window"].open()
    found = source.contents()
    assert list(found) == source.data.recordings and sum(map(numbers, found.values())) == len(source)


def test_differences_in_words():
    then = {f"t{number}": "5 frames, aa" for number in range(6)}
    assert difference(then, dict(then)) is None
    assert difference(then, then | {"u": "1 frames, cc"}) == "1 added (u)"
    assert difference(then, {}) == "6 removed (t0, t1, t2 and 3 more)"
    assert difference(then, then | {"t4": "4 frames, bb"}) == "1 changed (t4: was 5 frames, aa; is 4 frames, bb)"
    assert difference(then, dict(reversed(then.items()))) == "the same takes or folders in another order"
    assert joined([]) == {} and listed("abc") == "a, b, c"


def test_so_many_folders_that_a_checkpoint_would_grow_are_one_digest():
    many = {f"f{number}": "1 images, aa" for number in range(20_001)}
    found = recorded(many)
    assert list(found) == ["everything"] and numbers(found["everything"]) == 20_001
    assert recorded(many | {"f7": "1 images, bb"}) != found == recorded(dict(many))
    few = {"f": "1 images, aa"}
    assert recorded(few) is few


def test_a_run_resumed_on_other_data_names_the_difference(tmp_path, caplog):
    path = store(tmp_path / "s", "a", "b", "c")
    train(run(tmp_path / "run", path), after_step=until(2))
    drop(path, "a")
    drop(path, "b")
    store(path, "b", images=range(11))
    store(path, "d", "e", "f", "g")
    with caplog.at_level(logging.WARNING):
        assert train(run(tmp_path / "run", path), after_step=until(4)).stopped_by == CALLER
    said = warned(caplog)
    assert [text.split(": ")[0].split()[-1] for text in said] == [IMAGES, CLIPS]
    for text, noun, before, after in zip(said, ("frames", "clips"), (12, 10), (11, 9)):
        assert "4 added (d, e, f and 1 more), 1 removed (a), 1 changed (b: was " in text
        assert f"was {before} {noun}, " in text and f"; is {after} {noun}, " in text
        assert text.endswith("The order of its samples differs from here on")
    caplog.clear()
    with caplog.at_level(logging.WARNING):  # the new data are what the newest checkpoint knows
        assert train(run(tmp_path / "run", path)).finished
    assert warned(caplog) == []


def test_a_run_resumed_on_a_changed_image_folder_names_it(tmp_path, caplog):
    for name in ("cat/1", "cat/2", "dog/1"):
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / f"{name}.jpg").write_bytes(jpeg(picture(1)))
    config = tiny_config(
        tmp_path / "run",
        stage="pretrain",
        data={"images": (str(tmp_path / "f"),), "workers": 0},
        train={"steps": 4, "image_batch": 2},
    )
    train(config, after_step=until(2))
    (tmp_path / "f/cat/3.jpg").write_bytes(jpeg(picture(2)))
    with caplog.at_level(logging.WARNING):
        train(config)
    (said,) = warned(caplog)
    assert "stream image: 1 changed (cat: was 2 images, " in said and "; is 3 images, " in said and "dog" not in said


def test_the_same_data_go_on_bit_for_bit_and_silently(tmp_path, caplog):
    path = store(tmp_path / "s", "a", "b")
    train(run(tmp_path / "whole", path))
    moved = tmp_path / "moved"
    shutil.copytree(path, moved)
    train(run(tmp_path / "parted", path), after_step=until(3))
    with caplog.at_level(logging.WARNING):
        train(run(tmp_path / "parted", moved))
    assert same_weights(tmp_path / "whole", tmp_path / "parted") and warned(caplog) == []


def test_a_checkpoint_without_it_is_accepted_silently(tmp_path, caplog):
    path = store(tmp_path / "s", "a")
    train(run(tmp_path / "run", path), after_step=until(2))
    manager = CheckpointManager(tmp_path / "run" / "checkpoints")
    found = manager.load()
    parts = {part: dict(tensors) for part, tensors in found.parts.items()}
    manager.save(2, parts, {key: value for key, value in found.meta.items() if key != "data"})
    assert "data" in found.meta and "data" not in manager.load().meta
    store(path, "b")
    with caplog.at_level(logging.WARNING):
        assert train(run(tmp_path / "run", path)).finished
    assert warned(caplog) == [] and list(manager.load().meta["data"][IMAGES]) == ["a", "b"]


def test_data_from_outside_have_none(tmp_path):
    train(tiny_config(tmp_path, train={"steps": 1}), batches=batches)
    assert "data" not in CheckpointManager(tmp_path / "checkpoints").load().meta


def test_data_that_change_before_a_rewind_are_named_too(tmp_path, caplog):
    path = store(tmp_path / "s", "a")
    config = run(tmp_path / "run", path, on_bad="rewind", max_bad_steps=1)
    spoiled = []

    def spoil(state, outcome):
        if state.counters.step == 3 and not spoiled:
            spoiled.append(store(path, "b"))
            next(iter(state.modules()["predictor"].parameters())).data.fill_(np.nan)
        return False

    with caplog.at_level(logging.WARNING):
        assert train(config, after_step=spoil).finished
    assert len(warned(caplog)) == 2 and all("1 added (b)" in text for text in warned(caplog))


def test_inspect_shows_it(tmp_path, capsys):
    path = store(tmp_path / "s", "a", "b", "c", "d")
    train(run(tmp_path / "run", path), after_step=until(1))
    assert cli.main(["ckpt", "inspect", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "data      image: a (12 frames, " in said and "data      clip: a (10 clips, " in said and ") and 1 more" in said
