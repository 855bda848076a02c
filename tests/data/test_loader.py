import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantkit.config.pipeline import PRESETS, Decode, Normalize, Pipeline, Resize, ToTensor
from quantkit.data.loader import load_batches
from quantkit.data.preprocess import preprocess
from quantkit.errors import ConfigError, ImageError, UsageError

SMALL = Pipeline(ops=(Decode(), Resize(size=(8, 8)), ToTensor()))
AS_IT_IS = Pipeline(ops=(Decode(), ToTensor()))


@pytest.fixture
def paths(tmp_path: Path, make_images) -> list[Path]:
    names = [f"{number:02d}.png" for number in range(23)]
    folder = make_images(tmp_path / "images", *names)
    return [folder / name for name in names]


def image_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("quantkit-image")]


@pytest.mark.parametrize("batch_size", [1, 4, 23, 100])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_image_once_in_order(paths: list[Path], batch_size: int, workers: int) -> None:
    batches = list(load_batches(paths, SMALL, batch_size, workers=workers))
    sizes = [len(batch.indices) for batch in batches]
    assert sizes == [batch_size] * (23 // batch_size) + ([23 % batch_size] if 23 % batch_size else [])
    np.testing.assert_array_equal(np.concatenate([batch.indices for batch in batches]), np.arange(23))
    expected = np.stack([preprocess(path, SMALL) for path in paths])
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in batches]), expected)
    assert all(batch.images.flags.c_contiguous and batch.images.dtype == np.float32 for batch in batches)
    assert image_threads() == []


def test_a_batch_belongs_to_its_consumer(paths: list[Path]) -> None:
    batches = list(load_batches(paths, SMALL, 4))
    assert not any(np.shares_memory(batches[0].images, batch.images) for batch in batches[1:])


def test_no_images_no_batches() -> None:
    assert list(load_batches([], SMALL, 4)) == []
    assert list(load_batches([], AS_IT_IS, 4)) == []


def test_an_undecodable_image_is_raised_and_the_threads_end(paths: list[Path]) -> None:
    paths[13].write_bytes(b"<html>")
    batches = load_batches(paths, SMALL, 4)
    assert [next(batches).indices[0] for _ in range(3)] == [0, 4, 8]
    with pytest.raises(ImageError, match=r"13\.png: not an image"):
        next(batches)
    assert image_threads() == []


def test_an_undecodable_image_is_reported_and_left_out(paths: list[Path]) -> None:
    for number in (1, 13, 20, 21, 22):
        paths[number].write_bytes(b"")
    failed: dict[int, str] = {}
    batches = list(load_batches(paths, SMALL, 4, on_error=lambda at, error: failed.update({at: str(error)})))
    assert list(failed) == [1, 13, 20, 21, 22]
    assert all(f"{at:02d}.png: the image file is empty" in message for at, message in failed.items())
    assert [batch.indices.tolist() for batch in batches] == [
        [0, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 14, 15], [16, 17, 18, 19]
    ]  # fmt: skip
    for batch in batches:
        expected = np.stack([preprocess(paths[index], SMALL) for index in batch.indices])
        np.testing.assert_array_equal(batch.images, expected)
        assert batch.images.flags.c_contiguous


def test_stopping_early_ends_the_threads(paths: list[Path]) -> None:
    batches = load_batches(paths, SMALL, 2)
    next(batches)
    batches.close()
    assert image_threads() == []


def test_an_interruption_of_the_consumer_ends_the_threads(paths: list[Path]) -> None:
    def consume() -> None:
        for batch in load_batches(paths, SMALL, 2):
            if batch.indices[0] == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert image_threads() == []


def test_work_ahead_is_bounded(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Path] = []

    def counting(path: Path, pipeline: Pipeline, out: np.ndarray) -> np.ndarray:
        begun.append(path)
        return preprocess(path, pipeline, out)

    monkeypatch.setattr("quantkit.data.loader.preprocess", counting)
    batches = load_batches(paths, SMALL, 2, ahead=3)
    next(batches)
    deadline = time.monotonic() + 10
    while len(begun) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(begun) == 8
    batches.close()


def test_a_pipeline_that_fixes_no_size_takes_that_of_the_first_image(paths: list[Path], make_images) -> None:
    [batch] = load_batches(paths, AS_IT_IS, 50)
    assert batch.images.shape == (23, 3, 12, 12)
    other = paths[5]
    Image.new("RGB", (20, 12)).save(other)
    with pytest.raises(ImageError, match=r"05\.png: the picture is 12 x 20 .* where 12 x 12 is needed"):
        list(load_batches(paths, AS_IT_IS, 50))


def test_nothing_decodes_and_nothing_fixes_the_size(paths: list[Path]) -> None:
    for path in paths:
        path.write_bytes(b"")
    failed: list[int] = []
    assert list(load_batches(paths, AS_IT_IS, 4, on_error=lambda at, error: failed.append(at))) == []
    assert failed == list(range(23))


def test_what_cannot_run_is_refused_at_once(paths: list[Path]) -> None:
    with pytest.raises(UsageError, match="a batch cannot hold 0 images"):
        load_batches(paths, SMALL, 0)
    broken = Pipeline(ops=(Decode(), ToTensor(), Normalize(mean=(0.5,), std=(0.5,))))
    with pytest.raises(ConfigError, match="mean and std have 1 values"):
        load_batches(paths, broken, 4)


@pytest.mark.shared
def test_real_photos(shared_assets: Path) -> None:
    photos = sorted((shared_assets / "imagenet_samples").iterdir())[:70]
    batches = list(load_batches(photos, PRESETS["imagenet"], 32))
    assert [batch.images.shape for batch in batches] == [(32, 3, 224, 224), (32, 3, 224, 224), (6, 3, 224, 224)]
    np.testing.assert_array_equal(batches[2].images[5], preprocess(photos[69], PRESETS["imagenet"]))
