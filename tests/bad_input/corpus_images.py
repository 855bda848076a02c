"""Pictures as they come: damaged, disguised, too large, and of every mode that is not plain 8-bit colour."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from bad_input.bad_item import BadInput
from PIL import Image

from quantkit.errors import ImageError

_RNG = np.random.default_rng(9)
_PIXELS = _RNG.integers(0, 256, (8, 8, 3), np.uint8)
_ORIENTATION = 0x0112


def _photo(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(_PIXELS).convert(mode)


def _bytes(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _large() -> Image.Image:
    return Image.fromarray(_RNG.integers(0, 256, (64, 64, 3), np.uint8))


def _png_of_size(width: int, height: int) -> bytes:
    """Return a valid PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def _turned() -> bytes:
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    return _bytes(_photo(), "PNG", exif=exif)


def _animation(form: str) -> bytes:
    frames = [_photo().convert("P") if form == "GIF" else _photo() for _ in range(2)]
    frames[1].putpixel((0, 0), frames[1].getpixel((7, 7)))
    return _bytes(frames[0], form, save_all=True, append_images=frames[1:])


def _palette_with_transparency() -> bytes:
    image = _photo().quantize(16)
    return _bytes(image, "PNG", transparency=bytes(range(16)))


def _broken_marker(jpeg: bytes) -> bytes:
    """Return a JPEG whose start-of-scan marker says it is of a kind that does not exist."""
    at = jpeg.index(b"\xff\xda")
    return jpeg[:at] + b"\xff\x02" + jpeg[at + 2 :]


_JPEG, _PNG = _bytes(_large(), "JPEG", quality=95), _bytes(_large(), "PNG")
_PROGRESSIVE = _bytes(_large(), "JPEG", quality=95, progressive=True)
_GREY16 = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)


def _refused(name: str, content: bytes, result: str) -> BadInput:
    return BadInput("image", name, content, result, ImageError)


def _read(name: str, content: bytes, result: str) -> BadInput:
    return BadInput("image", name, content, result)


IMAGES = (
    *(
        _refused(
            f"cut_{form}_{percent}.{form}", data[: len(data) * percent // 100], r"the image is damaged|not an image"
        )
        for form, data in (
            ("jpg", _JPEG),
            ("png", _PNG),
            ("webp", _bytes(_large(), "WEBP", lossless=True)),
            ("gif", _bytes(_large(), "GIF")),
            ("bmp", _bytes(_large(), "BMP")),
            ("tif", _bytes(_large(), "TIFF")),
            ("ppm", _bytes(_large(), "PPM")),
        )
        for percent in (1, 25, 50, 75, 95)
    ),
    _refused("cut_progressive.jpg", _PROGRESSIVE[: len(_PROGRESSIVE) // 2], "the image is damaged"),
    _refused("broken_marker.jpg", _broken_marker(_JPEG), "the image is damaged|not an image"),
    _refused("empty.jpg", b"", "the image file is empty"),
    _refused("zeros.png", b"\0" * 4096, "not an image: it starts with"),
    _refused("only_a_signature.png", _PNG[:8], "the image is damaged|not an image"),
    _refused("bad_checksum.png", _PNG[:20] + b"\xff" + _PNG[21:], "the image is damaged|not an image"),
    _refused("page.jpg", b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page, a failed download"),
    _refused("pointer.jpg", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    _refused("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    _refused("document.jpg", b"%PDF-1.7\n", "a PDF"),
    _refused("script.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%id) (w) file\n", "PostScript"),
    _refused("array.png", b"\x93NUMPY\x01\x00", "a numpy array"),
    _refused("video.jpg", b"\0\0\0\x20ftypheic", "HEIC, AVIF or a video"),
    _refused("bomb.png", _png_of_size(60_000, 60_000), "more than 89478485 pixels"),
    _refused("bomb_flat.png", _png_of_size(2_000_000_000, 1), "more than 89478485 pixels"),
    _refused("no_width.png", _png_of_size(0, 8), "the image is damaged|not an image"),
    _refused("real.tif", _bytes(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"), "floating-point pixels"),
    _refused("wide.tif", _bytes(Image.fromarray(np.full((8, 8), 1 << 20, np.int32)), "TIFF"), "32-bit pixels"),
    _read("wrong_suffix.jpg", _bytes(_photo(), "PNG"), "8 x 8"),
    _read("upper.PNG", _bytes(_photo(), "PNG"), "8 x 8"),
    _read("progressive.jpg", _bytes(_photo(), "JPEG", progressive=True), "8 x 8"),
    _read("rubbish_behind_the_end.png", _bytes(_photo(), "PNG") + b"rubbish" * 9, "8 x 8"),
    _read("grey.png", _bytes(_photo("L"), "PNG"), "8 x 8, greyscale"),
    _read("one_bit.png", _bytes(_photo("1"), "PNG"), "8 x 8, greyscale"),
    _read("grey_16_bit.png", _bytes(_GREY16, "PNG"), "8 x 8, 16-bit scaled"),
    _read("cmyk.jpg", _bytes(_photo("CMYK"), "JPEG"), "8 x 8, CMYK"),
    _read("palette.png", _bytes(_photo().quantize(16), "PNG"), "8 x 8, palette"),
    _read("palette_with_transparency.png", _palette_with_transparency(), "8 x 8, palette, alpha dropped"),
    _read("alpha.png", _bytes(_photo("RGBA"), "PNG"), "8 x 8, alpha dropped"),
    _read("grey_alpha.png", _bytes(_photo("LA"), "PNG"), "8 x 8, greyscale, alpha dropped"),
    _read("animated.gif", _animation("GIF"), "8 x 8, palette, first frame"),
    _read("animated.webp", _animation("WEBP"), "8 x 8, first frame"),
    _read("pages.tif", _animation("TIFF"), "8 x 8, first frame"),
    _read("turned.png", _turned(), "8 x 8, EXIF rotation ignored"),
    _read("one_pixel.png", _bytes(Image.new("RGB", (1, 1)), "PNG"), "1 x 1"),
)
