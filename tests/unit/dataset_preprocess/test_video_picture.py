"""Pictures are stored as a player shows them: turned, mirrored, with square pixels, in the colours that were coded."""

from fractions import Fraction

import numpy as np
import pytest
from data_samples import data_command
from video_samples import av, lossless, read, set_matrix, store, write_video

from dataset_preprocess.errors import RecordingError
from dataset_preprocess.video import open_video

CORNER = np.full((64, 128, 3), 40, np.uint8)
CORNER[:32, :64] = (250, 20, 20)  # the coded top left
MATRICES = {
    "as coded": ((1, 0, 0, 1), "top left"),
    "clockwise": ((0, 1, -1, 0), "top right"),
    "half turn": ((-1, 0, 0, -1), "bottom right"),
    "counterclockwise": ((0, -1, 1, 0), "bottom left"),
    "mirrored": ((-1, 0, 0, 1), "top right"),
    "upside down": ((1, 0, 0, -1), "bottom left"),
    "transposed": ((0, 1, 1, 0), "top left"),
    "transposed and turned": ((0, -1, -1, 0), "bottom right"),
    "empty": ((0, 0, 0, 0), "top left"),
}


def red_corners(image: np.ndarray) -> list[str]:
    height, width = image.shape[0] // 4, image.shape[1] // 4
    places = {"top left": (1, 1), "top right": (1, -1), "bottom left": (-1, 1), "bottom right": (-1, -1)}
    return [name for name, (y, x) in places.items() if image[y * height, x * width, 0] > 180]


@pytest.mark.parametrize("aspect", [None, "2/1", "1/2"])
@pytest.mark.parametrize("turn", MATRICES)
def test_turned_and_mirrored_videos_are_stored_as_shown(tmp_path, turn, aspect):
    matrix, corner = MATRICES[turn]
    path = set_matrix(write_video(tmp_path / "v.mp4", 3, size=(128, 64), pictures=[CORNER] * 3, aspect=aspect), *matrix)
    width = int(128 * Fraction(aspect or 1))
    right = (64, width) if matrix[1] else (width, 64)
    with open_video(path) as video:
        assert (video.facts.width, video.facts.height) == right
    _, take = store(path, tmp_path / "s")
    image = lossless(take, 0)
    assert image.shape[1::-1] == right and red_corners(image) == [corner]
    _, take = store(path, tmp_path / "small", size=32)
    image = lossless(take, 0)
    assert (
        min(image.shape[:2]) == 32 and image.shape[1] / image.shape[0] == right[0] / right[1] and red_corners(image) == [corner]
    )


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi", "ts"])
def test_pixels_that_are_not_square_are_made_square(tmp_path, suffix):
    path = write_video(tmp_path / f"v.{suffix}", 12, size=(128, 64), pictures=[CORNER] * 12, aspect="4/3")
    assert {image.shape for image in read(path).values()} == {(64, 171, 3)}


def test_shapes_that_no_player_shows_are_refused(tmp_path, capfd):
    path = write_video(tmp_path / "v.mp4", 3, pictures=[CORNER[:64, :96]] * 3)
    set_matrix(path, 0.866, 0.5, -0.5, 0.866)
    assert data_command("videos", tmp_path / "s", path) == 1
    assert "v.mp4: is to be shown turned by 30 degrees; remake it with ffmpeg" in capfd.readouterr().err
    with pytest.raises(RecordingError, match="its pixels are 40 times as wide as high"):
        read(write_video(tmp_path / "v.mkv", 3, aspect="40/1"))


COLOURS = [(200, 40, 40), (40, 160, 60), (30, 30, 230), (128, 128, 128)]
WEIGHTS = {"709": (0.2126, 0.0722), "601": (0.299, 0.114), "2020": (0.2627, 0.0593), "240": (0.212, 0.087), "fcc": (0.30, 0.11)}


def coded(rgb, weights: str, full: bool, bits: int) -> list[int]:
    """Y', Cb, Cr of a colour (ITU-T H.273, equations 27 to 47)."""
    red, blue = WEIGHTS[weights]
    r, g, b = (value / 255 for value in rgb)
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))
    unit, top = 2 ** (bits - 8), 2**bits - 1
    values = (top * y, 128 * unit + top * cb, 128 * unit + top * cr)
    return [round(v) for v in (values if full else (unit * (16 + 219 * y), unit * (128 + 224 * cb), unit * (128 + 224 * cr)))]


