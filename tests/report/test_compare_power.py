"""Sample sizes, against simulated comparisons, Miettinen's formula and bounds worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from quantkit.evaluation.paired import PairedOutcomes, score_interval
from quantkit.evaluation.power import (
    discordance_bound,
    images_to_detect,
    mcnemar_images,
    minimum_detectable_difference,
    rate_is_known,
    sample_size_note,
)


def rejections(images, loss, discordance, draws=20_000):
    """Share of simulated comparisons in which McNemar's two-sided test at 5 % rejects."""
    lost, gained = (discordance + loss) / 2, (discordance - loss) / 2
    drawn = np.random.default_rng(5).multinomial(images, [lost, gained, 1 - lost - gained], size=draws)
    discordant = np.maximum(drawn[:, 0] + drawn[:, 1], 1)
    statistic = (drawn[:, 0] - drawn[:, 1]) ** 2 / discordant
    return float((stats.chi2.sf(statistic, df=1) < 0.05).mean())


@pytest.mark.parametrize(
    ("loss", "discordance"),
    [(0.005, 0.02), (0.01, 0.05), (0.01, 0.2), (0.02, 0.05), (0.003, 0.01), (0.05, 0.3), (0.1, 0.5)],
)
def test_mcnemar_images_give_the_power_in_simulation(loss, discordance):
    images = round(mcnemar_images(loss, discordance))
    assert rejections(images, loss, discordance) == pytest.approx(0.8, abs=0.02)
    images = round(mcnemar_images(loss, discordance, power=0.5))
    assert rejections(images, loss, discordance) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("loss", [0.005, 0.02, 0.1, 0.3])
def test_mcnemar_images_where_all_discordant_images_are_lost_have_at_least_the_power(loss):
    """Few discordant images: the normal approximation errs on the safe side."""
    assert rejections(round(mcnemar_images(loss, 0.0)), loss, loss) >= 0.8


@given(st.floats(0.001, 0.05), st.floats(4.0, 50.0))
def test_mcnemar_images_agree_with_miettinen(loss, times):
    """Miettinen, Biometrics 24:339-352, 1968, the other common formula; both are approximations."""
    psi = min(times * loss, 0.6)
    z_alpha, z_beta = stats.norm.ppf(0.975), stats.norm.ppf(0.8)
    variance = psi**2 - loss**2 * (3 + psi) / 4
    expected = (z_alpha * psi + z_beta * np.sqrt(variance)) ** 2 / (psi * loss**2)
    assert mcnemar_images(loss, psi) == pytest.approx(expected, rel=0.02)


def test_mcnemar_images_by_hand():
    """(1.95996 sqrt(0.1) + 0.84162 sqrt(0.1 - 0.0025))^2 / 0.0025: 0.619795 + 0.262796 = 0.882591, squared 0.778967."""
    assert mcnemar_images(0.05, 0.1) == pytest.approx(0.778967 / 0.0025, abs=2e-3)


@pytest.mark.parametrize("loss", [0.0, -0.1, 1.01, float("nan")])
def test_mcnemar_images_refuse_a_loss_out_of_range(loss):
    with pytest.raises(ValueError, match=r"a loss is a fraction in \(0, 1\]"):
        mcnemar_images(loss, 0.1)


def test_discordance_bound_without_discordant_images_is_the_hand_worked_one():
    assert discordance_bound(PairedOutcomes(20, 0, 0)) == pytest.approx(1 - 0.05 ** (1 / 20), abs=1e-12)
    assert discordance_bound(PairedOutcomes(3, 2, 1)) == 1.0


@given(st.integers(1, 3000), st.data())
def test_discordance_bound_is_the_quantile_of_the_beta_distribution(images, data):
    discordant = data.draw(st.integers(0, images - 1))
    expected = stats.beta.ppf(0.95, discordant + 1, images - discordant)
    assert discordance_bound(PairedOutcomes(images, discordant, 0)) == pytest.approx(expected, abs=1e-9)


@given(st.integers(4, 100_000), st.data())
def test_minimum_detectable_difference_is_the_inverse_of_images_to_detect(images, data):
    lost = data.draw(st.integers(0, images // 2))
    gained = data.draw(st.integers(0, images // 2))
    outcomes = PairedOutcomes(images, lost, gained)
    found = minimum_detectable_difference(outcomes)
    assert found == 1.0 or images_to_detect(found, outcomes) in (images, images + 1)


@pytest.mark.parametrize(("images", "discordance"), [(500, 0.03), (2000, 0.05), (10_000, 0.01)])
def test_minimum_detectable_difference_of_an_observed_rate_is_detected(images, discordance):
    """A loss of that size, at the very rate observed: the upper bound of the rate makes the power more than 80 %."""
    half = round(images * discordance / 2)
    found = minimum_detectable_difference(PairedOutcomes(images, half, half))
    assert 0.8 <= rejections(images, found, max(discordance, found)) <= 0.99


def test_sample_size_significance_is_that_of_score_interval():
    """What the planned test rejects is what `compare` shows: zero outside of the interval."""
    for lost in range(4, 30):
        outcomes = PairedOutcomes(500, lost, 6)
        z = (lost - 6) / np.sqrt(lost + 6)
        assert (0.0 not in score_interval(outcomes)) == (abs(z) > stats.norm.ppf(0.975))


def test_sample_size_note_is_unknown_where_too_few_answers_differ():
    assert not rate_is_known(PairedOutcomes(20, 0, 0))
    assert sample_size_note(PairedOutcomes(20, 0, 0)) == (
        "20 images detect a top-1 loss of 35 points or more (power 80 %); how many detect 0.5 points is unknown, as "
        "too few answers differ to estimate it (at most 44,000)"
    )
    assert sample_size_note(PairedOutcomes(3, 0, 0)).startswith("3 images are too few to detect a top-1 loss; how many")


def test_sample_size_note_takes_the_loss_of_interest_or_the_measured_one():
    assert sample_size_note(PairedOutcomes(800, 8, 7)) == (
        "800 images detect a top-1 loss of 1.7 points or more (power 80 %); about 9,100 detect 0.5 points"
    )
    note = sample_size_note(PairedOutcomes(50_000, 450, 400))
    assert note.startswith("50,000 images detect a top-1 loss of 0.17 points or more (power 80 %); about ")
    assert note.endswith(" detect 0.1 points")
    assert sample_size_note(PairedOutcomes(50_000, 400, 450)) == (
        "50,000 images detect a top-1 loss of 0.17 points or more (power 80 %)"
    )
