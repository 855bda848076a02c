"""Closeness: every image counts alike."""

import math

import numpy as np
import pytest
from scipy import special, stats

from quantkit.errors import NumericError
from quantkit.evaluation.predictions import Scores, kl_divergence
from quantkit.evaluation.score_sqnr import EXACT_DB, score_sqnr_db
from quantkit.evaluation.selection import (
    DistanceEstimate,
    closeness,
    distance_estimate,
    expected_kl,
    is_gain,
    student_quantile,
)


def test_closeness_large_scores_do_not_outweigh_others() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(50, 10)).astype(np.float32)
    near, far = reference + np.float32(0.01), reference + np.float32(0.1)
    reference[7], near[7], far[7] = 1000.0 * reference[7], 1000.0 * far[7], 1000.0 * near[7]
    assert score_sqnr_db(reference, near) > score_sqnr_db(reference, far) + 15.0


def test_closeness_equal_scores_are_infinitely_near() -> None:
    reference = np.array([[1.0, 2.0], [0.0, 1.0]], np.float32)
    assert score_sqnr_db(reference, reference) == math.inf
    assert score_sqnr_db(reference, reference + np.array([[0.0], [0.1]], np.float32)) < EXACT_DB


def test_expected_kl_pairs_equal_hand_worked_example() -> None:
    """Two images of equal size, one answered for sure, the other evenly between two classes; the first has noise.

    0.2 on one class of the two would cost the even answer ``(0.5 * 0.04 - 0.01) / 2 = 0.005`` nats, the sure one
    next to nothing.
    """
    reference = np.array([[40.0, 0.0, -40.0], [20.0, 20.0, -40.0]], np.float32)
    reference[1] *= np.linalg.norm([40.0, 0.0, -40.0]) / np.linalg.norm([20.0, 20.0, -40.0])
    other = reference + np.array([[0.2, 0.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    assert expected_kl(reference, other) == pytest.approx(0.005 / 4.0, rel=1e-4)


def test_expected_kl_undecided_images_do_not_scale_up_noise() -> None:
    rng = np.random.default_rng(3)
    first = rng.normal(0.0, 3.0, 4000).astype(np.float32)
    reference = np.stack([first, -first], axis=1)
    other = reference + rng.normal(0.0, 0.05, reference.shape).astype(np.float32)
    met = float(kl_divergence(reference, other).mean())
    assert 0.4 * met < expected_kl(reference, other) < 2.5 * met


def test_expected_kl_constant_added_to_image_changes_nothing() -> None:
    rng = np.random.default_rng(4)
    reference = rng.normal(size=(20, 6)).astype(np.float32)
    other = reference + rng.normal(0.0, 0.1, reference.shape).astype(np.float32)
    shift = rng.normal(0.0, 30.0, (20, 1)).astype(np.float32)
    assert expected_kl(reference + shift, other + shift) == pytest.approx(expected_kl(reference, other), rel=1e-3)


def test_closeness_non_finite_scores_are_refused() -> None:
    reference = np.zeros((2, 3), np.float32)
    with pytest.raises(NumericError, match="the scores contain NaN or infinity"):
        closeness(reference, reference + np.array([[np.nan], [0.0]], np.float32))


def test_expected_kl_noise_of_large_scores_counts_in_proportion() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(40, 10)).astype(np.float32)
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    noise = rng.normal(0.0, 0.01, (40, 10)).astype(np.float32)
    plain = expected_kl(reference, reference + noise)
    reference[7] *= 1000.0
    noise[7] *= 1000.0
    assert expected_kl(reference, reference + noise) == pytest.approx(plain, rel=0.2)


def test_expected_kl_independent_noise_has_measured_mean_and_less_spread() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal(0.0, 3.0, (6000, 10)).astype(np.float32)
    reference *= 10.0 / np.linalg.norm(reference, axis=1, keepdims=True)
    other = reference + rng.normal(0.0, 0.05, reference.shape).astype(np.float32)
    lots = [slice(start, start + 60) for start in range(0, 6000, 60)]
    expected = np.array([expected_kl(reference[lot], other[lot]) for lot in lots])
    met = np.array([kl_divergence(reference[lot], other[lot]).mean() for lot in lots])
    assert expected.mean() == pytest.approx(met.mean(), rel=0.05)
    assert expected.std() < met.std()


def test_closeness_of_probabilities_equals_that_of_logits() -> None:
    rng = np.random.default_rng(2)
    log_p = rng.normal(size=(30, 5))
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    log_q = log_p + rng.normal(0.0, 0.01, log_p.shape)
    log_q -= np.log(np.exp(log_q).sum(axis=1, keepdims=True))
    logits, other_logits = log_p.astype(np.float32), log_q.astype(np.float32)
    p, q = np.exp(logits), np.exp(other_logits)
    expected = expected_kl(logits, other_logits)
    assert expected_kl(p, q, Scores.PROBABILITIES) == pytest.approx(expected, rel=1e-3)  # float32 of differences of 1 %
    assert closeness(p, q).expected_kl == expected_kl(p, q, Scores.PROBABILITIES)


def test_expected_kl_equal_scores_is_zero() -> None:
    zeros = np.zeros((3, 4), np.float32)
    assert expected_kl(zeros, zeros) == 0.0
    assert closeness(zeros + 1.0, zeros + 1.0).distance == 0.0


def _alike(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of equal size, so that leaving an image out changes no other's share, and the same with noise."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(count, 6))
    reference -= reference.mean(axis=1, keepdims=True)
    reference *= 5.0 / np.linalg.norm(reference, axis=1, keepdims=True)
    return reference.astype(np.float32), (reference + rng.normal(0.0, 0.1, reference.shape)).astype(np.float32)


def test_distance_estimate_is_the_logarithm_of_the_distance() -> None:
    reference, other = _alike(12, 5)
    assert distance_estimate(reference, other).log == pytest.approx(math.log(closeness(reference, other).distance))


def test_distance_estimate_without_an_image_equals_the_distance_of_the_others() -> None:
    reference, other = _alike(9, 6)
    found = distance_estimate(reference, other).without
    wanted = [
        math.log(closeness(np.delete(reference, place, 0), np.delete(other, place, 0)).distance) for place in range(9)
    ]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_standard_error_of_a_mean_is_that_of_the_textbook() -> None:
    """Where the leave-one-out figures are those of a mean, the jackknife is ``std / sqrt(n)`` with n - 1 in std."""
    values, count = np.random.default_rng(7).normal(size=20), 20
    without = (values.sum() - values) / (count - 1)
    one, other = DistanceEstimate(0.0, without), DistanceEstimate(0.0, np.zeros(count))
    assert one.standard_error(other) == pytest.approx(values.std(ddof=1) / math.sqrt(count), rel=1e-12)


@pytest.mark.parametrize("probability", [0.5, 0.9, 0.975, 0.99])
def test_student_quantile_is_that_of_scipy(probability: float) -> None:
    freedom = [4, 5, 7, 15, 40, 127]
    found = [student_quantile(probability, one) for one in freedom]
    np.testing.assert_allclose(found, stats.t.ppf(probability, freedom), rtol=0.01, atol=1e-12)


@pytest.mark.parametrize("share", [0.95, 1.05])
def test_gain_is_one_where_paired_t_test_says_so(share: float) -> None:
    values = np.random.default_rng(9).normal(size=8)
    values += share * stats.t.ppf(0.84, 7) * values.std(ddof=1) / math.sqrt(8) - values.mean()
    assert is_gain(values, 0.84) is (share > 1.0)


@pytest.mark.parametrize("share", [0.95, 1.05])
def test_distance_exceeds_where_paired_t_test_says_so(share: float) -> None:
    """On eight images: between two standard errors and the 2.36 of seven degrees of freedom nothing is certain."""
    values, count = np.random.default_rng(9).normal(size=8), 8
    log = share * stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / math.sqrt(count)
    one = DistanceEstimate(float(log), (values.sum() - values) / (count - 1))
    other = DistanceEstimate(0.0, np.zeros(count))
    assert one.exceeds(other, 0.975) is (share > 1.0)
    assert one.log > 2.0 * one.standard_error(other)


def test_distance_estimate_of_scores_that_are_not_finite_is_infinite() -> None:
    reference, other = _alike(4, 8)
    other[1, 2] = np.nan
    assert distance_estimate(reference, other).log == math.inf


@pytest.mark.parametrize("classes", [10, 1000])
def test_expected_kl_by_blocks_is_the_mean_over_all_pairs(classes: int) -> None:
    rng = np.random.default_rng(5)
    scores = rng.normal(0.0, 3.0, (40, classes))
    other = (scores + rng.normal(0.0, 0.1, scores.shape)).astype(np.float32)
    reference = scores.astype(np.float32)
    log_p, log_q = (special.log_softmax(one.astype(np.float64), axis=1) for one in (reference, other))
    noise, size = (one - one.mean(axis=1, keepdims=True) for one in (log_q - log_p, log_p))
    norm = np.linalg.norm(size, axis=1)
    norm = np.maximum(norm, np.median(norm))
    by_hand = [
        0.5 * (p @ (e * s / t) ** 2 - (p @ (e * s / t)) ** 2)
        for p, s in zip(np.exp(log_p), norm, strict=True)
        for e, t in zip(noise, norm, strict=True)
    ]
    assert expected_kl(reference, other) == pytest.approx(np.mean(by_hand), rel=1e-6)
