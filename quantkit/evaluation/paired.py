"""Paired statistics of two classifiers on the same images.

Everything rests on the images that only one of the two gets right. With ``lost`` of them right in the reference alone
and ``gained`` right in the candidate alone, of n images, the difference of the accuracies is ``(gained - lost) / n``;
images that both get right or both get wrong say nothing about its sign.

Shares are fractions of 1 here; `quantkit.evaluation.result` turns them into percent.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

BoolArray = npt.NDArray[np.bool_]
Float64Array = npt.NDArray[np.float64]

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

    def scaled(self, factor: float) -> "Interval":
        """Return the interval times a positive factor."""
        return Interval(self.lo * factor, self.hi * factor)


@dataclass(frozen=True)
class PairedOutcomes:
    """How often each of two models is right, counted over the same images.

    Attributes:
        images: number of images, at least 1.
        lost: right in the reference alone.
        gained: right in the candidate alone.
    """

    images: int
    lost: int
    gained: int

    def __post_init__(self) -> None:
        if self.images < 1 or self.lost < 0 or self.gained < 0 or self.lost + self.gained > self.images:
            raise ValueError(f"no such outcomes: {self}")

    @classmethod
    def of(cls, reference: BoolArray, candidate: BoolArray) -> "PairedOutcomes":
        """Count from which images each model got right, bool ``[N]`` both."""
        if reference.shape != candidate.shape:
            raise ValueError("both models need an answer for every image")
        return cls(reference.size, int((reference & ~candidate).sum()), int((candidate & ~reference).sum()))

    @property
    def delta(self) -> float:
        """Accuracy of the candidate minus that of the reference."""
        return (self.gained - self.lost) / self.images

    @property
    def discordant(self) -> int:
        """Images that exactly one of the models gets right."""
        return self.lost + self.gained


def score_interval(outcomes: PairedOutcomes, confidence: float = CONFIDENCE) -> Interval:
    """Return the asymptotic score interval of the paired difference (Tango, Statistics in Medicine 17:891-908, 1998).

    It holds every ``d`` in [-1, 1] with ``(gained - lost - n d)^2 <= z^2 n (2 q + d (1 - d))``, where ``q`` is the
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

    Drawing n images with replacement is one multinomial draw over (lost, gained, rest), so that is what is drawn.
    With no discordant image every resample is the same and the interval is the point 0: read `score_interval` then.
    """
    n = outcomes.images
    shares = np.asarray([outcomes.lost, outcomes.gained, n - outcomes.discordant]) / n
    draws = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    lo, hi = np.quantile((draws[:, 1] - draws[:, 0]) / n, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(lo), float(hi))


def mcnemar_exact(outcomes: PairedOutcomes) -> float:
    """Return McNemar's exact two-sided p: could a fair coin have split the discordant images so unevenly?

    Twice the smaller binomial tail, at most 1; 1 where no image is discordant.
    """
    if outcomes.discordant == 0:
        return 1.0
    return float(stats.binomtest(outcomes.lost, outcomes.discordant, 0.5).pvalue)


def wilson_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the score interval of a single proportion (Wilson, JASA 22:209-212, 1927); [0, 1] without trials."""
    if trials == 0:
        return Interval(0.0, 1.0)
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def mean_interval(values: Float64Array, confidence: float = CONFIDENCE) -> Interval:
    """Return Student's interval of a mean of per-image values; the mean itself for a single image."""
    mean = float(values.mean())
    if values.size < 2:
        return Interval(mean, mean)
    half = float(stats.t.ppf((1 + confidence) / 2, values.size - 1) * values.std(ddof=1) / math.sqrt(values.size))
    return Interval(mean - half, mean + half)


def _normal_quantile(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"a confidence lies in (0, 1), not {confidence}")
    return float(stats.norm.ppf((1 + confidence) / 2))


def _boundary(inner: float, outer: float, inside: Callable[[float], bool]) -> float:
    """Bisect between a point inside and an end that may be outside; the set between is connected."""
    if inside(outer):
        return outer
    for _ in range(_BISECTIONS):
        middle = (inner + outer) / 2
        inner, outer = (middle, outer) if inside(middle) else (inner, middle)
    return inner
