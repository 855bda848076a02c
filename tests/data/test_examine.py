from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from quantkit.data.build_set import build_calibration_set
from quantkit.data.examine import examine, lookalikes
from quantkit.files import sha256_file


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A smooth picture with some shape to it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_examine_good_image_has_digest_and_look(tmp_path: Path) -> None:
    path = saved(scene(0).convert("L"), tmp_path / "a.jpg")
    found = examine(path)
    assert (found.sha256, found.fault, found.notes, found.one_colour) == (sha256_file(path), "", ("greyscale",), False)
    assert found.look is not None


def test_examine_damaged_image_has_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"<html>")
    found = examine(path)
    assert (found.sha256, found.look) == (sha256_file(path), None)
    assert "an HTML page" in found.fault


def test_examine_missing_image_has_no_digest(tmp_path: Path) -> None:
    found = examine(tmp_path / "none.jpg")
    assert found.sha256 == ""
    assert "no such file" in found.fault


@pytest.mark.parametrize("colour", ["black", "white", "teal"])
def test_examine_image_of_one_colour_is_marked(tmp_path: Path, colour: str) -> None:
    path = saved(Image.new("RGB", (64, 64), colour), tmp_path / "flat.png")
    assert examine(path).one_colour


def test_examine_image_with_one_other_pixel_is_not_one_colour(tmp_path: Path) -> None:
    image = Image.new("RGB", (640, 640))
    image.putpixel((320, 320), (1, 0, 0))
    assert not examine(saved(image, tmp_path / "dot.png")).one_colour


def test_lookalikes_resized_and_compressed_picture_is_found(tmp_path: Path) -> None:
    looks = []
    for seed in range(12):
        looks.append(examine(saved(scene(seed), tmp_path / f"{seed}.png")).look)
        again = scene(seed).resize((96, 80), Image.Resampling.LANCZOS)
        looks.append(examine(saved(again, tmp_path / f"{seed}.jpg", quality=60)).look)
    pairs = lookalikes(looks)
    assert set(pairs) <= {(at, at + 1) for at in range(0, 24, 2)}
    assert len(pairs) >= 10


def test_lookalikes_small_pictures_are_not_compared(tmp_path: Path) -> None:
    assert examine(saved(scene(1, (31, 31)), tmp_path / "small.png")).look is None
    assert lookalikes([None, None, 5, None]) == []


@given(data=st.data(), count=st.integers(2, 12))
def test_lookalikes_are_all_pairs_within_four_bits(data: st.DataObject, count: int) -> None:
    base = data.draw(st.integers(0, 2**64 - 1))
    flips = st.lists(st.integers(0, 63), max_size=7)
    looks = [base ^ sum({1 << bit for bit in data.draw(flips)}) for _ in range(count)]
    expected = [(i, j) for i in range(count) for j in range(i + 1, count) if (looks[i] ^ looks[j]).bit_count() <= 4]
    assert lookalikes(looks) == expected


def test_build_set_remarks_on_special_images(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    saved(scene(1), folder / "a.png")
    saved(scene(1), folder / "b.jpg", quality=80)
    saved(scene(2).convert("L"), folder / "c.png")
    saved(Image.new("RGB", (40, 40), "red"), folder / "d.png")
    remarks = build_calibration_set(folder, count=4, unlabelled=True).remarks
    assert "greyscale: 1 image, the first c.png" in remarks
    assert "all of one colour: 1 image, the first d.png" in remarks
    [alike] = [remark for remark in remarks if "look alike" in remark]
    assert alike.startswith("a pair of images that look alike: ")
    assert "a.png" in alike
    assert "b.jpg" in alike


def test_lookalikes_of_real_photos_are_none(shared_assets: Path) -> None:
    photos = sorted((shared_assets / "imagenet_samples").iterdir())[::4]
    found = [examine(photo) for photo in photos]
    assert not any(one.fault or one.one_colour for one in found)
    assert lookalikes([one.look for one in found]) == []
