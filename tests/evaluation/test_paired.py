"""Paired statistics against published worked examples, scipy and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from quantkit.evaluation.paired import (
    Interval,
    PairedOutcomes,
    bootstrap_interval,
    mcnemar_exact,
    mean_interval,
    score_interval,
    wilson_interval,
)


@st.composite
def outcomes(draw):
    images = draw(st.integers(1, 3000))
    lost = draw(st.integers(0, images))
    return PairedOutcomes(images, lost, draw(st.integers(0, images - lost)))


@pytest.mark.parametrize(
    ("images", "lost", "gained", "confidence", "expected", "digits"),
    [
        # Fagerland, Lydersen and Laake (BMC Medical Research Methodology 14:43, 2014), airway hyper-responsiveness:
        # 1 pair changed for the better, 7 for the worse, of 21; Tango's interval.
        (21, 7, 1, 0.95, (-0.517, -0.026), 3),
        # Agresti and Min (Statistics in Medicine 24:729-740, 2005), the table (53, 16, 8, 9).
        (86, 8, 16, 0.95, (-0.020, 0.207), 3),
        # R's PropCIs 0.3-0, scoreci.mp(60, 20, 1000) and, at 90 %, scoreci.mp(25, 28, 618).
        (1000, 60, 20, 0.95, (-0.0584, -0.0231), 4),
        (618, 25, 28, 0.90, (-0.0148, 0.0247), 4),
    ],
    ids=["Fagerland 2014", "Agresti and Min 2005", "PropCIs 95", "PropCIs 90"],
)
def test_score_interval_equals_published_examples(images, lost, gained, confidence, expected, digits):
    interval = score_interval(PairedOutcomes(images, lost, gained), confidence)
    assert (round(interval.lo, digits), round(interval.hi, digits)) == expected


@given(outcomes())
def test_score_interval_contains_difference_and_mirrors(pair):
    interval = score_interval(pair)
    assert -1.0 <= interval.lo <= pair.delta <= interval.hi <= 1.0
    mirrored = score_interval(PairedOutcomes(pair.images, pair.gained, pair.lost))
    assert (mirrored.lo, mirrored.hi) == pytest.approx((-interval.hi, -interval.lo), abs=1e-9)


@given(outcomes())
def test_score_interval_excludes_zero_where_mcnemar_statistic_says(pair):
    if pair.discordant == 0:
        return
    z = abs(pair.gained - pair.lost) / np.sqrt(pair.discordant)
    if abs(z - 1.959964) > 1e-6:
        assert (0.0 not in score_interval(pair)) == (z > 1.959964)


def test_score_interval_without_discordant_images_is_closed_form():
    interval = score_interval(PairedOutcomes(500, 0, 0))
    z2 = stats.norm.ppf(0.975) ** 2
    assert (interval.lo, interval.hi) == pytest.approx((-z2 / (500 + z2), z2 / (500 + z2)))
    assert bootstrap_interval(PairedOutcomes(500, 0, 0)) == Interval(0.0, 0.0)


def test_score_interval_all_images_lost_ends_at_minus_one():
    interval = score_interval(PairedOutcomes(50, 50, 0))
    assert interval.lo == -1.0
    assert -0.95 < interval.hi < -0.85


@given(outcomes())
def test_mcnemar_exact_is_twice_the_binomial_tail(pair):
    tail = stats.binom.cdf(min(pair.lost, pair.gained), pair.discordant, 0.5)
    assert mcnemar_exact(pair) == pytest.approx(min(1.0, 2 * tail))


def test_bootstrap_interval_agrees_with_score_interval():
    pair = PairedOutcomes(5000, 130, 90)
    score, bootstrap = score_interval(pair), bootstrap_interval(pair)
    assert (bootstrap.lo, bootstrap.hi) == pytest.approx((score.lo, score.hi), abs=0.0005)


def test_bootstrap_interval_equals_that_of_resampled_images():
    pair = PairedOutcomes(400, 20, 10)
    images = np.repeat([-1, 1, 0], [20, 10, 370])
    rng = np.random.default_rng(1)
    means = [images[rng.integers(0, 400, 400)].mean() for _ in range(4000)]
    by_hand = np.quantile(means, [0.025, 0.975])
    interval = bootstrap_interval(pair)
    assert (interval.lo, interval.hi) == pytest.approx(tuple(by_hand), abs=0.003)


def test_bootstrap_interval_repeats_with_its_seed_only():
    pair = PairedOutcomes(4099, 123, 97)
    assert bootstrap_interval(pair, seed=1) == bootstrap_interval(pair, seed=1)
    assert len({bootstrap_interval(pair, seed=seed, resamples=200).lo for seed in range(8)}) > 1


@pytest.mark.parametrize("loss", [0.0, 0.004, 0.02])
def test_intervals_of_simulated_pairs_cover_true_difference(loss):
    """600 pairs of models on 1,000 images: between 93 and 97 % of the intervals hold the true difference."""
    rng = np.random.default_rng(11)
    lost, gained = 0.03 + loss, 0.03
    draws = rng.multinomial(1000, [lost, gained, 1 - lost - gained], size=600)
    pairs = [PairedOutcomes(1000, int(a), int(b)) for a, b, _ in draws]
    by_score = np.mean([-loss in score_interval(pair) for pair in pairs])
    by_bootstrap = np.mean([-loss in bootstrap_interval(pair, resamples=1000) for pair in pairs])
    assert 0.93 <= by_score <= 0.97
    assert 0.93 <= by_bootstrap <= 0.97


def test_wilson_interval_equals_published_examples():
    """Newcombe (Statistics in Medicine 17:857-872, 1998), method 3 for 81 of 263: 0.2553 to 0.3662."""
    interval = wilson_interval(81, 263)
    assert (interval.lo, interval.hi) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 0) == Interval(0.0, 1.0)
    assert {wilson_interval(0, trials).lo for trials in range(1, 200)} == {0.0}
    assert {wilson_interval(trials, trials).hi for trials in range(1, 200)} == {1.0}


def test_mean_interval_equals_students_interval():
    values = np.random.default_rng(0).exponential(size=40)
    expected = stats.t.interval(0.95, 39, values.mean(), stats.sem(values))
    interval = mean_interval(values)
    assert (interval.lo, interval.hi) == pytest.approx(expected)
    assert mean_interval(np.asarray([2.0])) == Interval(2.0, 2.0)


def test_paired_outcomes_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="no such outcomes"):
        PairedOutcomes(10, 6, 5)
    with pytest.raises(ValueError, match="every image"):
        PairedOutcomes.of(np.ones(3, bool), np.ones(4, bool))


def test_paired_outcomes_are_counted_from_images():
    reference = np.asarray([1, 1, 1, 0, 0], bool)
    candidate = np.asarray([1, 0, 0, 1, 0], bool)
    assert PairedOutcomes.of(reference, candidate) == PairedOutcomes(images=5, lost=2, gained=1)
