"""Frames are told by when they are shown: every container's way of keeping time, cut files, headers that are wrong."""

import re
import struct
from fractions import Fraction

import numpy as np
import pytest
from data_samples import data_command
from hypothesis import given, settings
from hypothesis import strategies as st
from video_samples import TICK, av, number_of, numbers, read, store, write_joined, write_video

from dataset_preprocess.errors import RecordingError
from dataset_preprocess.extract_wtour_frames import nearest_frames
from dataset_preprocess.undistort_egovideos import check_aligned
from dataset_preprocess.video import open_video
from dataset_preprocess.video_time import usual_rate
from internlm.data.store import StoreWriter, TakeInfo

# One second at 30 frames/s, then three at 5 frames/s, in 1/600 s
SLOWING = [20 * k for k in range(30)] + [600 + 120 * k for k in range(15)]
DROPPED = [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 20, 21, 22, 23, 24, 25, 26, 27]  # in 1/30 s


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "ts", "avi"])
def test_a_slowing_video_is_sampled_in_time(tmp_path, suffix):
    ticks, unit = (SLOWING, TICK) if suffix != "avi" else ([t // 20 for t in SLOWING], Fraction(1, 30))
    path = write_video(tmp_path / f"v.{suffix}", times=ticks, unit=unit)
    facts, take = store(path, tmp_path / "s", rate=5)
    assert facts == {"frames": 20} and take.info.frame_rate == 5 and take.info.extra["video_rate"] == 30
    assert numbers(take) == dict(enumerate([0, 6, 12, 18, 24, *range(30, 45)]))
    stamps = take.labels()["timestamp_ns"]
    assert np.abs(stamps - 2e8 * np.arange(20)).max() < 1e6  # Matroska counts milliseconds
    assert data_command("check", tmp_path / "s") == 0
    facts, take = store(path, tmp_path / "all", rate=None)
    assert facts == {"frames": 45, "gaps": 70} and take.info.frame_rate == 30
    assert numbers(take) == {round(tick / 20): k for k, tick in enumerate(SLOWING)}
    facts, take = store(path, tmp_path / "ten", rate=10)
    assert facts == {"frames": 25, "gaps": 14}
    assert numbers(take) == {**{k: 3 * k for k in range(10)}, **{10 + 2 * k: 30 + k for k in range(15)}}


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"bf": "0"}),
        ("libx264", {"bf": "1"}),
        ("libx264", {"bf": "3", "b-pyramid": "normal", "x264-params": "b-adapt=0:scenecut=0"}),
        ("mpeg4", {"qscale": "2", "b": "2M"}),
        ("mpeg4", {"bf": "2", "b": "2M"}),
        ("mjpeg", {"b": "4M"}),
    ],
)
@pytest.mark.parametrize("places", [DROPPED, list(range(24))])
def test_avi_tells_dropped_frames_and_only_the_order_of_decoding(tmp_path, codec, options, places):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    pictures = [np.full((64, 96, 3), 30 + 3 * k, np.uint8) for k in range(len(places))]
    path = write_video(
        tmp_path / "v.avi", times=places, unit=Fraction(1, 30), codec=codec, pixels=pixels, pictures=pictures, **options
    )
    facts, take = store(path, tmp_path / "s", rate=None)
    found = numbers(take)
    assert list(found) == places and take.info.frame_rate == 30
    assert np.abs(np.array(list(found.values())) - np.arange(len(places))).max() <= (0 if codec == "libx264" else 1)
    assert facts.get("gaps", 0) == places[-1] + 1 - len(places)


@pytest.mark.parametrize("shift", [-40, 0, 7, 400, 10**7])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_time_begins_with_the_first_frame_shown(tmp_path, suffix, shift):
    path = write_video(tmp_path / f"v.{suffix}", times=[20 * k + shift for k in range(30)])
    facts, take = store(path, tmp_path / "s", rate=5)
    hidden = 2 if (suffix, shift) == ("mp4", -40) else 0  # by the edit list, which begins at time 0
    assert numbers(take) == {k: 6 * k + hidden for k in range(5)}
    assert take.labels()["timestamp_ns"][0] == 0


