"""Decoded images: the same bits as preprocessing from the file, each file decoded once, within the memory limit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantkit.config.pipeline import Decode, Normalize, Pipeline, Resize, ToTensor
from quantkit.data import decoded
from quantkit.data.decoded import DecodedImages
from quantkit.data.preprocess import pixels_of, preprocess

PIPELINE = Pipeline(
    ops=(
        Decode(),
        Resize(size=(7, 9)),
        ToTensor(),
        Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    )
)
BGR = Pipeline(ops=(Decode(mode="BGR"), *PIPELINE.ops[1:]))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).save(path)
    return paths


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []

    def counted(data: bytes, pipeline: Pipeline, where: Path):
        seen.append(where)
        return pixels_of(data, pipeline, where)

    monkeypatch.setattr(decoded, "pixels_of", counted)
    return seen


@pytest.mark.parametrize("pipeline", [PIPELINE, BGR], ids=["rgb", "bgr"])
def test_decoded_images_equal_preprocessing_bit_for_bit(images, pipeline) -> None:
    load = DecodedImages(pipeline)
    for path in [*images, *images]:
        np.testing.assert_array_equal(load(path), preprocess(path, pipeline))


def test_decoded_images_decode_each_file_once(images, decodings) -> None:
    load = DecodedImages(PIPELINE)
    for _ in range(3):
        for path in images:
            load(path)
    assert decodings == images


def test_decoded_images_beyond_the_limit_are_decoded_again(images, decodings) -> None:
    load = DecodedImages(PIPELINE, limit_bytes=2 * 7 * 9 * 3 + 1)
    for path in [*images, *images]:
        load(path)
    assert decodings == [*images, images[2]]


def test_decoded_images_cache_only_those_named(images, decodings) -> None:
    load = DecodedImages(PIPELINE, only=images[1:])
    for path in [*images, *images]:
        load(path)
    assert decodings == [*images, images[0]]
