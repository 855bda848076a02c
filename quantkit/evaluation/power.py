"""Power of a paired comparison: minimum detectable difference and sample size.

The test is McNemar's, two-sided at 5 %, which rejects if the 95 % score interval does not contain zero. With ``psi``
the probability that exactly one of the two models is correct, and ``d`` the difference of the accuracies, a power of
``1 - beta`` needs (Connor, Biometrics 43:207-211, 1987)

    n = (z_alpha sqrt(psi) + z_beta sqrt(psi - d^2))^2 / d^2

images. ``psi`` is estimated from the compared images. Its one-sided 95 % upper bound by Clopper and Pearson is used,
and at least ``d``, because a loss of a share d makes at least that share discordant. So the power is at least 80 % in
95 of 100 comparisons, and usually more.

Shares are fractions of 1 here, except in `sample_size_note`.
"""

import math

from scipy import special

from quantkit.evaluation.paired import CONFIDENCE, PairedOutcomes

POWER = 0.8
# A rate is unknown if its upper bound exceeds the observed rate by this factor (two discordant images or fewer).
_KNOWN_WITHIN = 3.0
# The loss of interest of `sample_size_note`, in percentage points.
LOSS_OF_INTEREST = 0.5
_PERCENT = 100.0
# Bisection halves [0, 1] down to the spacing of float64 around 1.
_BISECTIONS = 53


def discordance_bound(outcomes: PairedOutcomes, confidence: float = CONFIDENCE) -> float:
    """Return the one-sided upper bound of the share of discordant images (Clopper, Pearson)."""
    same = outcomes.images - outcomes.discordant
    return float(special.betaincinv(outcomes.discordant + 1, same, confidence)) if same else 1.0


def mcnemar_images(loss: float, discordance: float, *, power: float = POWER, confidence: float = CONFIDENCE) -> float:
    """Return the number of images that detect a loss with the given power; not rounded.

    Args:
        loss: difference of the accuracies, a fraction in (0, 1].
        discordance: share of discordant images; at least ``loss`` is used.
        power: probability of a significant difference.
        confidence: 1 minus the two-sided significance level.

    Raises:
        ValueError: the loss is outside (0, 1].
    """
    if not 0.0 < loss <= 1.0:
        raise ValueError(f"a loss is a fraction in (0, 1], not {loss}")
    psi = max(discordance, loss)
    z_alpha, z_beta = float(special.ndtri((1 + confidence) / 2)), float(special.ndtri(power))
    return float(((z_alpha * math.sqrt(psi) + z_beta * math.sqrt(psi - loss * loss)) / loss) ** 2)


def images_to_detect(loss: float, outcomes: PairedOutcomes, *, power: float = POWER) -> int:
    """Return the number of images sufficient to detect a loss, at the upper bound of the observed discordance rate.

    Raises:
        ValueError: the loss is outside (0, 1].
    """
    return math.ceil(mcnemar_images(loss, discordance_bound(outcomes), power=power) - 1e-9)


def minimum_detectable_difference(outcomes: PairedOutcomes, *, power: float = POWER) -> float:
    """Return the smallest loss (a fraction) that this number of images detects with the given power; 1 if none."""
    bound, lo, hi = discordance_bound(outcomes), 0.0, 1.0
    if mcnemar_images(hi, bound, power=power) > outcomes.images:
        return 1.0
    for _ in range(_BISECTIONS):
        middle = (lo + hi) / 2
        if middle == 0.0 or mcnemar_images(middle, bound, power=power) > outcomes.images:
            lo = middle
        else:
            hi = middle
    return hi


def rate_is_known(outcomes: PairedOutcomes) -> bool:
    """Return whether enough images are discordant to estimate their rate within a factor of three."""
    observed = outcomes.discordant / outcomes.images
    return observed > 0.0 and discordance_bound(outcomes) <= _KNOWN_WITHIN * observed


def sample_size_note(outcomes: PairedOutcomes) -> str:
    """Return one sentence with the detectable loss of this number of images, and the number for a loss of interest.

    For example "500 images detect a top-1 loss of 1.9 points or more (power 80 %); about 6,600 detect 0.5 points". If
    the discordance rate is unknown, only an upper bound of the number of images is given.
    """
    limit = _PERCENT * minimum_detectable_difference(outcomes)
    if limit >= _PERCENT:
        said = f"{outcomes.images:,} images are too few to detect a top-1 loss"
    else:
        said = f"{outcomes.images:,} images detect a top-1 loss of {_upwards(limit)} points or more (power 80 %)"
    measured = -_PERCENT * outcomes.delta
    wanted = LOSS_OF_INTEREST if limit > LOSS_OF_INTEREST else measured
    if not 0.0 < wanted < limit:
        return said
    needed = f"{_upwards(images_to_detect(wanted / _PERCENT, outcomes)):,}"
    if rate_is_known(outcomes):
        return f"{said}; about {needed} detect {wanted:.2g} points"
    return (
        f"{said}; how many detect {wanted:.2g} points is unknown, as too few answers differ to estimate it "
        f"(at most {needed})"
    )


def _upwards(value: float) -> float | int:
    """Round up to two significant digits; an int from 10 on."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    rounded = float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}")
    return int(rounded) if rounded >= 10.0 else rounded
