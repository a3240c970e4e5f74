"""Image sources: folder trees, labelled folders, store frames, and what counts as broken."""

import io
import pickle

import numpy as np
import pytest
from data_samples import jpeg, picture, write_take
from PIL import Image

from internlm.data.frames import BrokenFile, DataError, ImageFolder, decode, open_images


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root, **files):
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def test_decode_jpeg_equals_pillow_and_png_is_exact():
    image = picture(0)
    reference = np.asarray(Image.open(io.BytesIO(jpeg(image))).convert("RGB")).astype(int)
    assert np.abs(decode(jpeg(image)) - reference).max() <= 1
    np.testing.assert_array_equal(decode(png(image)), image)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode):
    buffer = io.BytesIO()
    Image.fromarray(picture(0)).convert(mode).save(buffer, "JPEG" if mode in ("L", "CMYK") else "PNG")
    decoded = decode(buffer.getvalue())
    assert decoded.shape == (48, 48, 3) and decoded.dtype == np.uint8


def test_reduced_decode_stays_above_the_side_asked_for():
    data = jpeg(picture(0, 400, 600))
    assert decode(data).shape == (400, 600, 3)
    assert decode(data, 100).shape == (100, 150, 3)
    assert decode(data, 101).shape == (150, 225, 3)
    assert decode(data, 300).shape == (400, 600, 3)  # less than half is not worth it


@pytest.mark.parametrize("data", [b"", b"hello", jpeg(picture(0))[:300], b"\xff\xd8\xff" + b"no jpeg" * 9, png(picture(0))[:200]])
def test_broken_bytes_are_refused(data):
    with pytest.raises(ValueError, match=f"cannot be decoded \\({len(data)} bytes\\)"):
        decode(data)


def test_any_tree_sorted_without_hidden_files(tmp_path):
    image = jpeg(picture(0))
    folder(tmp_path, b__x_dot_jpg=image, a__deep__y_dot_JPEG=image, z_dot_png=png(picture(1)), notes_dot_txt=b"hi")
    folder(tmp_path, _dot_cache__q_dot_jpg=image, a___dot_thumb_dot_jpg=image)
    source = ImageFolder(tmp_path)
    assert [source.name(i).removeprefix(f"{tmp_path}/") for i in range(len(source))] == ["a/deep/y.JPEG", "b/x.jpg", "z.png"]
    assert source.label(0) is None and source.classes == ()
    np.testing.assert_array_equal(source.read(2), picture(1))


def test_labelled_folder(tmp_path):
    folder(tmp_path, dog__a_dot_jpg=jpeg(picture(0)), cat__b_dot_jpg=jpeg(picture(1)), cat__deep__c_dot_jpg=jpeg(picture(2)))
    source = open_images([tmp_path], label="folder")
    assert source.classes == ("cat", "dog") and [source.label(i) for i in range(3)] == [0, 0, 1]
    folder(tmp_path, stray_dot_jpg=jpeg(picture(0)))
    with pytest.raises(DataError, match=r"stray\.jpg: is in no class folder"):
        open_images([tmp_path], label="folder")


def test_names_beyond_ascii(tmp_path):
    (tmp_path / "été 漢.jpg").write_bytes(jpeg(picture(0)))
    assert ImageFolder(tmp_path).read(0).shape == (48, 48, 3)


def test_missing_and_empty_folders_say_so(tmp_path):
    with pytest.raises(DataError, match="nowhere: does not exist"):
        open_images([tmp_path / "nowhere"])
    (tmp_path / "notes.txt").write_text("hi")
    with pytest.raises(DataError, match=r"no image in it or below; other files: 1 \(1 \.txt\)"):
        open_images([tmp_path])
    with pytest.raises(DataError, match="is a file, not a folder"):
        open_images([tmp_path / "notes.txt"])
    with pytest.raises(DataError, match=r"data\.images is empty"):
        open_images([])


def test_store_frames_with_stride_and_labels(tmp_path):
    path = tmp_path / "s"
    write_take(path, "a", place="hall")
    write_take(path, "b", place="attic", images=range(3, 40, 3))
    write_take(path, "c", split="val")
    source = open_images([path], "train", 2, label="place")
    assert len(source) == 6 + 7 and source.classes == ("attic", "hall")
    assert [source.label(i) for i in (0, 5, 6, 12)] == [1, 1, 0, 0]
    assert source.name(6).endswith("takes/b frame 3") and source.name(7).endswith("takes/b frame 9")
    expected = picture(sum(b"b") * 1000 + 9).astype(int)
    assert np.abs(source.read(7) - expected).mean() < 4
    assert len(open_images([path])) == 12 + 13 + 12  # no split = all takes
    with pytest.raises(DataError, match=r"no label 'room'; labels of this store: place"):
        open_images([path], "train", label="room")
    with pytest.raises(DataError, match="no take of split 'test'; the store has train: 2, val: 1"):
        open_images([path], "test")


def test_label_kinds_are_not_mixed_up(tmp_path):
    write_take(tmp_path / "s")
    folder(tmp_path / "f", a__x_dot_jpg=jpeg(picture(0)))
    with pytest.raises(DataError, match="'folder' is for image folders"):
        open_images([tmp_path / "s"], label="folder")
    with pytest.raises(DataError, match="use label 'folder'"):
        open_images([tmp_path / "f"], label="place")


def test_several_sources_join_and_share_classes(tmp_path):
    folder(tmp_path / "f", b__x_dot_jpg=jpeg(picture(0)), c__y_dot_jpg=b"text")
    folder(tmp_path / "g", a__x_dot_jpg=jpeg(picture(1)), b__y_dot_jpg=jpeg(picture(2)))
    source = open_images([tmp_path / "f", tmp_path / "g"], label="folder")
    assert source.classes == ("a", "b", "c") and [source.label(i) for i in range(4)] == [1, 2, 0, 1]
    assert np.abs(source.read(3).astype(int) - picture(2)).mean() < 4 and source.name(2).endswith("g/a/x.jpg")
    with pytest.raises(BrokenFile) as caught:
        source.read(1)
    assert caught.value.resume_at == 2 and caught.value.name.endswith("c/y.jpg")
    assert pickle.loads(pickle.dumps(caught.value)).resume_at == 2
