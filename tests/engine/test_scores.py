"""How far scores lie from those of fp32, and which of a model's outputs they are."""

import math

import numpy as np
import pytest

from quantkit.engine.scores import EXACT_DB, score_sqnr_db, sqnr_by_image_db


def test_sqnr_by_image_of_a_hand_worked_example():
    reference = np.array([[3.0, 4.0], [6.0, 8.0]], np.float32)
    other = np.array([[3.0, 4.5], [6.0, 9.0]], np.float32)
    np.testing.assert_allclose(sqnr_by_image_db(reference, other), [20.0, 20.0], atol=1e-9)  # 25 / 0.25, 100 / 1


@pytest.mark.parametrize("shape", [(1, 4), (3, 10)])
def test_sqnr_of_equal_zeros_is_exact(shape):
    zeros = np.zeros(shape, np.float32)
    assert (sqnr_by_image_db(zeros, zeros) == EXACT_DB).all()
    assert score_sqnr_db(zeros, zeros) == math.inf


def test_sqnr_of_noise_on_zeros_alone_is_the_least():
    zeros = np.zeros((2, 4), np.float32)
    assert (sqnr_by_image_db(zeros, zeros + 1) == -EXACT_DB).all()
    assert score_sqnr_db(zeros, zeros + 1) == -math.inf


def test_sqnr_of_one_silent_image_is_measured_against_the_mean_signal():
    reference = np.array([[0.0, 0.0], [10.0, 0.0]], np.float32)
    other = reference + np.float32(0.1)
    # The mean signal is 50, so the silent image counts as 0.00005; its noise is 0.02.
    assert sqnr_by_image_db(reference, other)[0] == pytest.approx(10 * math.log10(0.00005 / 0.02), abs=1e-4)


def test_sqnr_of_images_equal_beside_silence_is_exact():
    reference = np.array([[0.0, 0.0], [10.0, 0.0]], np.float32)
    assert (sqnr_by_image_db(reference, reference) == EXACT_DB).all()