def test_an_edit_list_hides_frames_and_is_no_damage(tmp_path):
    path = write_video(tmp_path / "v.mp4", times=range(0, 1200, 20), g="15", bf="2")
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12
    _, start, _ = struct.unpack(">IiI", data[place : place + 12])
    data[place : place + 12] = struct.pack(">IiI", 1000, start + 19200 * 20 // 30, 65536)  # one second, from frame 20 on
    path.write_bytes(data)
    facts, take = store(path, tmp_path / "s", rate=10)
    assert facts == {"frames": 10} and numbers(take) == {k: 20 + 3 * k for k in range(10)}
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(RecordingError, match="no readable video|breaks off"):
        read(path)


def test_a_wrong_rate_in_the_header_does_not_matter(tmp_path):
    for rate in (60, 1000, Fraction(1, 3)):
        path = write_video(tmp_path / "v.mkv", times=range(0, 600, 20), rate=rate)
        facts, take = store(path, tmp_path / str(float(rate)), rate=5)
        assert numbers(take) == {k: 6 * k for k in range(5)}
        assert take.info.extra["video_rate"] == pytest.approx(30, rel=0.01)


def test_a_rate_above_the_videos_is_refused(tmp_path, capfd):
    path = write_video(tmp_path / "v.mp4", 12, rate=Fraction(30000, 1001))
    assert data_command("videos", tmp_path / "s", path, "--rate", 60) == 1
    assert "v.mp4: has 29.97 frames/s, fewer than --rate 60; give 29.97 or less, or 0 for every frame" in capfd.readouterr().err
    facts, take = store(path, tmp_path / "s", rate=30)
    assert facts == {"frames": 12} and take.info.frame_rate == 30
    _, take = store(write_video(tmp_path / "one.mp4", 1), tmp_path / "s", rate=5)  # one frame has no rate
    assert take.frame_numbers.tolist() == [0]


def test_uneven_frames_get_numbers_of_their_own(tmp_path):
    unit = Fraction(1, 90000)
    path = write_video(tmp_path / "v.ts", times=[0, 3000, 6000, 7000, 12000, 15000, 18000, 21000, 24000, 27000], unit=unit)
    facts, take = store(path, tmp_path / "s", rate=None)
    assert take.info.frame_rate == 90 and list(numbers(take).values()) == list(range(10))
    assert data_command("check", tmp_path / "s") == 0
    path = write_video(tmp_path / "near.ts", times=[0, 3000, 6000, 6003, 12000, 15000, 18000, 21000, 24000, 27000], unit=unit)
    with pytest.raises(RecordingError, match="near.ts: has frames less than 0.001 s apart, too near to store all; give a --rate"):
        store(path, tmp_path / "s", rate=None)
    facts, take = store(path, tmp_path / "s", rate=10)
    assert numbers(take) == {0: 0, 1: 3, 2: 6, 3: 9}


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"bf": "2", "g": "12"}),
        ("libx264", {"bf": "2", "g": "12", "x264-params": "open-gop=1"}),
        ("mpeg2video", {"bf": "2", "g": "12", "b": "3M"}),
    ],
)
def test_a_stream_cut_inside_a_group_starts_at_its_first_key_frame(tmp_path, codec, options, capfd):
    noise = np.random.default_rng(0).integers(0, 60, (96, 128))
    pictures = [
        np.clip(np.roll(noise, 3 * k, 1) + 3 * k + 40, 0, 255).astype(np.uint8)[..., None].repeat(3, -1) for k in range(40)
    ]
    path = write_video(tmp_path / "v.ts", 40, size=(128, 96), codec=codec, pictures=pictures, **options)
    data = path.read_bytes()
    packets, told = len(data) // 188, 0
    for share in (0.1, 0.23, 0.4, 0.61):
        path.write_bytes(data[188 * int(share * packets) :])
        with open_video(path) as video:
            found = {index: round((image.mean() - 69.5) / 3) for index, image in video.frames(lambda index: True)}
            shift = found[0]
            assert shift and all(number == index + shift for index, number in found.items())
            assert list(found) == list(range(40 - shift)) and np.allclose(np.diff(video.seconds), 1 / 30)
            told = max(told, video.skipped)
    assert told > 2
    path.write_bytes(data[188 * int(0.4 * packets) : 188 * int(0.8 * packets) + 77])  # and ends inside a frame
    with open_video(path) as video:
        images = dict(video.frames(lambda index: True))
        found = np.array([round((image.mean() - 69.5) / 3) for image in images.values()])
        assert video.torn and (found - found[0] == np.round(30 * video.seconds)).all()
    path.write_bytes(data[188 * int(0.1 * packets) :])
    assert data_command("videos", tmp_path / "s", path, "--rate", 10) == 0
    assert re.search(r"v: \d+ frames, (\d+ gaps, )?\d+ frames before the first key frame left out", capfd.readouterr().out)


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4"), ("avi", "libx264")])
def test_a_download_that_broke_off_is_named_in_every_container(tmp_path, suffix, codec):
    path = write_video(tmp_path / f"v.{suffix}", 60, codec=codec, rate=30, **({"deadline": "realtime"} if "vp9" in codec else {}))
    assert len(read(path)) == 60
    data = path.read_bytes()
    for share in (0.3, 0.6, 0.9, 0.999):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(RecordingError, match=rf"v\.{suffix}: .*(breaks off|no readable video)"):
            read(path)


