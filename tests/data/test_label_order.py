import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.data.classes import ilsvrc_order, imagenet_index
from quantkit.data.label_order import find_label_order

# Class index of ILSVRC id n + 1, and the other way round.
INDEX = np.array([imagenet_index()[wnid] for wnid in ilsvrc_order()])
ILSVRC = np.argsort(INDEX)


def answers(accuracy: float, images: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """True classes, and the answers of a model that is right on a share of them."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 1000, images)
    return np.where(rng.random(images) < accuracy, truth, rng.integers(0, 1000, images)), truth


@pytest.mark.parametrize("accuracy", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    ("mistake", "fault"),
    [
        (lambda truth: truth + 1, "to count from 1"),
        (lambda truth: truth - 1, "to lack the background class"),
        (lambda truth: ILSVRC[truth] + 1, "to be ILSVRC ids"),
        (lambda truth: ILSVRC[truth], "to follow the devkit's order, counted from 0"),
    ],
)
def test_label_order_wrong_labels_are_found(accuracy: float, mistake, fault: str) -> None:
    predictions, truth = answers(accuracy)
    found = find_label_order(predictions, mistake(truth), 1000)
    assert found is not None
    assert found.fault.startswith(fault)
    assert found.accuracy < 0.05
    assert abs(found.accuracy_fixed - accuracy) < 0.1


def test_label_order_outputs_in_devkit_order_are_found() -> None:
    predictions, truth = answers(0.7)
    found = find_label_order(ILSVRC[predictions], truth, 1000)
    assert found is not None
    assert "the model's outputs to follow the devkit's order" in found.fault


def test_label_order_outputs_in_devkit_order_behind_background_class_are_found() -> None:
    predictions, truth = answers(0.7)
    found = find_label_order(ILSVRC[predictions] + 1, truth, 1001)
    assert found is not None
    assert "the model's outputs to follow the devkit's order" in found.fault
    assert abs(found.accuracy_fixed - 0.7) < 0.1


def test_label_order_gain_of_few_images_gives_none() -> None:
    """100 of 10,000 images are right with other labels: certain, and no reason to doubt the labels."""
    labels = np.random.default_rng(0).integers(1, 10, 10_000)
    predictions = labels.copy()
    predictions[:100] -= 1
    assert find_label_order(predictions, labels, 10) is None
    wrong = np.where(np.arange(10_000) < 100, labels - 1, 0)
    assert find_label_order(wrong, np.maximum(labels, 2), 10) is None


def test_label_order_background_class_is_found() -> None:
    predictions, truth = answers(0.7)
    found = find_label_order(predictions + 1, truth, 1001)
    assert found is not None
    assert "background class" in found.fault
    mixed = find_label_order(predictions + 1, ILSVRC[truth] + 1, 1001)
    assert mixed is not None
    assert mixed.fault.startswith("to be ILSVRC ids")


@pytest.mark.parametrize("accuracy", [0.0, 0.02, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("images", [1, 20, 500])
def test_label_order_right_labels_of_poor_model_give_none(accuracy: float, images: int) -> None:
    for seed in range(20):
        predictions, truth = answers(accuracy, images, seed)
        assert find_label_order(predictions, truth, 1000) is None


def test_label_order_few_classes_know_only_shifts() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, 200)
    found = find_label_order(truth, truth + 1, 10)
    assert found is not None
    assert found.fix == "subtract 1 from each label"
    assert find_label_order(truth, 9 - truth, 10) is None


@given(data=st.data(), images=st.integers(1, 30))
def test_label_order_any_numbers_give_none_or_a_gain(data: st.DataObject, images: int) -> None:
    values = st.lists(st.integers(-5, 2000), min_size=images, max_size=images)
    predictions, labels = (np.array(data.draw(values), np.int64) for _ in range(2))
    found = find_label_order(predictions, labels, 1000)
    assert found is None or found.accuracy_fixed > found.accuracy
