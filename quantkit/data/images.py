"""Decodes image files to 8-bit pixels.

A file is read completely and decoded from memory, so that file names do not matter and a file is never decoded partly.
Every mode of pillow has a defined result; deviations from a plain colour image are noted.
"""

import io
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from quantkit.config.pipeline import Decode
from quantkit.errors import ImageError, one_line
from quantkit.files import reason

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})

# Positions of blue, green, red and alpha among red, green, blue and alpha.
BGR_ORDER = (2, 1, 0, 3)

# Pillow's limit, as a constant, because another program may have changed pillow's.
MAX_PIXELS = 89_478_485
MAX_FILE_BYTES = 1 << 30

Note = Literal["greyscale", "palette", "CMYK", "alpha dropped", "16-bit scaled", "first frame", "EXIF rotation ignored"]

# Pillow supports many more formats, some of which run other programs (EPS).
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

_EXIF_ORIENTATION = 0x0112

# Usual first bytes of files that are not images.
_KNOWN_STARTS = (
    (b"<!doctype html", "an HTML page, a failed download"),
    (b"<html", "an HTML page, a failed download"),
    (b"<?xml", "an XML page, a failed download"),
    (b"<svg", "an SVG drawing"),
    (b"version https://git-lfs", "a Git LFS pointer, so the image was not downloaded"),
    (b"{", "JSON, a failed download"),
    (b"pk\x03\x04", "a zip archive"),
    (b"\x93numpy", "a numpy array"),
    (b"%pdf", "a PDF"),
    (b"%!ps", "PostScript"),
    (b"\x1f\x8b", "gzip data"),
)


@dataclass(frozen=True)
class DecodedImage:
    """The pixels of an image.

    Attributes:
        pixels: uint8 ``[H, W, C]``, with the channel order of the `Decode`.
        notes: conversions that a plain 8-bit colour image does not need.
    """

    pixels: NDArray[np.uint8]
    notes: tuple[Note, ...]


@runtime_checkable
class Readable(Protocol):
    """An image with a method to read it, such as a member of an archive (`quantkit.data.item.ImageItem`)."""

    @property
    def where(self) -> object:
        """Name of the image in messages."""

    def read(self) -> bytes | NDArray[np.float32]:
        """Return the encoded image, or an array."""


def decode_image(image: Path | Readable, decode: Decode) -> DecodedImage:
    """Decode an image fully.

    Modes are converted as by torchvision's default loader, ``Image.open(file).convert("RGB")``: greyscale is repeated
    in three channels, palette and CMYK are converted, and an alpha channel is dropped without compositing. One mode
    differs
    intentionally: 16-bit greyscale, which pillow would clip to white, is scaled by 1/257. (For 16-bit colour pillow
    returns the high byte of each value.) The first frame of an animation is used. The EXIF orientation is applied only
    if ``decode.exif`` is set.

    Args:
        image: the file, or an image of a source.
        decode: channels of the result, and whether to apply the EXIF orientation.

    Raises:
        ImageError: the file cannot be read, is not an image, is damaged or truncated, is larger than `MAX_PIXELS`, or
            has pixels without a defined range (floating point).
    """
    where = place_of(image)
    opened = open_image(encoded(image), where)
    found = notes(opened, decode)
    pixels = np.asarray(to_mode(opened, decode, where))
    if decode.is_bgr:
        pixels = pixels[:, :, BGR_ORDER[: pixels.shape[2]]]
    return DecodedImage(np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1)), found)


def read_bytes(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        ImageError: the file is missing, unreadable, empty, larger than `MAX_FILE_BYTES`, or a pipe or device.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a regular file", where=path, fix="remove it")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageError(
                f"the file is too large for an image ({status.st_size} bytes)", where=path, fix="remove it"
            )
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read the image ({reason(error)})", where=path) from error
    except ValueError as error:
        raise ImageError(f"not a usable file name ({error})", where=repr(str(path))) from error
    if not data:
        raise ImageError("the image file is empty", where=path, fix="download it again, or remove it")
    return data


