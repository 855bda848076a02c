"""SQNR of the scores: one figure for logits and for the probabilities made of them."""

import math

import numpy as np
import pytest
from scipy import special

from quantkit.evaluation.score_sqnr import EXACT_DB, score_sqnr_db, sqnr_by_image_db


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
    assert score_sqnr_db(zeros, zeros + 1) == -EXACT_DB


def test_sqnr_of_one_silent_image_is_measured_against_the_mean_signal():
    reference = np.array([[0.0, 0.0], [10.0, 0.0]], np.float32)
    other = reference + np.float32(0.1)
    # The mean signal is 50, so the silent image counts as 0.00005; its noise is 0.02.
    assert sqnr_by_image_db(reference, other)[0] == pytest.approx(10 * math.log10(0.00005 / 0.02), abs=1e-4)


def test_sqnr_of_images_equal_beside_silence_is_exact():
    reference = np.array([[0.0, 0.0], [10.0, 0.0]], np.float32)
    assert (sqnr_by_image_db(reference, reference) == EXACT_DB).all()


def test_sqnr_of_a_model_that_ends_in_a_softmax_is_that_of_its_logits():
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 3.0, (40, 10))
    logits -= logits.mean(axis=1, keepdims=True)
    noisy = logits + rng.normal(0.0, 0.1, logits.shape)
    noisy -= noisy.mean(axis=1, keepdims=True)
    wanted = sqnr_by_image_db(logits.astype(np.float32), noisy.astype(np.float32))
    probabilities = (special.softmax(one, axis=1).astype(np.float32) for one in (logits, noisy))
    np.testing.assert_allclose(sqnr_by_image_db(*probabilities), wanted, atol=0.01)


def test_sqnr_of_scores_is_the_mean_over_the_images():
    reference = np.array([[3.0, 4.0], [300.0, 400.0]], np.float32)
    other = reference + np.array([[0.5, 0.0], [0.0, 5.0]], np.float32)
    assert score_sqnr_db(reference, other) == pytest.approx((20.0 + 40.0) / 2.0)
