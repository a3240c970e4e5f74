"""Clips: contiguous by frame number, paired with the right poses in the right coordinates."""

import numpy as np
import pytest
import torch
from data_samples import body, picture, turning_camera, write_take
from hypothesis import given, settings
from hypothesis import strategies as st

from internlm.config.schema import ClipConfig
from internlm.data.clips import ClipDataset
from internlm.data.evaluation import evaluation_clips
from internlm.data.frames import BrokenFile, DataError


def dataset(path, *, steps=2, stride=5, pose_stride=None, coordinates="camera", split="train", poses=5, size=48, **clip):
    config = ClipConfig(steps=steps, frame_stride=stride, pose_stride=pose_stride, pose_coordinates=coordinates, **clip)
    return ClipDataset([path], split, config, poses, 17, size)


def starts(data) -> list[int]:
    return data.first_frames.tolist()


def test_index_of_a_whole_take(tmp_path):
    data = dataset(write_take(tmp_path / "s"))
    assert starts(data) == list(range(0, 50, 5))  # frames 0, 5, .., 55: the last clip is 45, 50, 55
    sample = data.sample(3, None)
    assert sample["frame_numbers"].tolist() == [15, 20, 25]
    assert sample["images"].shape == (3, 3, 48, 48) and sample["images"].dtype == np.uint8
    difference = sample["images"][1].transpose(1, 2, 0).astype(int) - picture(sum(b"take") * 1000 + 20)
    assert np.abs(difference).mean() < 4  # frame 20's picture, up to JPEG


def test_gap_in_images_never_becomes_a_clip(tmp_path):
    images = [0, 5, 10, 20, 25, 30, 35]  # 15 is missing: by position 5, 10, 20 would look contiguous
    assert starts(dataset(write_take(tmp_path / "s", images=images))) == [0, 20, 25]


def test_images_off_the_grid_keep_their_phase(tmp_path):
    assert starts(dataset(write_take(tmp_path / "s", images=[3, 8, 13, 15, 20]))) == [3]


def test_gap_in_poses_never_becomes_a_clip(tmp_path):
    poses = [n for n in range(60) if n != 27]
    data = dataset(write_take(tmp_path / "s", poses=poses))
    assert starts(data) == [0, 5, 10, 15] + [30, 35, 40, 45]  # 20 and 25 need pose 27
    assert starts(dataset(tmp_path / "s", poses=1)) == list(range(0, 50, 5))  # one pose a step, at the image: 27 is not needed


@pytest.mark.parametrize(
    ("coordinates", "expected"), [("camera", [0, 5, 10, 15, 30, 35, 40, 45]), ("chunk", list(range(0, 50, 5)))]
)
def test_missing_camera_counts_only_where_needed(tmp_path, coordinates, expected):
    path = write_take(tmp_path / "s", cameras=[n for n in range(60) if n != 27])
    assert starts(dataset(path, coordinates=coordinates)) == expected


def test_missing_anchor_camera_excludes_chunk_clips(tmp_path):
    path = write_take(tmp_path / "s", cameras=[n for n in range(60) if n != 25])
    assert starts(dataset(path, coordinates="chunk")) == [0, 5, 10, 15, 30, 35, 40, 45]


