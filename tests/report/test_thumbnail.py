"""Thumbnails are small squares of the picture's middle; a missing picture is no error."""

import io

import numpy as np
from PIL import Image

from quantkit.report.thumbnail import SIDE, thumbnail


def test_a_thumbnail_is_the_middle_of_the_picture(tmp_path):
    pixels = np.zeros((300, 900, 3), np.uint8)
    pixels[:, 300:600] = (200, 40, 40)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    small = Image.open(io.BytesIO(thumbnail(tmp_path / "wide.png")))
    assert (small.format, small.size, small.mode) == ("JPEG", (SIDE, SIDE), "RGB")
    assert np.abs(np.asarray(small)[8:-8, 8:-8].astype(int) - (200, 40, 40)).max() < 12


def test_grey_and_tiny_pictures_are_drawn_too(tmp_path):
    Image.new("L", (5, 9), 77).save(tmp_path / "grey.png")
    small = Image.open(io.BytesIO(thumbnail(tmp_path / "grey.png")))
    assert small.getpixel((96, 96)) == (77, 77, 77)


def test_a_picture_that_is_gone_or_damaged_has_none(tmp_path):
    (tmp_path / "text.jpg").write_text("not a picture")
    assert thumbnail(tmp_path / "text.jpg") is None
    assert thumbnail(tmp_path / "absent.jpg") is None
