"""Pictures of a report are small, whole, and never enlarged; a missing picture is no error."""

import io

import numpy as np
from PIL import Image

from quantkit.report.thumbnail import SIDE, thumbnail


def test_thumbnail_of_large_image_is_whole_and_small(tmp_path):
    pixels = np.zeros((300, 900, 3), np.uint8)
    pixels[:, 300:600] = (200, 40, 40)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    small = Image.open(io.BytesIO(thumbnail(tmp_path / "wide.png")))
    assert (small.format, small.size, small.mode) == ("JPEG", (SIDE, 107), "RGB")
    assert np.abs(np.asarray(small)[8:-8, 120:200].astype(int) - (200, 40, 40)).max() < 12
    assert np.asarray(small)[:, :90].max() < 12


def test_thumbnail_of_tiny_grey_image_keeps_its_size(tmp_path):
    Image.new("L", (5, 9), 77).save(tmp_path / "grey.png")
    small = Image.open(io.BytesIO(thumbnail(tmp_path / "grey.png")))
    assert small.size == (5, 9)
    assert small.getpixel((2, 4)) == (77, 77, 77)


def test_thumbnail_of_missing_or_damaged_image_is_none(tmp_path):
    (tmp_path / "text.jpg").write_text("not a picture")
    assert thumbnail(tmp_path / "text.jpg") is None
    assert thumbnail(tmp_path / "absent.jpg") is None
