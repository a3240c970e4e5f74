"""Training batches: pure in (seed, epoch, n), resumable, honest about broken files, never hanging."""

import logging
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from data_samples import jpeg, picture, write_take
from loader_samples import config, pairs_of, same, training_batches

from internlm.data import loader
from internlm.data.batch import split, to_device
from internlm.data.evaluation import evaluation_images
from internlm.data.frames import DataError, open_images
from internlm.data.loader import BrokenCounts, dead_worker
from internlm.data.order import SampleOrder, Stream


@pytest.fixture
def store(tmp_path):
    for name in ("a", "b"):
        write_take(tmp_path / "s", name, size=32)
    return tmp_path / "s"


def picture_folder(root, count=10, broken=()):
    root.mkdir()
    for n in range(count):
        content = jpeg(picture(n, 40, 40))
        (root / f"{n:02}.jpg").write_bytes(
            {0: b"", 1: b"this is text", 2: content[: len(content) // 2]}[n % 3] if n in broken else content
        )
    return root


def test_batches_have_the_promised_shapes(store):
    images, clips = next(training_batches(config([store], [store]))).values()
    assert images.global_crops.shape == (4, 2, 3, 32, 32) and images.local_crops.shape == (4, 2, 3, 16, 16)
    assert images.global_photometric.shape == (4, 2, 8) and images.local_photometric.dtype == torch.float32
    assert clips.images.shape == (2, 3, 3, 32, 32) and clips.images.dtype == torch.uint8
    assert clips.poses.shape == clips.past_poses.shape == (2, 2, 5, 17, 3) and clips.poses.dtype == torch.float32
    assert clips.visible.shape == (2, 2, 5, 17) and clips.visible.dtype == torch.bool
    assert clips.frame_numbers.shape == (2, 3) and clips.takes.dtype == clips.sample_ids.dtype == torch.int64
    assert [len(part.images) for part in split(to_device(clips, torch.device("cpu")), 2)] == [1, 1]


def test_workers_do_not_change_the_batches(store):
    in_process = list(training_batches(config([store], [store], steps=6)))
    assert same(in_process, training_batches(config([store], [store], steps=6, workers=2)))
    assert not same(in_process, training_batches(config([store], [store], steps=6, seed=2)))


@pytest.mark.parametrize("mixing", ["both", "alternate"])
def test_resume_is_the_tail(store, mixing):
    whole = list(training_batches(config([store], [store], steps=12, mixing=mixing)))  # 48 positions of 24 images: crosses epochs
    assert same(whole[5:], training_batches(config([store], [store], steps=12, mixing=mixing), start_step=5))
    assert list(training_batches(config([store], [store], steps=12), start_step=12)) == []


def test_alternate_takes_turns_and_skips_no_sample(store):
    pairs = pairs_of(training_batches(config([store], [store], steps=6, mixing="alternate")))
    assert [(images is None, clips is None) for images, clips in pairs] == [(False, True), (True, False)] * 3
    assert torch.cat([images.sample_ids for images, _ in pairs[::2]]).tolist() == list(range(12))
    assert torch.cat([clips.sample_ids for _, clips in pairs[1::2]]).tolist() == list(range(6))


def test_stage_one_needs_no_poses_and_no_clips(tmp_path):
    pairs = pairs_of(training_batches(config([picture_folder(tmp_path / "f")], clip_batch=0)))
    assert all(clips is None and len(images.sample_ids) == 4 for images, clips in pairs) and len(pairs) == 4


def test_world_size_keeps_the_global_order(store):
    alone = pairs_of(training_batches(config([store], [store], image_batch=4, clip_batch=2)))
    halves = config([store], [store], image_batch=2, clip_batch=1)
    ranks = [pairs_of(training_batches(halves, rank=r, world=2)) for r in range(2)]
    for step, (images, clips) in enumerate(alone):
        for rank in range(2):
            part_images, part_clips = ranks[rank][step]
            assert torch.equal(part_images.global_crops, images.global_crops[rank::2])
            assert torch.equal(part_clips.poses, clips.poses[rank::2])


def test_epoch_visits_each_sample_once_and_epochs_differ():
    order = SampleOrder(37, seed=3, stream=0)
    epochs = [[order.locate(37 * epoch + n) for n in range(37)] for epoch in range(2)]
    for epoch, visited in enumerate(epochs):
        assert {e for e, _ in visited} == {epoch} and sorted(i for _, i in visited) == list(range(37))
    assert [i for _, i in epochs[0]] != [i for _, i in epochs[1]]
    assert [SampleOrder(37, 3, 1).locate(n) for n in range(37)] != epochs[0]
    assert order.rng(5).random() == order.rng(5).random() != order.rng(6).random()


def test_plan_refuses_a_rank_outside_its_world():
    with pytest.raises(ValueError, match="rank 2 is not inside a world of 2"):
        Stream(list, object, 1, number=0).positions(0, rank=2, world=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_are_counted_named_once_and_replaced(tmp_path, caplog, workers):
    root = picture_folder(tmp_path / "f", 12, broken=(3, 4, 5))  # an empty file, a text, a truncated JPEG
    cfg = config([root], clip_batch=0, steps=6, workers=workers, max_broken_share=0.3)  # two epochs
    batches = training_batches(cfg)
    with caplog.at_level(logging.WARNING):
        found = list(batches)
    assert [len(step["image"].sample_ids) for step in found] == [4] * 6
    assert sorted(name[-6:] for name in batches.counts.files) == ["03.jpg", "04.jpg", "05.jpg"]
    assert batches.counts.broken > 3 and batches.counts.reads == 24 + batches.counts.broken
    for name in ("03.jpg", "04.jpg", "05.jpg"):
        assert sum(name in record.getMessage() for record in caplog.records) == 1
    again = list(training_batches(cfg.model_copy(update={"data": cfg.data.model_copy(update={"workers": 0})})))
    assert same(found, again)


def test_too_many_broken_files_stop_the_run(tmp_path):
    root = picture_folder(tmp_path / "f", 12, broken=(3, 4, 5))
    batches = training_batches(config([root], clip_batch=0, steps=6, max_broken_share=0.2))
    with pytest.raises(
        DataError, match=r"3 broken of 12 files .* more than data\.max_broken_share 0\.2; the first: .*\.jpg: cannot be decoded"
    ):
        list(batches)
    assert list(batches) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_only_broken_files_stop_at_once(tmp_path, workers):
    root = picture_folder(tmp_path / "f", 9, broken=range(9))
    with pytest.raises(DataError, match="broken of 9 files"):
        next(training_batches(config([root], clip_batch=0, workers=workers)))
    with pytest.raises(DataError, match="no valid sample among 9 in a row"):
        next(training_batches(config([root], clip_batch=0, workers=workers, max_broken_share=1.0)))


def test_one_broken_file_early_in_a_big_data_set_is_tolerated_but_a_dead_disk_is_not():
    counts = BrokenCounts(0.01, total=1000)
    counts.add(4, [("x.jpg", "empty")])
    with pytest.raises(DataError, match="12 broken of 1000 files"):
        counts.add(18, [(f"{n}.jpg", "gone") for n in range(11)])


def test_broken_clip_frame_is_replaced_by_a_clip_without_it(store):
    os.truncate(store / "takes" / "a" / "frames.tar", 3000)
    index = np.load(store / "takes" / "a" / "frames.idx.npy")
    index[:, 1:] = np.minimum(index[:, 1:], [3000, 0])  # frames past the cut are empty
    np.save(store / "takes" / "a" / "frames.idx.npy", index)
    batches = training_batches(config([], [store], image_batch=0, steps=10, max_broken_share=0.9))
    assert all(len(step["clip"].images) == 2 for step in batches)
    assert batches.counts.broken > 0 and all("takes/a frame" in name for name in batches.counts.files)


def test_dead_worker_is_an_error_not_a_hang(store):
    batches = training_batches(config([store], [store], steps=1000, workers=1), timeout=60)
    next(batches)
    os.kill(batches._iterator._workers[0].pid, signal.SIGKILL)
    with pytest.raises(DataError, match="data worker died"):
        for _ in batches:
            pass
    assert list(batches) == []


def test_stalled_worker_is_an_error_not_a_hang(tmp_path, monkeypatch):
    root = picture_folder(tmp_path / "f", 12)
    (root / "stalls.jpg").touch()

    def open_and_stall(*args):
        source = open_images(*args)
        (root / "stalls.jpg").unlink()
        os.mkfifo(root / "stalls.jpg")  # opening it waits for ever, as a lost network file system does
        return source

    monkeypatch.setattr("internlm.systems.egoagent.streams.open_images", open_and_stall)
    batches = training_batches(config([root], clip_batch=0, steps=1000, workers=1), timeout=2)
    worker = batches._iterator._workers[0]
    with pytest.raises(DataError, match="gave nothing for 2 s"):
        for _ in batches:
            pass
    worker.join(10)
    assert not worker.is_alive()


def test_a_worker_that_dies_while_a_step_is_computed_is_named(store):
    """Torch reports it by an error at whatever place the main thread is."""
    batches = training_batches(config([store], [store], steps=1000, workers=1))
    next(batches)
    with pytest.raises(RuntimeError) as caught:
        os.kill(batches._iterator._workers[0].pid, signal.SIGKILL)
        for _ in range(1000):
            time.sleep(0.01)
    assert "data worker died" in str(dead_worker(caught.value)) and "Killed" in str(dead_worker(caught.value))
    batches.close()
    assert dead_worker(RuntimeError("gloo")) is None and dead_worker(KeyError("DataLoader worker (pid")) is None


def test_a_stopped_worker_is_named_while_it_is_waited_for(store, monkeypatch, caplog):
    monkeypatch.setattr(loader, "_POLL", 0.2)
    monkeypatch.setattr(loader, "_NOTICE", 0.5)
    batches = training_batches(config([store], [store], steps=1000, workers=1), timeout=60)
    next(batches)
    worker = batches._iterator._workers[0].pid
    os.kill(worker, signal.SIGSTOP)
    while batches.ready():
        next(batches)
    for _ in range(5):
        assert not batches.ready()  # although batches that the worker has sent wait in the queue
    assert caplog.text.count("no batch for") == 1 and f"data workers: {worker} is stopped" in caplog.text
    os.kill(worker, signal.SIGCONT)
    while not batches.ready():
        pass
    assert len(next(batches)["image"].sample_ids) == 4
    os.kill(worker, signal.SIGSTOP)
    while batches.ready():
        next(batches)
    assert seconds(batches.close) < 20 and not any(worker.is_alive() for worker in multiprocessing.active_children())


def seconds(work) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


@pytest.mark.parametrize("what", ["memory", "sockets"])
def test_without_shared_memory_batches_are_the_same_and_it_is_said(store, monkeypatch, what, caplog):
    """Shared memory that may not grow as large as a batch; no folder for the socket that hands over its descriptor."""
    expected = list(training_batches(config([store], [store], steps=5)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if what == "memory":
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    else:
        monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", "/no/such/folder")
    try:
        assert same(training_batches(config([store], [store], steps=5, workers=2)), expected)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caplog.text.count("data workers cannot use shared memory") == 1 and "MB free" in caplog.text


SMALL = """
import os, sys
sys.path[:0] = [{samples!r}]
from loader_samples import config, same, training_batches
def batches(workers):
    return training_batches(config([{store!r}], [{store!r}], steps=12, workers=workers, image_batch=32, clip_batch=1))
print(same(batches(0), batches(2)))
print(os.statvfs("/dev/shm").f_bfree * os.statvfs("/dev/shm").f_frsize > 100_000)
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounts a /dev/shm of its own, as root")
@pytest.mark.parametrize("size", ["4k", "128k", "640k"])
def test_a_small_dev_shm(store, tmp_path, samples, size):
    """Too small for semaphores, for a batch of 0.26 MB, or for all that two workers read ahead (four batches)."""
    script = tmp_path / "script.py"
    script.write_text(SMALL.format(samples=str(samples), store=str(store)))
    command = f"mount -t tmpfs -o size={size} tmpfs /dev/shm && exec {sys.executable} {script}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, timeout=60)
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip(done.stderr)
    if size == "4k":
        assert "DataError: 2 data workers cannot be started: [Errno 28]" in done.stderr and "of 0 MB free" in done.stderr
        return
    assert done.stdout == "True\nTrue\n", done.stderr  # and nothing stays in /dev/shm
    assert "No space left on device" in done.stderr and "free): they come through pipes" in done.stderr


def test_workers_survive_the_schedulers_signal(store):
    batches = training_batches(config([store], [store], steps=8, workers=1))
    next(batches)
    os.kill(batches._iterator._workers[0].pid, signal.SIGTERM)
    assert len(list(batches)) == 7


def test_close_ends_iteration_and_workers(store):
    batches = training_batches(config([store], [store], steps=100, workers=2))
    next(batches)
    workers = batches._iterator._workers
    batches.close()
    batches.close()
    assert list(batches) == [] and not any(worker.is_alive() for worker in workers)


def test_evaluation_images_in_order_without_broken_ones(tmp_path):
    root = tmp_path / "f"
    for label in ("cat", "dog"):
        picture_folder((root / label) if root.exists() else _made(root) / label, 5, broken=(1,) if label == "dog" else ())
    source = open_images([root], label="folder")
    batches = list(evaluation_images(source, 32, batch=4, max_broken_share=0.2))
    assert torch.cat([b.rows for b in batches]).tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert torch.cat([b.labels for b in batches]).tolist() == [0] * 5 + [1] * 4
    assert all(b.images.dtype == torch.uint8 and b.images.shape[1:] == (3, 32, 32) for b in batches)
    with pytest.raises(DataError, match="1 broken of 10 files"):
        list(evaluation_images(source, 32))
    unlabelled = next(evaluation_images(open_images([root]), 32, batch=4, rows=np.array([8, 2])))
    assert unlabelled.labels is None and unlabelled.rows.tolist() == [8, 2]


def _made(path):
    path.mkdir()
    return path


def test_a_runs_clips_have_the_strengths_of_its_crops(store):
    """Hue alone is left, and turns further than the default would."""
    crops = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0.5}
    batches = training_batches(
        config(clips=[store], image_batch=0, clip_batch=8, crops=crops, clip={"steps": 2, "color_jitter": 1})
    )
    drawn = next(batches)["clip"].photometric
    batches.close()
    assert (drawn[:, :3] == 1).all() and 0.1 < drawn[:, 3].abs().max() <= 0.5
