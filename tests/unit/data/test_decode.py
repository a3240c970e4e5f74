"""The one decoder: kinds of files, orientation, depths and modes, all to upright 8-bit RGB or a clear error."""

import io

import numpy as np
import pytest
from data_samples import jpeg, picture, write_take
from PIL import Image, ImageCms, ImageOps

from dataset_preprocess.check_store import check_take
from internlm.data.decode import decodable, decode
from internlm.data.frames import BrokenFile, ImageFolder, open_images
from internlm.data.loader import training_batches
from internlm.data.store import Camera, StoreWriter, TakeInfo, TakeStore
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.streams import streams


def encoded(image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    notes = Image.Exif()
    notes[0x0112] = orientation
    return notes


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_pillow(kind, orientation):
    if kind == "AVIF" and decodable()[".avif"]:
        pytest.skip("this Pillow has no AVIF")
    options = {} if kind in ("PNG", "TIFF") else {"quality": 95}
    data = encoded(picture(3, 30, 50), kind, exif=exif(orientation), **options)
    right = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")).astype(int)
    found = decode(data)
    assert found.shape == right.shape == ((50, 30, 3) if orientation > 4 else (30, 50, 3))
    assert np.abs(found - right).max() <= 2 and found.flags.c_contiguous


def test_a_photograph_taken_on_its_side_stands_upright():
    """Orientation 6: the camera was turned, the top of the scene is at the right edge of what is stored."""
    scene = np.zeros((60, 40, 3), np.uint8)
    scene[:10] = 255  # sky
    stored = np.rot90(scene, 1)
    data = encoded(np.ascontiguousarray(stored), "JPEG", quality=95, exif=exif(6))
    assert np.abs(decode(data).astype(int) - scene).mean() < 3
    big = encoded(np.ascontiguousarray(np.rot90(np.kron(scene, np.ones((8, 8, 1), np.uint8)), 1)), "JPEG", exif=exif(6))
    assert decode(big, 100).shape == (180, 120, 3)  # a reduced decode is turned too


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_means_nothing_changes_nothing(orientation):
    assert decode(encoded(picture(0, 30, 50), "JPEG", exif=exif(orientation))).shape == (30, 50, 3)


def test_damaged_exif_changes_nothing():
    data = encoded(picture(0, 30, 50), "JPEG", exif=exif(6))
    at = data.index(b"Exif\0\0")
    plain = decode(data.replace(b"Exif\0\0", b"Exif\0\1"))
    for cut in range(6, 30):
        damaged = data[: at + cut] + b"\xff" * 4 + data[at + cut + 4 :]
        found = decode(damaged)
        assert found.shape in ((30, 50, 3), (50, 30, 3)) and (found.shape != plain.shape or np.array_equal(found, plain))


def test_training_sees_upright_images_too(tmp_path):
    (tmp_path / "i").mkdir()
    scene = np.zeros((64, 64, 3), np.uint8)
    scene[:32] = 255
    for number in range(4):
        (tmp_path / "i" / f"{number}.jpg").write_bytes(encoded(np.ascontiguousarray(np.rot90(scene, 1)), "JPEG", exif=exif(6)))
    model = {"image_size": 16, "local_image_size": 16, "patch_size": 8}
    crops = {"global_scale": (0.9, 1.0), "init_scale": None}
    config = Config.model_validate(
        {
            "model": model,
            "data": {"images": [str(tmp_path / "i")], "workers": 0, "crops": crops},
            "train": {"image_batch": 4, "steps": 1},
        }
    )
    steps = range(config.train.steps)
    images = next(training_batches(streams(config), steps, seed=config.seed, data=config.data))["image"]
    crops = images.global_crops.float().flatten(0, 1)
    assert crops[:, :, :5].mean() - crops[:, :, -5:].mean() > 150


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".jpg", "JPEG"), (".JPE", "JPEG"), (".jfif", "JPEG"), (".png", "PNG"), (".bmp", "BMP"), (".dib", "DIB"),
        (".webp", "WEBP"), (".gif", "GIF"), (".tif", "TIFF"), (".TIFF", "TIFF"), (".jp2", "JPEG2000"), (".j2k", "JPEG2000"),
        (".ppm", "PPM"), (".pnm", "PPM"), (".avif", "AVIF"), (".tga", "TGA"), (".qoi", "QOI"), (".mpo", "MPO"),
    ],
)  # fmt: skip
def test_every_listed_kind_is_decoded(tmp_path, suffix, kind):
    if decodable()[suffix.lower()]:
        pytest.skip(f"this Pillow cannot decode {suffix}")
    image = picture(4, 32, 48)
    (tmp_path / f"x{suffix}").write_bytes(encoded(image, kind))
    source = ImageFolder(tmp_path)
    assert len(source) == 1 and np.abs(source.read(0).astype(int) - image).mean() < 12  # GIF has 256 colours


