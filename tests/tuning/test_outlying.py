"""Images that outlie: found by what they do to the network, and never more than exceptions."""

from pathlib import Path

import numpy as np
import pytest
from tune_models import small_images, small_model

from quantkit.tuning.outlying import LARGEST_SHARE, outlying

TENSORS = ["ar", "dr", "sr"]


def found(images, threads: int = 2) -> list[int]:
    paths = [Path(str(place)) for place in range(len(images))]
    far = outlying(small_model(), TENSORS, paths, lambda path: images[int(path.name)], threads=threads)
    return sorted(int(path.name) for path in far)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_image_far_beyond_the_others_is_found(threads) -> None:
    images = small_images(64)
    images[17] = 100.0 * images[17]
    assert found(images, threads) == [17]


def test_images_that_are_all_alike_hold_none() -> None:
    assert found([(1.0 + place % 3) * image for place, image in enumerate(small_images(64))]) == []


def test_what_is_frequent_is_no_exception() -> None:
    images = [image * (100.0 + place if place % 5 == 0 else 1.0) for place, image in enumerate(small_images(64))]
    far = found(images)
    assert len(far) == int(LARGEST_SHARE * 64)
    assert all(place % 5 == 0 for place in far)


def test_a_tensor_that_is_zero_for_most_images_says_nothing() -> None:
    images = [np.zeros_like(image) for image in small_images(64)]
    model = small_model(b1=np.full(8, -1.0, np.float32))
    paths = [Path(str(place)) for place in range(64)]
    images[3] = small_images(1)[0]
    assert outlying(model, ["ar"], paths, lambda path: images[int(path.name)], threads=1) == frozenset()
