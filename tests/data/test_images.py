import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from quantkit.config.pipeline import Decode
from quantkit.data.images import MAX_FILE_BYTES, MAX_PIXELS, decode_image
from quantkit.errors import ImageError


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.fixture
def photo(rng: np.random.Generator) -> Image.Image:
    """Smooth enough that JPEG keeps it close."""
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((40, 30), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
def test_decode_every_mode_is_converted_as_by_torchvision(
    tmp_path: Path, photo: Image.Image, mode: str, suffix: str
) -> None:
    path = tmp_path / f"picture.{suffix}"
    try:
        photo.convert(mode).save(path)
    except OSError:
        pytest.skip(f"{suffix} does not hold {mode}")
    with path.open("rb") as file:
        expected = np.asarray(Image.open(file).convert("RGB"))
    np.testing.assert_array_equal(decode_image(path, Decode()).pixels, expected)


@pytest.mark.parametrize(
    ("mode", "suffix", "note"),
    [
        ("L", "jpg", "greyscale"),
        ("1", "png", "greyscale"),
        ("P", "png", "palette"),
        ("CMYK", "jpg", "CMYK"),
        ("RGBA", "png", "alpha dropped"),
        ("LA", "png", "alpha dropped"),
    ],
)
def test_decode_special_images_are_noted(tmp_path: Path, photo: Image.Image, mode: str, suffix: str, note: str) -> None:
    path = save(photo.convert(mode), tmp_path / f"picture.{suffix}")
    assert note in decode_image(path, Decode()).notes


def test_decode_plain_photo_has_no_notes(tmp_path: Path, photo: Image.Image) -> None:
    assert decode_image(save(photo, tmp_path / "photo.jpg"), Decode()).notes == ()


def test_decode_bgr_reverses_channels_and_l_has_one(tmp_path: Path, photo: Image.Image) -> None:
    path = save(photo, tmp_path / "photo.png")
    rgb, bgr, grey = (decode_image(path, Decode(mode=mode)).pixels for mode in ("RGB", "BGR", "L"))
    np.testing.assert_array_equal(bgr, rgb[:, :, ::-1])
    assert grey.shape == (30, 40, 1)
    np.testing.assert_array_equal(grey[:, :, 0], np.asarray(photo.convert("L")))


def test_decode_16_bit_greyscale_is_scaled(tmp_path: Path) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = save(Image.fromarray(ramp), tmp_path / "ramp.png")
    decoded = decode_image(path, Decode(mode="L"))
    assert decoded.notes == ("16-bit scaled",)
    expected = np.floor(ramp / 257 + 0.5)
    np.testing.assert_array_equal(decoded.pixels[:, :, 0], expected)
    assert (decoded.pixels[0, 0], decoded.pixels[-1, -1]) == (0, 255)


def test_decode_16_bit_tiff_of_either_byte_order_is_scaled(tmp_path: Path) -> None:
    for order in "<", ">":
        path = tmp_path / f"{'little' if order == '<' else 'big'}.tif"
        path.write_bytes(grey16_tiff(order, [0, 257, 32896, 65535]))
        np.testing.assert_array_equal(decode_image(path, Decode(mode="L")).pixels.ravel(), [0, 1, 128, 255])


def grey16_tiff(order: str, values: list[int]) -> bytes:
    """A one-row greyscale TIFF of 16 bits, in either byte order."""
    tags = [
        (256, len(values)),
        (257, 1),
        (258, 16),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 1),
        (279, 2 * len(values)),
    ]
    data = struct.pack(f"{order}{len(values)}H", *values)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)


def test_decode_32_bit_pixels_are_refused(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.array([[0, 70000]], np.int32)), tmp_path / "wide.tif")
    with pytest.raises(ImageError, match=r"wide\.tif: 32-bit pixels have no defined range"):
        decode_image(path, Decode())


def test_decode_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.array([[0.5]], np.float32)), tmp_path / "real.tif")
    with pytest.raises(ImageError, match=r"real\.tif: floating-point pixels have no defined range"):
        decode_image(path, Decode())


def test_decode_palette_with_transparency_gives_no_warning(tmp_path: Path, photo: Image.Image) -> None:
    path = save(photo.convert("P"), tmp_path / "clear.png", transparency=bytes(range(256)))
    decoded = decode_image(path, Decode())
    assert set(decoded.notes) == {"palette", "alpha dropped"}
    np.testing.assert_array_equal(decoded.pixels, np.asarray(photo.convert("P").convert("RGB")))


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "png"])
def test_decode_animation_gives_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    path = save(frames[0], tmp_path / f"film.{suffix}", save_all=True, append_images=frames[1:])
    decoded = decode_image(path, Decode())
    assert "first frame" in decoded.notes
    assert decoded.pixels.min() > 250


