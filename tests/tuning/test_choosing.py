"""Closeness: every image counts alike."""

import math

import numpy as np
import pytest

from quantkit.tuning.choosing import EXACT_DB, mean_sqnr_db


def test_sqnr_image_by_image_by_hand() -> None:
    reference = np.array([[3.0, 4.0], [300.0, 400.0]], np.float32)
    other = reference + np.array([[0.5, 0.0], [0.0, 5.0]], np.float32)
    assert mean_sqnr_db(reference, other) == pytest.approx((20.0 + 40.0) / 2.0)


def test_large_scores_do_not_outweigh_the_others() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(50, 10)).astype(np.float32)
    near, far = reference + np.float32(0.01), reference + np.float32(0.1)
    reference[7], near[7], far[7] = 1000.0 * reference[7], 1000.0 * far[7], 1000.0 * near[7]
    assert mean_sqnr_db(reference, near) > mean_sqnr_db(reference, far) + 15.0


def test_equal_scores_are_infinitely_near_and_one_equal_image_is_not_all() -> None:
    reference = np.array([[1.0, 2.0], [0.0, 1.0]], np.float32)
    assert mean_sqnr_db(reference, reference) == math.inf
    assert mean_sqnr_db(reference, reference + np.array([[0.0], [0.1]], np.float32)) < EXACT_DB