@settings(max_examples=40, deadline=None)
@given(
    images=st.sets(st.integers(0, 40), min_size=4),
    poses=st.sets(st.integers(0, 40), min_size=10),
    stride=st.sampled_from([2, 4]),
    steps=st.integers(1, 3),
)
def test_index_equals_its_definition(tmp_path_factory, images, poses, stride, steps):
    path = write_take(tmp_path_factory.mktemp("s") / "s", images=sorted(images), poses=sorted(poses), size=8)
    expected = [
        f
        for f in sorted(images)
        if all(f + k * stride in images for k in range(steps + 1))
        and all(f + k * stride + p * (stride // 2) in poses for k in range(steps) for p in range(2))
    ]
    try:
        found = starts(dataset(path, steps=steps, stride=stride, poses=2, size=8))
    except DataError:
        found = []
    assert found == expected


def test_camera_coordinates_exact(tmp_path):
    data = dataset(write_take(tmp_path / "s"))
    sample = data.sample(2, None)  # first frame 10
    number = 10 + 5 + 3  # chunk 1, pose 3
    world = body([number])[0].astype(float)
    camera = turning_camera([number])[0]
    expected = (world - camera[:3, 3]) @ camera[:3, :3]
    expected[4] = 0
    np.testing.assert_allclose(sample["poses"][1, 3], expected, atol=1e-6)
    assert sample["visible"][1, 3].tolist() == [joint != 4 for joint in range(17)]
    assert sample["poses"].dtype == np.float32


def test_chunk_coordinates_exact(tmp_path):
    data = dataset(write_take(tmp_path / "s"), coordinates="chunk")
    sample = data.sample(2, None)
    camera = turning_camera([15])[0]  # image of step 1
    for pose, number in enumerate(range(15, 20)):
        expected = (body([number])[0].astype(float) - camera[:3, 3]) @ camera[:3, :3]
        expected[4] = 0
        np.testing.assert_allclose(sample["poses"][1, pose], expected, atol=1e-6)
    for pose, number in enumerate(range(10, 15)):
        expected = (body([number])[0].astype(float) - camera[:3, 3]) @ camera[:3, :3]
        expected[4] = 0
        np.testing.assert_allclose(sample["past_poses"][1, pose], expected, atol=1e-6)


def test_camera_space_poses_give_the_same_as_world_poses(tmp_path):
    from internlm.data.store import PoseTrack, StoreWriter, TakeInfo, TakeStore

    write_take(tmp_path / "world")
    take = TakeStore(tmp_path / "world").take("take")
    track = take.poses()
    local = np.einsum("nji,nkj->nki", track.world_from_camera[:, :3, :3], track.joints - track.world_from_camera[:, None, :3, 3])
    moved = PoseTrack(track.frames, local, track.visible, track.camera_frames, track.world_from_camera)
    frames = [(int(number), take.read_frame(number)) for number in take.frame_numbers]
    StoreWriter(tmp_path / "camera").add_take(TakeInfo("take", "take", "train", 30, None, "camera"), frames, moved)
    for coordinates in ("camera", "chunk"):
        one = dataset(tmp_path / "world", coordinates=coordinates).sample(4, None)
        other = dataset(tmp_path / "camera", coordinates=coordinates).sample(4, None)
        for name in ("poses", "past_poses"):
            np.testing.assert_allclose(one[name], other[name], atol=1e-5)


@pytest.mark.parametrize("coordinates", ["camera", "chunk"])
def test_past_poses_continue_the_previous_chunk(tmp_path, coordinates):
    data = dataset(write_take(tmp_path / "s"), coordinates=coordinates)
    sample = data.sample(0, None)
    assert not sample["past_visible"][0].any() and (sample["past_poses"][0] == 0).all()  # frames -5..-1 do not exist
    np.testing.assert_array_equal(sample["past_visible"][1], sample["visible"][0])
    if coordinates == "camera":
        np.testing.assert_array_equal(sample["past_poses"][1], sample["poses"][0])
    else:
        assert np.abs(sample["past_poses"][1] - sample["poses"][0]).max() > 0.01  # another anchor


def test_past_pose_that_is_missing_is_not_visible(tmp_path):
    path = write_take(tmp_path / "s", poses=[n for n in range(60) if n != 8])
    data = dataset(path)
    sample = data.sample(starts(data).index(10), None)
    assert sample["past_visible"][0].any(-1).tolist() == [True, True, True, False, True]
    assert (sample["past_poses"][0, 3] == 0).all()


def test_pose_stride_spreads_a_chunk_over_a_long_step(tmp_path):
    data = dataset(write_take(tmp_path / "s"), stride=15, pose_stride=3, coordinates="chunk")
    assert data.pose_offsets.tolist() == [[0, 3, 6, 9, 12], [15, 18, 21, 24, 27]]
    assert data.past_offsets.tolist() == [[-15, -12, -9, -6, -3], [0, 3, 6, 9, 12]]


def test_takes_and_splits(tmp_path):
    for name, split in (("b", "train"), ("a", "train"), ("c", "val")):
        write_take(tmp_path / "s", name, split=split)
    data = dataset(tmp_path / "s")
    assert [take.info.name for take in data.takes] == ["a", "b"] and len(data) == 20
    assert int(data.sample(15, None)["takes"]) == 1
    with pytest.raises(DataError, match="no take of split 'test'; the store has train: 2, val: 1"):
        dataset(tmp_path / "s", split="test")


def test_nothing_found_says_why(tmp_path):
    with pytest.raises(
        DataError,
        match=r"needs 3 images every 7 .* Starts excluded: 2: the take ends before the clip does; 10: an image is missing",
    ):
        dataset(write_take(tmp_path / "s"), stride=7, pose_stride=1)
    with pytest.raises(DataError, match=r"10: a body pose is missing"):
        dataset(write_take(tmp_path / "none", poses=[]))
    with pytest.raises(DataError, match=r"10: a pose's camera pose is missing"):
        dataset(write_take(tmp_path / "blind", cameras=[]))
    with pytest.raises(DataError, match="not a take store"):
        dataset(tmp_path)


def test_shared_random_crop_is_one_window_for_all_frames(tmp_path):
    path = write_take(tmp_path / "s", images=[0, 5, 10], size=64)
    data = dataset(path, size=32, crop_scale=(0.25, 0.25))
    images = data.sample(0, np.random.default_rng(3))["images"]
    seeds = sum(b"take") * 1000 + np.array([0, 5, 10])
    fits = []
    for top in range(33):
        for left in range(33):
            windows = [picture(int(seed), 64, 64)[top : top + 32, left : left + 32].transpose(2, 0, 1) for seed in seeds]
            fits.append([np.abs(image.astype(int) - window).mean() for image, window in zip(images, windows)])
    assert len(set(np.argmin(fits, 0))) == 1 and np.min(fits, 0).max() < 4
    np.testing.assert_array_equal(images, data.sample(0, np.random.default_rng(3))["images"])


def test_evaluation_clips_cover_takes_without_overlap(tmp_path):
    write_take(tmp_path / "s", "a")
    write_take(tmp_path / "s", "b", images=range(0, 40, 5))
    data = dataset(tmp_path / "s")
    batches = list(evaluation_clips(data, 3))
    numbers = [(int(take), clip.tolist()) for b in batches for take, clip in zip(b.takes, b.frame_numbers)]
    assert numbers == [
        (0, [0, 5, 10]),
        (0, [15, 20, 25]),
        (0, [30, 35, 40]),
        (0, [45, 50, 55]),
        (1, [0, 5, 10]),
        (1, [15, 20, 25]),
    ]
    assert [len(b.images) for b in batches] == [3, 3]
    assert sum(len(b.images) for b in evaluation_clips(data, 4, hop=5)) == len(data)
    limited = [clip for b in evaluation_clips(data, 4, limit=2) for clip in b.frame_numbers[:, 0].tolist()]
    assert limited == [0, 15]


def test_mixed_evaluation_clips_are_the_same_in_a_fixed_random_order(tmp_path):
    for name in "abc":
        write_take(tmp_path / "s", name)
    data = dataset(tmp_path / "s")
    plain, mixed, again = (list(evaluation_clips(data, 4, mixed=flag)) for flag in (False, True, True))
    numbers = [torch.cat([b.sample_ids for b in batches]).tolist() for batches in (plain, mixed, again)]
    assert sorted(numbers[1]) == numbers[0] != numbers[1] == numbers[2]
    by_id = {int(i): clip for b in plain for i, clip in zip(b.sample_ids, b.images)}
    for batch in mixed:
        for number, clip in zip(batch.sample_ids.tolist(), batch.images):
            assert torch.equal(clip, by_id[number]), "fields move together"
    odd = list(evaluation_clips(data, 4, mixed=True, only=lambda batches: range(1, batches, 2)))
    assert [b.sample_ids.tolist() for b in odd] == [b.sample_ids.tolist() for b in mixed[1::2]]


def test_broken_frame_names_the_file_and_the_next_clip_without_it(tmp_path):
    path = write_take(tmp_path / "s")
    tar = path / "takes" / "take" / "frames.tar"
    index = np.load(tar.with_name("frames.idx.npy"))
    offset = int(index[index[:, 0] == 20][0, 1])
    content = bytearray(tar.read_bytes())
    content[offset : offset + 20] = b"x" * 20
    tar.write_bytes(content)
    data = dataset(path)
    for start in (10, 15, 20):
        with pytest.raises(BrokenFile, match="take frame 20: cannot be decoded") as caught:
            data.sample(starts(data).index(start), None)
        assert starts(data)[caught.value.resume_at] == 25