def test_decode_exif_rotation_is_applied_only_when_asked(tmp_path: Path) -> None:
    picture = Image.new("RGB", (20, 10), "black")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(picture, tmp_path / "phone.jpg", exif=exif)
    as_stored, turned = decode_image(path, Decode()), decode_image(path, Decode(exif=True))
    assert as_stored.pixels.shape == (10, 20, 3)
    assert as_stored.notes == ("EXIF rotation ignored",)
    assert turned.pixels.shape == (20, 10, 3)
    assert turned.notes == ()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0junk"]
)
def test_decode_damaged_exif_data_keep_the_picture(tmp_path: Path, photo: Image.Image, exif: bytes) -> None:
    path = save(photo, tmp_path / "photo.jpg", exif=exif)
    plain = save(photo, tmp_path / "plain.jpg")
    decoded = decode_image(path, Decode())
    assert decoded.notes == ()
    np.testing.assert_array_equal(decoded.pixels, decode_image(plain, Decode()).pixels)


def test_decode_animation_damaged_after_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black", "red")]
    path = save(frames[0], tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    whole = path.read_bytes()
    for length in range(len(whole) - 60, len(whole)):
        path.write_bytes(whole[:length])
        decoded = decode_image(path, Decode())
        assert decoded.pixels.min() > 250


def test_decode_progressive_jpeg_equals_baseline(tmp_path: Path, photo: Image.Image) -> None:
    progressive = save(photo, tmp_path / "progressive.jpg", progressive=True)
    baseline = save(photo, tmp_path / "baseline.jpg", progressive=False)
    np.testing.assert_array_equal(decode_image(progressive, Decode()).pixels, decode_image(baseline, Decode()).pixels)


@pytest.mark.parametrize(
    "name", ["with space.png", "ünïcødé 图.png", "quo'te\".png", "very" * 50 + ".png", "a#b%20.png"]
)
def test_decode_odd_file_names_are_read(tmp_path: Path, photo: Image.Image, name: str) -> None:
    np.testing.assert_array_equal(decode_image(save(photo, tmp_path / name), Decode()).pixels, np.asarray(photo))


def test_decode_wrong_suffix_is_read(tmp_path: Path, photo: Image.Image) -> None:
    path = save(photo, tmp_path / "picture.png").rename(tmp_path / "picture.jpg")
    np.testing.assert_array_equal(decode_image(path, Decode()).pixels, np.asarray(photo))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the image file is empty"),
        (b"<!DOCTYPE html><html>not found</html>", "an HTML page, a failed download"),
        (b"\xef\xbb\xbf\n <HTML>", "an HTML page, a failed download"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"PK\x03\x04 and so on", "a zip archive"),
        (b"\x93NUMPY\x01\x00", "a numpy array"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\x00\x00\x00\x20ftypavif\x00\x00\x00\x00", "HEIC, AVIF or a video"),
        (b"hello there, world", r"it starts with b'hello there,'"),
        (b"\xff\xd8\xff", "not an image|damaged"),
    ],
)
def test_decode_other_content_says_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "n01440764_1.JPEG"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"n01440764_1\.JPEG: .*({message})"):
        decode_image(path, Decode())


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_decode_truncated_file_is_refused(tmp_path: Path, rng: np.random.Generator, suffix: str, share: float) -> None:
    path = save(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), tmp_path / f"cut.{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ImageError, match=rf"cut\.{suffix}: (the image is damaged|not an image)"):
        decode_image(path, Decode())


def png_of_size(width: int, height: int) -> bytes:
    """A PNG header that claims a size, and hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10_000, 9_500), (50_000, 50_000), (MAX_PIXELS + 1, 1)])
def test_decode_decompression_bomb_is_refused_before_decoding(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_size(*size))
    with pytest.raises(ImageError, match=rf"bomb\.png: the image has more than {MAX_PIXELS} pixels"):
        decode_image(path, Decode())


def test_decode_missing_file_folder_and_unusable_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.jpg: cannot read the image \(no such file or directory\)"):
        decode_image(tmp_path / "none.jpg", Decode())
    with pytest.raises(ImageError, match="not a regular file"):
        decode_image(tmp_path, Decode())
    with pytest.raises(ImageError, match="not a usable file name"):
        decode_image(tmp_path / "nul\0.jpg", Decode())


def test_decode_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match=r"pipe\.jpg: not a regular file"):
        decode_image(tmp_path / "pipe.jpg", Decode())


def test_decode_too_large_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ImageError, match=r"huge\.jpg: the file is too large for an image \(1073741825 bytes\)"):
        decode_image(tmp_path / "huge.jpg", Decode())


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_decode_damaged_file_is_decoded_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]))
    buffer = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.write_bytes(content)
    try:
        decoded = decode_image(path, Decode())
    except ImageError:
        return
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.ndim == 3