def test_a_live_recording_announces_no_length(tmp_path):
    with av.open(str(tmp_path / "v.mkv"), "w", options={"live": "1"}) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert len(read(tmp_path / "v.mkv")) == 20


def test_a_cover_picture_is_no_video(tmp_path):
    with av.open(str(tmp_path / "song.m4a"), "w", format="mp4") as container:
        cover, sound = container.add_stream("mjpeg", rate=1), container.add_stream("aac", rate=16000)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 64, 64, "yuvj420p", 0x400
        sound.layout = "mono"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with av.open(str(tmp_path / "song.m4a")) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(RecordingError, match="song.m4a: has no video stream"):
        read(tmp_path / "song.m4a")


def remux(source, target, change, *, fmt=None):
    """The packets of a video with other times: ``change(place, packet)`` sets them."""
    with av.open(str(source)) as old, av.open(str(target), "w", format=fmt) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for place, packet in enumerate(packet for packet in old.demux(video=0) if packet.size):
            change(place, packet)
            packet.stream = stream
            new.mux(packet)
    return target


def test_frames_without_a_time_of_their_own_are_refused(tmp_path):
    plain = write_video(tmp_path / "plain.mkv", 20, bf="0")

    def twice(place, packet):
        packet.pts = packet.dts = packet.pts if place != 7 else packet.pts - 33

    with pytest.raises(RecordingError, match="twice.mkv: shows two frames at the time of frame 6; remake it with ffmpeg"):
        read(remux(plain, tmp_path / "twice.mkv", twice))
    with pytest.raises(RecordingError, match="raw.h264: does not say when its frame"):
        read(remux(write_video(tmp_path / "b.mp4", 20, bf="2"), tmp_path / "raw.h264", lambda *_: None, fmt="h264"))


def test_fields_are_frames_only_together(tmp_path):
    path = write_video(tmp_path / "v.ts", 24, **{"flags": "+ildct+ilme", "x264-params": "interlaced=1:tff=1"})
    assert [number_of(image) for image in read(path).values()] == list(range(24))


def test_packets_of_frames_that_are_never_shown_are_no_frames(tmp_path):
    """VP8 sends pictures that only others are made from. Here one is made of a shown frame by taking away its show bit."""
    path = write_video(tmp_path / "v.mkv", 20, codec="libvpx", deadline="realtime", b="500k")

    def hide(place, packet):
        if place == 9:
            data = bytearray(bytes(packet))
            data[0] &= ~0x10
            packet.update(bytes(data))

    found = read(remux(path, tmp_path / "hidden.mkv", hide))
    assert [number_of(image) for image in found.values()] == [k for k in range(20) if k != 9]


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=60),
    st.sampled_from([1.0, 2.5, 5.0, 24.0, 29.97, 30.0]),
)
@settings(max_examples=400, deadline=None)
def test_every_stored_frame_is_the_nearest_to_its_number(steps, rate):
    seconds = np.concatenate([[0], np.cumsum(steps)]) / 600
    chosen, found = nearest_frames(seconds, rate, 1 / 1200)
    assert chosen[0] == 0 and found[0] == 0 and (np.diff(chosen) > 0).all() and (np.diff(found) > 0).all()
    for index, number in zip(chosen, found):
        distance = np.abs(seconds - number / rate)
        assert distance[index] <= distance.min() + 2e-6 and distance[index] <= 0.5 / rate + 2e-6
    for gap in set(range(int(seconds[-1] * rate) + 1)) - set(found.tolist()):  # left out only where nothing is near
        assert np.abs(seconds - gap / rate).min() >= 0.5 / rate - 2e-6


