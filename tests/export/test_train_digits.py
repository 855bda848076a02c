"""The script that makes what the demo ships."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs quantkit[torch]")

from export.train_digits import (  # noqa: E402
    DEMO,
    accuracy,
    mini_iresnet,
    read_digits,
    to_input,
    train,
    write_digits,
)
from PIL import Image  # noqa: E402

from quantkit.config.pipeline import PRESETS  # noqa: E402
from quantkit.data.preprocess import preprocess  # noqa: E402

pytestmark = pytest.mark.torch


def test_train_digits_writes_digits_as_they_ship(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn, where the digits come from")
    write_digits(tmp_path / "digits.npz")
    made, shipped = read_digits(tmp_path / "digits.npz"), read_digits(DEMO / "digits.npz")
    for one, other in zip(made, shipped, strict=True):
        np.testing.assert_array_equal(one, other)


def test_train_digits_input_equals_preset_preprocessing(tmp_path: Path) -> None:
    images = read_digits(DEMO / "digits.npz").images[:3]
    for image, expected in zip(images, to_input(images).numpy(), strict=True):
        Image.fromarray(image).save(tmp_path / "a.png")
        np.testing.assert_array_equal(preprocess(tmp_path / "a.png", PRESETS["digits"]), expected)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_train_digits_repeats_and_learns() -> None:
    digits = read_digits(DEMO / "digits.npz")
    one, same = train(digits, epochs=2), train(digits, epochs=2)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True))
    untrained = mini_iresnet().eval()
    assert accuracy(one, digits, digits.test) > 40.0 > accuracy(untrained, digits, digits.test)