def content(image: Path | Readable) -> bytes | NDArray[np.float32]:
    """Return the content of an image: encoded bytes, or an array.

    Raises:
        ImageError: the image cannot be read, or is empty.
    """
    if isinstance(image, Path):
        return read_bytes(image)
    found = image.read()
    if isinstance(found, bytes) and not found:
        raise ImageError("the image is empty", where=image.where, fix="download it again, or remove it")
    return found


def encoded(image: Path | Readable) -> bytes:
    """Return the bytes of an encoded image.

    Raises:
        ImageError: the image cannot be read, or is an array.
    """
    found = content(image)
    if not isinstance(found, bytes):
        raise ImageError("an encoded image is needed, not an array", where=place_of(image))
    return found


def place_of(image: Path | Readable) -> object:
    """Return the name of an image in messages."""
    return image if isinstance(image, Path) else image.where


def open_image(data: bytes, where: object) -> Image.Image:
    """Decode the complete bytes of an image file in the file's mode.

    Args:
        data: content of the file.
        where: the file's name, for messages.

    Raises:
        ImageError: see `decode_image`.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"Image size ({image.width * image.height} pixels)")
        image.load()
    except UnidentifiedImageError as error:
        raise ImageError(f"not an image: {_describe_start(data)}", where=where, fix="download it again") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"the image has more than {MAX_PIXELS} pixels", where=where, fix="shrink it, or remove it"
        ) from error
    except Exception as error:  # pillow's readers raise any class for a damaged file
        raise ImageError(f"the image is damaged ({one_line(error)})", where=where, fix="download it again") from error
    return image


def to_mode(image: Image.Image, decode: Decode, where: object) -> Image.Image:
    """Convert a decoded image to pillow's mode of the requested channels: ``RGB`` also for BGR.

    Raises:
        ImageError: the image's mode has no defined conversion.
    """
    mode, has_alpha = decode.pillow_mode, decode.mode.endswith("A")
    if image.mode == "F":
        raise ImageError(
            "floating-point pixels have no defined range", where=where, fix="save it as 8 bits per channel"
        )
    if image.mode.startswith("I"):
        image = _scale_16_bit(image, where)
    if not has_alpha:  # pillow warns about unused transparency of palettes
        image.info.pop("transparency", None)
    try:
        if decode.exif:
            image = ImageOps.exif_transpose(image)
        return image if image.mode == mode else image.convert(mode)
    except Exception as error:  # EXIF data can be damaged
        raise ImageError(
            f"pixels of mode {image.mode} cannot be converted to {mode} ({one_line(error)})", where=where
        ) from error


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 2 to 8 if it is rotated or mirrored; 1 if not, or if damaged."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF data are ignored
        return 1
    return orientation if isinstance(orientation, int) and 2 <= orientation <= 8 else 1


def notes(image: Image.Image, decode: Decode) -> tuple[Note, ...]:
    """Return notes on a decoded image and its conversion."""
    found: list[Note] = []
    if image.mode in ("1", "L", "LA", "La") and not decode.mode.startswith("L"):
        found.append("greyscale")
    if image.mode in ("P", "PA"):
        found.append("palette")
    if image.mode == "CMYK":
        found.append("CMYK")
    has_alpha = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    if has_alpha and not decode.mode.endswith("A"):
        found.append("alpha dropped")
    if image.mode.startswith("I"):
        found.append("16-bit scaled")
    if _is_animated(image):
        found.append("first frame")
    if not decode.exif and exif_orientation(image) != 1:
        found.append("EXIF rotation ignored")
    return tuple(found)


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the data after the first frame are damaged, but unused
        return True


def _scale_16_bit(image: Image.Image, where: object) -> Image.Image:
    """Scale 0..65535 to 0..255, rounded to nearest: 65535 / 257 = 255, so white stays white."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError("32-bit pixels have no defined range", where=where, fix="save it with 8 bits per channel")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _describe_start(data: bytes) -> str:
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for prefix, meaning in _KNOWN_STARTS:
        if start.startswith(prefix):
            return f"it starts like {meaning}"
    if data[4:8] == b"ftyp":
        return "it starts like HEIC, AVIF or a video"
    return f"it starts with {data[:12]!r}"
