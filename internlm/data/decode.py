"""Encoded images as pixels: which kinds of file can be decoded here, and the one decoder of training and evaluation."""

import functools
import importlib
import io

import numpy as np

from internlm.core.errors import UserError

MAX_PIXELS = 178_956_970  # Pillow's own limit

# Files with these names are images; "" is Pillow itself, else a part of it that a build may lack.
_BY_PILLOW = {
    "": ".jpg .jpeg .jpe .jfif .mpo .png .apng .bmp .dib .gif .tif .tiff .ppm .pgm .pbm .pnm .tga .qoi",
    "webp": ".webp",
    "avif": ".avif .avifs",
    "jpg_2000": ".jp2 .j2k .j2c .jpc .jpf .jpx",
}
# By packages that teach Pillow another kind once they are imported: module, what to install, function to call.
_BY_PLUGIN = {
    ".heic .heif .hif": ("pillow_heif", "pillow-heif", "register_heif_opener"),
    ".jxl": ("pillow_jxl", "pillow-jxl-plugin", None),
}
_ORIENTATION = 0x0112


class ImageTooLarge(UserError, ValueError):
    """An image has more pixels than anything that was recorded; a few kilobytes can claim to be gigabytes."""


@functools.cache
def decodable() -> dict[str, str]:
    """Every suffix of image files that is known: "" where a decoder is installed, else what to do about it."""
    from PIL import Image, features

    found = {}
    plugins = _plugins()
    Image.init()
    registered = Image.registered_extensions()
    for part, suffixes in _BY_PILLOW.items():
        for suffix in suffixes.split():
            there = suffix in registered and (not part or features.check(part))
            found[suffix] = "" if there else "this build of Pillow cannot decode them"
    for suffixes, (_, package, _) in _BY_PLUGIN.items():
        found |= dict.fromkeys(suffixes.split(), "" if package in plugins else f"pip install {package}")
    return found


def decode(data: bytes, min_side: int = 0) -> np.ndarray:
    """Encoded image to uint8 RGB [H, W, 3], upright. ValueError when it cannot be decoded completely or has too many pixels.

    min_side > 0 allows a JPEG to come out at half size or less while both sides stay at least that long, which is much
    faster for large photographs. The orientation that EXIF notes is applied. Of 16 bits the upper 8 count, of an animation or
    several pages the first picture; transparency is dropped. Floating-point pixels have no range that is white: ValueError.
    """
    if data.startswith(b"\xff\xd8"):
        import simplejpeg

        try:
            _check_size(*simplejpeg.decode_jpeg_header(data)[:2])
            pixels = simplejpeg.decode_jpeg(data, min_height=min_side, min_width=min_side, min_factor=2 if min_side else 1)
            return _upright(pixels, _jpeg_orientation(data))
        except ImageTooLarge:
            raise
        except ValueError:
            pass  # CMYK and slightly odd files are for Pillow, which is also the judge of what is broken
    from PIL import Image

    _plugins()
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _upright(_rgb(image), _orientation(image))
    except Exception as error:  # Pillow's plugins raise a dozen kinds
        raise ValueError(f"cannot be decoded ({len(data)} bytes): {error}") from None


def _rgb(image) -> np.ndarray:
    image.load()
    if image.mode.startswith("I"):  # more than 8 bits; convert() would clip at 255: nearly all white
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its values reach from {values.min()} to {values.max()}; more than 16 bits have no fixed range")
        return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours; the direct way warns on the console
    return np.asarray(image.convert("RGB"))


@functools.cache
def _plugins() -> frozenset[str]:
    """Let Pillow know the installed plugins; returns their packages."""
    there = set()
    for module, package, register in _BY_PLUGIN.values():
        try:
            plugin = importlib.import_module(module)
        except ImportError:
            continue
        if register:
            getattr(plugin, register)()
        there.add(package)
    return frozenset(there)


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ImageTooLarge(f"has {width} x {height} pixels, more than {MAX_PIXELS / 1e6:.0f} million; shrink it or leave it out")


def _jpeg_orientation(data: bytes) -> int:
    """What Pillow reads of it, which is asked only when the file holds such a note at all."""
    if b"Exif\0\0" not in data and b"tiff:Orientation" not in data:
        return 1
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "MPO")) as image:
            return _orientation(image)
    except Exception:  # the pixels are sound, so what is around them does not matter
        return 1


def _orientation(image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF says nothing
        return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, 3] as it is meant to be seen, by the values 1 to 8 of EXIF's orientation; others leave it as it is."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