def write_colours(path, weights, *, full=False, bits=8, size=(256, 144), matrix=2, scale=0, curve=2, primaries=2):
    """Four bars of ``COLOURS``. matrix, curve, primaries: H.273 code points, 2 = not said; scale: 1 limited, 2 full."""
    pixels = "yuv420p" if bits == 8 else "yuv420p10le"
    kind = np.dtype(np.uint8 if bits == 8 else np.uint16)
    frame = av.VideoFrame(*size, pixels)
    for channel, plane in enumerate(frame.planes):
        shrink = 2 if channel else 1
        values = np.zeros((size[1] // shrink, plane.line_size // kind.itemsize), kind)
        quarter = size[0] // 4 // shrink
        for bar, rgb in enumerate(COLOURS):
            values[:, bar * quarter : (bar + 1) * quarter] = coded(rgb, weights, full, bits)[channel]
        plane.update(values.tobytes())
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "5", "preset": "ultrafast"})
        stream.width, stream.height = size
        stream.pix_fmt, stream.thread_count = pixels, 1
        for holder in (stream.codec_context, frame):
            holder.colorspace, holder.color_range, holder.color_trc, holder.color_primaries = matrix, scale, curve, primaries
        frame.pts, frame.time_base = 0, Fraction(1, 30)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def colour_error(path, size) -> int:
    image = read(path, size=size)[0].astype(int)
    step = image.shape[1] // 4
    found = [image[image.shape[0] // 2, bar * step + step // 2] for bar in range(4)]
    return int(np.abs(np.array(found) - COLOURS).max())


HD, SD = (1280, 720), (640, 480)


@pytest.mark.parametrize(
    ("weights", "tags", "size"),
    [
        ("709", {"matrix": 1, "scale": 1}, (256, 144)),
        ("709", {"matrix": 1, "scale": 2, "full": True}, (256, 144)),
        ("709", {}, HD),  # not said: by size, as players do
        ("709", {}, (608, 1080)),
        ("709", {"scale": 2, "full": True}, HD),
        ("601", {}, SD),
        ("601", {"matrix": 6, "scale": 1}, HD),
        ("601", {"matrix": 5, "scale": 2, "full": True}, (256, 144)),
        ("2020", {"matrix": 9, "scale": 1}, HD),
        ("2020", {"matrix": 9, "scale": 1, "bits": 10, "curve": 14, "primaries": 9}, (256, 144)),
        ("709", {"matrix": 1, "scale": 1, "bits": 10}, (256, 144)),
        ("709", {"bits": 10}, HD),
        ("240", {"matrix": 7, "scale": 1}, (256, 144)),
        ("fcc", {"matrix": 4, "scale": 1}, (256, 144)),
    ],
)
def test_colours_come_back_as_they_were(tmp_path, weights, tags, size):
    path = write_colours(tmp_path / "v.mp4", weights, size=size, **tags)
    assert colour_error(path, None) <= 3 and colour_error(path, (64, 36)) <= 3


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (
            {"curve": 16, "primaries": 9, "matrix": 9, "bits": 10},
            r"is of high dynamic range \(PQ\).*ffmpeg -i FILE -vf .*tonemap",
        ),
        ({"curve": 18, "primaries": 9, "matrix": 9, "bits": 10}, r"is of high dynamic range \(HLG\)"),
        ({"curve": 8}, "has transfer characteristics 8"),
        ({"matrix": 8}, "has colours of matrix 8 .*remake it with ffmpeg"),
    ],
)
def test_colours_that_jpeg_cannot_hold_are_refused_at_once(tmp_path, tags, message):
    path = write_colours(tmp_path / "v.mp4", "709", **tags)
    with pytest.raises(RecordingError, match=f"v.mp4: {message}"), open_video(path):
        pass


def test_wide_primaries_are_recorded(tmp_path):
    for primaries, name in ((9, "bt2020"), (1, None)):
        path = write_colours(tmp_path / f"v{primaries}.mp4", "2020", matrix=9, primaries=primaries)
        assert store(path, tmp_path / "s")[1].info.extra.get("primaries") == name


def test_an_older_library_is_refused_for_its_colours(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4", 3)
    monkeypatch.setattr(av, "__version__", "16.1.0")
    with pytest.raises(RecordingError, match="av 16.1.0 is installed, whose colours are wrong: pip install 'av>=17'"):
        read(path)


@pytest.mark.parametrize("size", [64, 704])
def test_the_built_in_worlds_videos_keep_their_colours(tmp_path, size):
    from types import SimpleNamespace

    from internlm.egoworld.camera import default_camera
    from internlm.egoworld.raw import write_video as write_raw

    image = np.repeat(np.array(COLOURS, np.uint8), size // 4, 0)[None].repeat(size, 0)
    write_raw(tmp_path / "v.mp4", SimpleNamespace(camera=default_camera("fisheye624", size), images=lambda: [(0, image, None)]))
    assert colour_error(tmp_path / "v.mp4", None) <= 5


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [
        ("mp4", "libx264rgb", "rgb24"),
        ("mp4", "libx264", "yuv444p"),
        ("mkv", "ffv1", "yuv422p10le"),
        ("mkv", "ffv1", "bgr0"),
        ("avi", "mjpeg", "yuvj420p"),
        ("mov", "prores_ks", "yuv422p10le"),
        ("mov", "qtrle", "rgb24"),
        ("mov", "png", "rgb24"),
        ("avi", "rawvideo", "yuv420p"),
        ("gif", "gif", "rgb8"),
    ],
)
def test_other_ways_of_coding_pixels(tmp_path, suffix, codec, pixels):
    greys = [np.full((64, 96, 3), value, np.uint8) for value in (40, 120, 220)]
    path = write_video(tmp_path / f"v.{suffix}", 3, codec=codec, pixels=pixels, pictures=greys)
    found = read(path)
    assert np.abs([image.mean() - grey.mean() for image, grey in zip(found.values(), greys)]).max() <= (
        20 if pixels == "rgb8" else 3
    )
    assert len(found) == 3
