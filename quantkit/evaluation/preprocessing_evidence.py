"""How much better one preprocessing is than another on the same images: with labels by correctness, without by scores.

Without labels nothing says whether an answer is right. Used instead is the information in the scores: the entropy of
the mean prediction less the mean entropy of the predictions, in nats. A model that is fed as it was trained is
confident, and of different classes for different images. Two things would mislead, and are taken out:

- Confidence grows with the size of the scores, and these grow with the values that a network of convolutions and ReLUs
  reads: SqueezeNet is 60 % confident when fed as it was trained, and 95 % without the division by 255. So the scores of
  both sides are brought to the same spread first, and to one at which predictions are neither certain nor uniform.
- A model may be confident of one class for all images; the entropy of the mean prediction counts that.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from quantkit.errors import LabelError
from quantkit.evaluation.paired import Interval, PairedOutcomes, mcnemar_exact, mean_interval, score_interval
from quantkit.evaluation.predictions import Scores, log_probabilities
from quantkit.types import BoolArray, Float64Array, FloatArray, IntArray

EvidenceKind = Literal["labels", "scores"]

# Log probability of an image whose scores are not finite: some preprocessings let a model overflow.
_OVERFLOWED = -100.0
_PERCENT = 100.0
# Mean entropy at which predictions are compared, as a share of that of a uniform one.
_ENTROPY = 0.3
_MOST_SPREAD = 100.0
_BISECTIONS = 20


@dataclass(frozen=True)
class Answers:
    """What a model said of images under one preprocessing.

    Attributes:
        log_p: float64 ``[N, classes]``, log probabilities of the classes.
        finite: bool ``[N]``, the model's scores were numbers.
        labels: int64 ``[N]``, the true classes, or None where they are not known.
    """

    log_p: Float64Array
    finite: BoolArray
    labels: IntArray | None = None

    @classmethod
    def of(cls, scores: FloatArray, kind: Scores, labels: IntArray | None) -> "Answers":
        """Return the answers of scores ``[N, classes]``.

        Raises:
            LabelError: a label is no class of the model.
        """
        if labels is not None and labels.size and int(labels.max()) >= scores.shape[1]:
            raise LabelError(
                f"the labels go up to {labels.max()}, and the model has {scores.shape[1]} classes",
                fix="give images of the model's data set, with labels from 0",
            )
        finite = np.asarray(np.isfinite(scores).all(axis=1))
        log_p = log_probabilities(np.where(finite[:, None], scores, 1.0 / scores.shape[1]), kind)
        return cls(log_p, finite, labels)

    def __len__(self) -> int:
        return len(self.finite)

    @property
    def correct(self) -> BoolArray:
        """Whether the best class is the true one, bool ``[N]``; never where the scores were no numbers."""
        assert self.labels is not None
        right: BoolArray = self.finite & (self.log_p.argmax(axis=1) == self.labels)
        return right

    @property
    def log_likelihood(self) -> Float64Array:
        """Log probability of the true class in nats, float64 ``[N]``."""
        assert self.labels is not None
        found = self.log_p[np.arange(len(self)), self.labels]
        return np.where(self.finite, np.maximum(found, _OVERFLOWED), _OVERFLOWED)

    @property
    def logits(self) -> Float64Array:
        """Scores with mean 0 in each row and root mean square 1 over all, float64 ``[N, classes]``."""
        centered = self.log_p - self.log_p.mean(axis=1, keepdims=True)
        spread = math.sqrt(float(np.square(centered).mean()))
        scaled: Float64Array = centered / spread if spread > 0.0 else centered
        return scaled


@dataclass(frozen=True)
class Contrast:
    """One preprocessing against another, image by image.

    Attributes:
        images: how many images both were tried on.
        reference: of the preprocessing that the other is compared with: top-1 in percent; without labels, the
            information in its scores in nats, at the spread that is common to both.
        value: the same of the other one.
        ci95: 95 % interval of the difference.
        p: two-sided, not corrected for the number of comparisons: McNemar's exact test with labels, Wilcoxon's signed
            ranks without.
        gain: mean difference of the log probability of the true class; without labels, of the information. In nats.
        trend: the same in standard errors: what decides whether more images are worth while. Infinite where it is the
            same for all images, 0 where there is none.
        outcomes: how many images only one of the two gets right; None without labels.
    """

    images: int
    reference: float
    value: float
    ci95: Interval
    p: float
    gain: float
    trend: float
    outcomes: PairedOutcomes | None = None

    @property
    def difference(self) -> float:
        """The other one less the reference."""
        return self.value - self.reference


def contrast(reference: Answers, other: Answers) -> Contrast:
    """Compare two preprocessings by the answers to the same images."""
    if reference.labels is None:
        before, after = information(reference, other)
        gained = after - before
        values = before.mean(), after.mean()
        ci95, p = mean_interval(gained), _wilcoxon(gained)
        outcomes = None
    else:
        gained = other.log_likelihood - reference.log_likelihood
        outcomes = PairedOutcomes.of(reference.correct, other.correct)
        values = _PERCENT * reference.correct.mean(), _PERCENT * other.correct.mean()
        ci95, p = score_interval(outcomes).scaled(_PERCENT), _mcnemar(outcomes.lost, outcomes.gained)
    return Contrast(
        images=len(reference),
        reference=float(values[0]),
        value=float(values[1]),
        ci95=ci95,
        p=p,
        gain=float(gained.mean()),
        trend=_in_standard_errors(gained),
        outcomes=outcomes,
    )


def information(*answers: Answers) -> list[Float64Array]:
    """Return for each of the answers the information in the prediction of each image, in nats, float64 ``[N]``.

    That is the divergence of the prediction from the mean prediction. The scores of all are brought to one spread, at
    which the mean entropy of all predictions is `_ENTROPY` of what it can be at most.
    """
    logits = [one.logits for one in answers]
    most = math.log(logits[0].shape[1])
    lo, hi = 0.0, _MOST_SPREAD
    for _ in range(_BISECTIONS):
        middle = (lo + hi) / 2
        if np.mean([_entropy(middle * one) for one in logits]) > _ENTROPY * most:
            lo = middle
        else:
            hi = middle
    found = []
    for one, scores in zip(answers, logits, strict=True):
        log_p = log_probabilities(hi * scores)
        p = np.exp(log_p)
        mean = np.maximum(p.mean(axis=0), np.finfo(np.float64).tiny)
        found.append(np.where(one.finite, (p * (log_p - np.log(mean))).sum(axis=1), 0.0))
    return found


def least_p(images: int, gained: int) -> float:
    """Return McNemar's p where so many images are gained and none is lost."""
    return _mcnemar(0, min(gained, images))


@lru_cache(maxsize=4096)
def _mcnemar(lost: int, gained: int) -> float:
    """Return McNemar's exact p, which depends on the images that differ alone; searches ask for the same ones often."""
    return mcnemar_exact(PairedOutcomes(max(lost + gained, 1), lost, gained))


def _in_standard_errors(values: Float64Array) -> float:
    mean, spread = float(values.mean()), float(values.std())
    if mean == 0.0:
        return 0.0
    return math.copysign(math.inf, mean) if spread == 0.0 else mean / spread * math.sqrt(len(values))


def _entropy(logits: Float64Array) -> float:
    log_p = log_probabilities(logits)
    return float(-(np.exp(log_p) * log_p).sum(axis=1).mean())


def _wilcoxon(values: Float64Array) -> float:
    from scipy import stats  # slow to import, and images mostly have labels

    return float(stats.wilcoxon(values).pvalue) if np.any(values) else 1.0