@pytest.mark.parametrize(
    ("seconds", "announced", "rate"),
    [
        (np.arange(100) * 1001 / 30000, [30000 / 1001], 30000 / 1001),
        (np.round(np.arange(12) / 30, 3), [30.0], 30),
        (np.delete(np.arange(100), [5, 6, 50]) / 25, [24.1, 25.0], 25),
        (np.arange(50) / 30, [600.0, 30.0], 30),
        (np.arange(50) / 30, [60.0, 0.0], 30),
        (np.round(np.arange(40) / 30, 2), [100 / 3, 30.0], 30),  # a unit of 1/100 s
        (np.arange(5) * 60, [0.0], 1 / 60),
    ],
)
def test_the_usual_rate_is_measured(seconds, announced, rate):
    assert usual_rate(seconds, announced, 0.01 if 100 / 3 in announced else 0.001) == pytest.approx(rate, rel=1e-9)


def test_frame_aligned_videos_have_every_frame_in_its_place(tmp_path):
    even = np.arange(40) / 30
    check_aligned(tmp_path, even, 0)
    check_aligned(tmp_path, even + np.linspace(0, 0.015, 40), 0)
    with pytest.raises(RecordingError, match="frame 10 is shown at 0.367 s, in a frame-aligned video at 0.333 s; annotations"):
        check_aligned(tmp_path, np.delete(even, 10), 0)
    with pytest.raises(RecordingError, match="lacks 3 frames at its start, which annotations count"):
        check_aligned(tmp_path, even, 3)


def test_frame_times_that_do_not_fit_the_rate_are_a_fault(tmp_path, capsys):
    path = write_video(tmp_path / "v.mp4", 30)
    _, take = store(path, tmp_path / "s", rate=None)
    pictures = [(number, take.read_frame(number)) for number in take.frame_numbers.tolist()]
    jitter = np.random.default_rng(0).uniform(-0.49, 0.49, 30)
    for name, seconds, fault in (
        ("right", np.arange(30) / 30, None),
        ("jitter", (np.arange(30) + jitter) / 30 + 7, None),
        (
            "slow",
            np.arange(30) / 25,
            "recorded 0.240 s after the first, its number says 0.200 s at 30 Hz; by their times the frames have 25 Hz",
        ),
        ("gap", np.arange(30) / 30 + (np.arange(30) > 20) * 0.1, "frame 21 was recorded 0.800 s after the first"),
        ("back", np.where(np.arange(30) == 9, 0.1, np.arange(30) / 30), "frame 9 was recorded no later than frame 8"),
    ):
        info = TakeInfo(name, name, "train", 30.0)
        labels = {"frames": np.arange(30), "timestamp_ns": np.round(1e9 * seconds).astype(np.int64)}
        StoreWriter(tmp_path / name).add_take(info, pictures, labels=labels)
        assert data_command("check", tmp_path / name) == int(fault is not None)
        assert (fault or "0 with faults") in capsys.readouterr().out
    StoreWriter(tmp_path / "ego").add_take(TakeInfo("ego", "ego", "train", 25.0, source="egoexo4d"), pictures)
    assert data_command("check", tmp_path / "ego") == 1
    assert "take.json says 25 Hz; frames of egoexo4d are counted at 30 Hz" in capsys.readouterr().out


def test_a_shape_that_changes_on_the_way_is_refused(tmp_path):
    wide, tall = Fraction(64, 45), Fraction(16, 15)
    with pytest.raises(RecordingError, match="changes its shape at frame 1[0-2], from 102x64 to 137x64; make a file of each"):
        read(write_joined(tmp_path / "v.ts", [((96, 64), tall), ((96, 64), wide)]))
    with pytest.raises(RecordingError, match="from 96x64 to 128x128"):
        read(write_joined(tmp_path / "v.ts", [((96, 64), None), ((128, 128), None)]))
    found = read(write_joined(tmp_path / "v.ts", [((96, 64), None), ((192, 128), None)]))  # the same shape in more pixels
    assert {image.shape for image in found.values()} == {(64, 96, 3)}
    assert np.abs(np.array([number_of(image) for image in found.values()]) - [*range(12), *range(12)]).max() <= 1
