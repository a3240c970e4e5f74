"""Videos: the wanted frames and no others, whatever the order in the file; damage is named; any video becomes a take."""

import math

import numpy as np
import pytest
from data_samples import data_command
from video_samples import read, write_video

from dataset_preprocess.errors import RecordingError
from dataset_preprocess.extract_wtour_frames import nearest_frames, stored_size
from dataset_preprocess.video import open_video
from internlm.data.frames import decode
from internlm.data.store import TakeStore

av = pytest.importorskip("av")


@pytest.mark.parametrize(("stride", "phase", "threads"), [(1, 0, 1), (5, 0, 1), (5, 3, 1), (7, 2, 2), (59, 0, 1)])
def test_wanted_frames_are_those_of_a_full_decoding(tmp_path, stride, phase, threads):
    path = write_video(tmp_path / "v.mp4", bf="3", **{"b-pyramid": "normal"})
    with av.open(str(path)) as container:
        packets = [packet.pts for packet in container.demux(video=0) if packet.size]
        assert packets != sorted(packets)  # the file's order is not the order of showing
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    found = read(path, lambda index: index % stride == phase, threads=threads)
    assert list(found) == list(range(phase, 60, stride))
    assert all((image == expected[index]).all() for index, image in found.items())
    assert abs(found[phase].mean() - 3 * phase - 30) < 2


def test_facts_and_resizing(tmp_path):
    path = write_video(tmp_path / "v.mp4", 10)
    with open_video(path) as video:
        assert video.facts == type(video.facts)(96, 64, 30.0, 10)
        assert {image.shape for _, image in video.frames(lambda index: True, (48, 32))} == {(32, 48, 3)}


def test_uneven_times_are_counted_in_order(tmp_path):
    times = np.cumsum([1, 3, 1, 1, 9, 2] * 5).tolist()
    path = write_video(tmp_path / "v.mkv", 30, times=times)
    found = read(path, lambda index: index % 4 == 1)
    assert list(found) == list(range(1, 30, 4))
    assert [round((image.mean() - 30) / 3) for image in found.values()] == list(found)


@pytest.mark.parametrize("faststart", [False, True])
def test_truncated_and_damaged_files_are_named(tmp_path, faststart):
    data = write_video(tmp_path / "v.mp4", 60, faststart=faststart).read_bytes()
    bad = tmp_path / "bad.mp4"
    for share in (0.0, 0.02, 0.5, 0.97):
        bad.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(RecordingError, match="bad.mp4: .*(no readable video|no video stream|breaks off|cannot be decoded)"):
            read(bad)
    start = data.index(b"mdat") + 900
    bad.write_bytes(data[:start] + bytes(600) + data[start + 600 :])
    with pytest.raises(RecordingError, match="bad.mp4: .*near frame"):
        read(bad, lambda index: index % 5 == 0)
    bad.write_text("no video")
    with pytest.raises(RecordingError, match="bad.mp4: is no readable video"):
        read(bad)
    with pytest.raises(RecordingError, match="gone.mp4: does not exist"):
        read(tmp_path / "gone.mp4")


@pytest.mark.parametrize("step", [1.0, 1.5, 2.0, 29.97 / 5, 6.25, 30.0])
def test_chosen_frames_are_the_nearest_to_the_wanted_times(step):
    chosen, numbers = nearest_frames(np.arange(2000) / 30, 30 / step, 0.5 / 30)
    assert numbers.tolist() == list(range(int(1999.5 / step) + 1))
    assert np.abs(chosen - numbers * step).max() <= 0.5 + 1e-6
    ties = np.abs(numbers * step % 1 - 0.5) < 1e-9
    assert (chosen - numbers * step)[ties][:-1].tolist() == [0.5] * (ties.sum() - 1) if ties.any() else step != 1.5


def test_sizes_keep_the_shape_and_are_never_enlarged():
    assert stored_size(3840, 2160, 448) == (796, 448)
    assert stored_size(720, 1280, 360) == (360, 640)
    assert stored_size(320, 240, 448) == (320, 240) and stored_size(320, 240, None) == (320, 240)


def test_videos_become_takes_at_their_rate_and_size(tmp_path, capsys):
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v" / "tour.mp4")
    assert data_command("videos", tmp_path / "s", tmp_path / "v", "--rate", 6, "--size", 32) == 0
    (take,) = TakeStore(tmp_path / "s").select("train")
    assert take.info.frame_rate == 6 and take.info.extra["video_rate"] == 30
    assert take.frame_numbers.tolist() == list(range(12))
    images = [decode(take.read_frame(number)) for number in range(12)]
    assert {image.shape for image in images} == {(32, 48, 3)}
    assert [round((image.mean() - images[0].mean()) / 3) for image in images] == list(range(0, 60, 5))
    assert data_command("check", tmp_path / "s") == 0
    assert data_command("videos", tmp_path / "all", tmp_path / "v/tour.mp4", "--rate", 0, "--size", 0, "--no-pack") == 0
    (take,) = TakeStore(tmp_path / "all").select("train")
    assert len(take.frame_numbers) == 60 and take.info.frame_rate == 30 and (take.path / "frames").is_dir()


def test_a_bad_video_fails_alone_and_leaves_nothing(tmp_path, capfd):
    data = write_video(tmp_path / "good.mp4", faststart=True).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    assert data_command("videos", tmp_path / "s", tmp_path / "cut.mp4", tmp_path / "good.mp4") == 1
    assert "cut.mp4: is damaged or breaks off near frame" in capfd.readouterr().err
    assert [entry.name for entry in (tmp_path / "s" / "takes").iterdir()] == ["good"]


def test_blurring_can_be_required(tmp_path, capfd):
    path = write_video(tmp_path / "tour.mp4", 6)
    assert data_command("videos", tmp_path / "s", path, "--require-blurred") == 1
    assert "is not marked as blurred" in capfd.readouterr().err
    (tmp_path / "tour.mp4.blurred").touch()
    path.rename(tmp_path / "venice_anonymized.mp4")
    write_video(path, 6)
    assert data_command("videos", tmp_path / "s", path, tmp_path / "venice_anonymized.mp4", "--require-blurred") == 0
    assert all(info.extra["blurred"] for info in TakeStore(tmp_path / "s").infos)


def test_stage_one_trains_on_driving_clips(shared_data, tmp_path):
    from train_samples import tiny_config

    from internlm.monitor.metrics import read_metrics
    from internlm.train.loop import train

    clips = sorted((shared_data / "driving_clips").glob("*.mp4"))
    if not clips:
        pytest.skip("no driving clips among the sample data")
    assert data_command("videos", tmp_path / "s", *clips, "--rate", 5, "--size", 64) == 0
    assert data_command("check", tmp_path / "s") == 0
    config = tiny_config(
        tmp_path / "run", "pretrain", data={"images": (str(tmp_path / "s"),), "workers": 0}, train={"steps": 4, "image_batch": 4}
    )
    result = train(config)
    assert result.step == 4 and all(math.isfinite(record["loss"]) for record in read_metrics(result.run_dir))