@pytest.mark.parametrize("suffix", [".heic", ".jxl"])
def test_kinds_of_plugins_are_decoded_once_they_are_installed(tmp_path, suffix):
    if decodable()[suffix]:
        pytest.skip(decodable()[suffix])
    image = picture(4, 64, 96)
    Image.fromarray(image).save(tmp_path / f"x{suffix}", exif=exif(6).tobytes())
    found = ImageFolder(tmp_path).read(0)
    assert found.shape == (96, 64, 3) and np.abs(found - np.rot90(image, -1).astype(int)).mean() < 8


def test_animated_gif_and_pages_give_the_first_picture():
    first, second = (Image.fromarray(picture(seed)).quantize(64) for seed in (0, 1))
    right = np.asarray(first.convert("RGB"))
    for kind in ("GIF", "TIFF"):
        np.testing.assert_array_equal(decode(encoded(first, kind, save_all=True, append_images=[second])), right)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_with_transparency_keeps_its_colours(kind, recwarn):
    image = Image.fromarray(picture(0)).quantize(64)
    transparency = bytes([0, 128] * 32) if kind == "PNG" else 5
    np.testing.assert_array_equal(decode(encoded(image, kind, transparency=transparency)), np.asarray(image.convert("RGB")))
    assert not recwarn.list


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_dropped(mode):
    image = Image.fromarray(picture(0)).convert("RGB" if mode == "RGBA" else "L")
    covered = image.copy()
    covered.putalpha(Image.fromarray(np.arange(48 * 48, dtype=np.uint8).reshape(48, 48)))
    np.testing.assert_array_equal(decode(encoded(covered, "PNG")), np.asarray(image.convert("RGB")))


def test_cmyk_is_neither_inverted_nor_refused():
    image = picture(0)
    for kind in ("JPEG", "TIFF"):
        options = {"quality": 95} if kind == "JPEG" else {}
        found = decode(encoded(Image.fromarray(image).convert("CMYK"), kind, **options))
        assert np.abs(found.astype(int) - image).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_grey_keeps_its_upper_bits(kind):
    grey = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    options = {"irreversible": False} if kind == "JPEG2000" else {}
    found = decode(encoded(Image.fromarray(grey), kind, **options))
    assert np.abs(found[..., 0].astype(int) - (grey >> 8)).max() <= 1 and (found == found[..., :1]).all()


def test_16_bit_colour_keeps_its_upper_bits():
    import cv2

    deep = np.random.default_rng(0).integers(0, 65536, (12, 10, 3), dtype=np.uint16)
    for suffix in (".png", ".tiff", ".ppm"):
        data = cv2.imencode(suffix, deep[..., ::-1])[1].tobytes()
        assert np.abs(decode(data).astype(int) - (deep >> 8)).max() <= 1, suffix


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8), "floating-point pixels have no fixed range"),
        (np.arange(64, dtype=np.int32).reshape(8, 8) * 100_000, "more than 16 bits have no fixed range"),
        (np.arange(64, dtype=np.int32).reshape(8, 8) - 9, "reach from -9 to 54"),
    ],
)
def test_pixels_without_a_range_are_refused_not_black_or_white(values, message):
    with pytest.raises(ValueError, match=message):
        decode(encoded(Image.fromarray(values), "TIFF"))


def test_a_colour_profile_is_no_obstacle():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decode(encoded(picture(0), "JPEG", icc_profile=profile)).shape == (48, 48, 3)


def test_content_decides_where_the_name_is_wrong(tmp_path):
    (tmp_path / "a.png").write_bytes(jpeg(picture(0)))
    (tmp_path / "b.jpg").write_bytes(encoded(picture(1), "PNG"))
    (tmp_path / "c.tif").write_bytes(b"II*\0 and no more")
    source = ImageFolder(tmp_path)
    assert source.read(0).shape == (48, 48, 3)
    np.testing.assert_array_equal(source.read(1), picture(1))
    with pytest.raises(BrokenFile, match=r"c\.tif: cannot be decoded"):
        source.read(2)


def test_frames_of_stores_come_through_the_same_decoder(tmp_path):
    write_take(tmp_path / "s", "a")
    source = open_images([tmp_path / "s"])
    np.testing.assert_array_equal(source.read(0), decode(source.takes[0].read_frame(0)))


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_stored_frame_that_is_not_upright_is_a_fault(tmp_path, orientation):
    camera = Camera("pinhole", 48, 48, (20, 20, 23.5, 23.5))
    frame = encoded(picture(0), "JPEG", exif=exif(orientation))
    StoreWriter(tmp_path / "s").add_take(TakeInfo("a", "a", "train", 30.0, camera, None), [(0, frame)])
    faults = check_take(TakeStore(tmp_path / "s").select()[0]).faults
    assert bool(faults) == (orientation == 6) and all("EXIF orientation 6: stored images are upright" in f for f in faults)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "JPEG2000", "PPM", "AVIF", "TGA", "QOI"])
def test_a_file_that_breaks_off_is_refused_whatever_its_kind(kind):
    if kind == "AVIF" and decodable()[".avif"]:
        pytest.skip("this Pillow has no AVIF")
    data = encoded(picture(0, 80, 96), kind)
    for share in (0.3, 0.6, 0.95):
        with pytest.raises(ValueError, match="cannot be decoded"):
            decode(data[: int(share * len(data))])
