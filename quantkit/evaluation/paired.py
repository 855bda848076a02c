"""Paired statistics of two classifiers on the same images.

The statistics depend on the discordant images, which only one of the two predicts correctly. With ``lost`` images
correct only in the reference and ``gained`` correct only in the candidate, of n images, the difference of the
accuracies is ``(gained - lost) / n``.

Shares are fractions of 1 here; `quantkit.evaluation.result` converts them to percent.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from quantkit.types import BoolArray, Float64Array

CONFIDENCE = 0.95
BOOTSTRAP_RESAMPLES = 10_000
# Bisection halves an interval of length at most 2 down to the spacing of float64 around 1.
_BISECTIONS = 55


@dataclass(frozen=True)
class Interval:
    """A confidence interval ``[lo, hi]``.

    Example:
        >>> import quantkit
        >>> quantkit.Interval(-0.5, 0.25).hi
        0.25
    """

    lo: float
    hi: float

    def __contains__(self, value: float) -> bool:
        return self.lo <= value <= self.hi

    def to_json(self) -> list[float]:
        """Return ``[lo, hi]``."""
        return [self.lo, self.hi]

    def scaled(self, factor: float) -> "Interval":
        """Return the interval times a positive factor."""
        return Interval(self.lo * factor, self.hi * factor)


@dataclass(frozen=True)
class PairedOutcomes:
    """Paired outcomes of two models on the same images.

    Attributes:
        images: number of images, at least 1.
        lost: number of images that are correct only in the reference.
        gained: number of images that are correct only in the candidate.
    """

    images: int
    lost: int
    gained: int

    def __post_init__(self) -> None:
        if self.images < 1 or self.lost < 0 or self.gained < 0 or self.lost + self.gained > self.images:
            raise ValueError(f"no such outcomes: {self}")

    @classmethod
    def of(cls, reference: BoolArray, candidate: BoolArray) -> "PairedOutcomes":
        """Count outcomes from bool ``[N]`` arrays of correct predictions."""
        if reference.shape != candidate.shape:
            raise ValueError("both models need a prediction for every image")
        return cls(reference.size, int((reference & ~candidate).sum()), int((candidate & ~reference).sum()))

    @property
    def delta(self) -> float:
        """Accuracy of the candidate minus that of the reference."""
        return (self.gained - self.lost) / self.images

    @property
    def discordant(self) -> int:
        """Number of images that exactly one of the models predicts correctly."""
        return self.lost + self.gained


def score_interval(outcomes: PairedOutcomes, confidence: float = CONFIDENCE) -> Interval:
    """Return the asymptotic score interval of the paired difference (Tango, Statistics in Medicine 17:891-908, 1998).

    It contains every ``d`` in [-1, 1] with ``(gained - lost - n d)^2 <= z^2 n (2 q + d (1 - d))``, where ``q`` is the
    maximum likelihood estimate of the probability of losing an image given ``d``: the larger root of
    ``2 n q^2 + B q + C`` with ``B = (2 n - gained + lost) d - gained - lost`` and ``C = -lost d (1 - d)``.
    Unlike the textbook interval ``delta +- z s`` it keeps its coverage with few or no discordant images, and unlike the
    bootstrap it needs no random numbers.
    """
    z = _normal_quantile(confidence)
    n, lost, gained = outcomes.images, outcomes.lost, outcomes.gained

    def inside(d: float) -> bool:
        b = (2 * n - gained + lost) * d - gained - lost
        c = -lost * d * (1 - d)
        q = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        return (gained - lost - n * d) ** 2 <= z * z * n * max(2 * q + d * (1 - d), 0.0)

    return Interval(_boundary(outcomes.delta, -1.0, inside), _boundary(outcomes.delta, 1.0, inside))


def bootstrap_interval(
    outcomes: PairedOutcomes,
    confidence: float = CONFIDENCE,
    *,
    seed: int = 0,
    resamples: int = BOOTSTRAP_RESAMPLES,
) -> Interval:
    """Return the percentile interval of the paired bootstrap (Efron and Tibshirani 1993, chapter 13).

    Drawing n images with replacement is equivalent to one multinomial draw over (lost, gained, rest). Without
    discordant images every resample is the same and the interval is the point 0; use `score_interval` in this case.
    """
    n = outcomes.images
    shares = np.asarray([outcomes.lost, outcomes.gained, n - outcomes.discordant]) / n
    draws = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    lo, hi = np.quantile((draws[:, 1] - draws[:, 0]) / n, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(lo), float(hi))


def mcnemar_exact(outcomes: PairedOutcomes) -> float:
    """Return McNemar's exact two-sided p of the split of the discordant images.

    Twice the smaller binomial tail, at most 1; 1 without discordant images.
    """
    if outcomes.discordant == 0:
        return 1.0
    tail, ways = 0, 1  # in integers, so that the result is rounded once
    for images in range(min(outcomes.lost, outcomes.gained) + 1):
        tail += ways
        ways = ways * (outcomes.discordant - images) // (images + 1)
    return min(tail / (1 << (outcomes.discordant - 1)), 1.0)


def wilson_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the score interval of a single proportion (Wilson, JASA 22:209-212, 1927); [0, 1] without trials."""
    if trials == 0:
        return Interval(0.0, 1.0)
    z, p = _normal_quantile(confidence), successes / trials
    denominator = 2 * (trials + z**2)
    center = (2 * trials * p + z**2) / denominator
    half = z / denominator * math.sqrt(4 * trials * p * (1 - p) + z**2)
    return Interval(center - half if successes else 0.0, center + half if successes < trials else 1.0)


def mean_interval(values: Float64Array, confidence: float = CONFIDENCE) -> Interval:
    """Return Student's interval of a mean of per-image values; the mean itself for a single image."""
    mean = float(values.mean())
    if values.size < 2:
        return Interval(mean, mean)
    half = float(special.stdtrit(values.size - 1, (1 + confidence) / 2) * values.std(ddof=1) / math.sqrt(values.size))
    return Interval(mean - half, mean + half)


def _normal_quantile(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"a confidence must be in (0, 1), not {confidence}")
    return float(special.ndtri((1 + confidence) / 2))


def _boundary(inner: float, outer: float, inside: Callable[[float], bool]) -> float:
    """Bisect between a point inside and an end that may be outside; the set between is connected."""
    if inside(outer):
        return outer
    for _ in range(_BISECTIONS):
        middle = (inner + outer) / 2
        inner, outer = (middle, outer) if inside(middle) else (inner, middle)
    return inner
