"""Closeness of an int8 model to fp32 on held-back images, the selection metric of a search.

Agreement on a few dozen images hardly separates good models, because it counts only images with a changed top class.
The KL divergence of the softmaxed scores measures the change of each image, but depends mostly on the few images with a
small margin and on their noise. `expected_kl` therefore applies the noise of every image to every image. The SQNR of
the scores, in decibels, weights all images equally, even if some scores are a hundred times as large, and so has less
variance. Both are proportional to the power of the noise, and their geometric mean ranks models more stably than
either.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.engine.device import CPU, Device
from quantkit.engine.scores import scores_of
from quantkit.errors import NumericError
from quantkit.evaluation.predictions import Scores, kind_of_scores, kl_divergence, log_probabilities
from quantkit.evaluation.score_sqnr import as_logits, score_sqnr_db, sqnr_by_image_db
from quantkit.types import Float32Array

# Below this the KL divergence is the rounding of float64; models that near to fp32 are as near as each other.
_LEAST_KL = 1e-14
# OpenBLAS starts threads for more multiplications than this, which wait in loops: on a busy machine they take ten times
# the processor time of the product.
_PRODUCTS = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """Closeness of the scores of an int8 model to those of fp32.

    Attributes:
        kl: mean ``KL(fp32 || int8)`` of the softmaxed scores in nats.
        expected_kl: the same with the noise of every image applied to every image, see `expected_kl`.
        sqnr_db: SQNR of the scores in dB, see `quantkit.evaluation.score_sqnr`.
        agreement: share of the images with the same top class.
    """

    kl: float
    expected_kl: float
    sqnr_db: float
    agreement: float

    @property
    def distance(self) -> float:
        """``sqrt(expected_kl * noise / signal)``, the figure that models are ranked by; smaller is nearer."""
        return math.sqrt(self.expected_kl * 10.0 ** (-self.sqnr_db / 10.0))


def expected_kl(reference: Float32Array, other: Float32Array, kind: Scores = Scores.LOGITS) -> float:
    """Return the mean KL divergence, in nats, over all pairs of an image and the noise of another.

    ``KL(softmax(y) || softmax(y + e)) = (sum_c p_c e_c^2 - (sum_c p_c e_c)^2) / 2`` to second order in the noise e,
    with ``p = softmax(y)``. Noise grows with the scores, so image i gets the noise of image j times ``s_i / s_j``; s is
    the norm of an image's centered scores, or the median norm if that is larger.

    Args:
        reference: scores of fp32, ``[images, classes]``.
        other: scores to compare, of the same shape.
        kind: kind of the scores; logarithms of probabilities are used.
    """
    return max(float(_kl_of_pairs(reference, other, kind).mean()), 0.0)


def _kl_of_pairs(reference: Float32Array, other: Float32Array, kind: Scores) -> npt.NDArray[np.float64]:
    """Return the KL divergence of image i with the noise of image j, float64 ``[images, images]``."""
    log_p = log_probabilities(reference, kind)
    noise = _centered(log_probabilities(other, kind) - log_p)
    size = np.linalg.norm(_centered(log_p), axis=1, keepdims=True)
    size = np.maximum(size, np.median(size))
    relative, p = noise / np.where(size > 0.0, size, 1.0), np.exp(log_p)
    pairs = _products(p, np.square(relative)) - np.square(_products(p, relative))
    return np.asarray(pairs * np.square(size) / 2.0)


def _products(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return ``a @ b.T``, block by block."""
    size = max(math.isqrt(_PRODUCTS // max(a.shape[1], 1)), 1)
    places = range(0, len(a), size)
    return np.block([[a[row : row + size] @ b[column : column + size].T for column in places] for row in places])


def _centered(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return rows minus their means, on which softmax does not depend."""
    return np.asarray(rows - rows.mean(axis=1, keepdims=True))


def closeness(reference: Float32Array, scores: Float32Array) -> Closeness:
    """Return the closeness of scores to those of fp32; both ``[images, classes]``.

    Raises:
        NumericError: a score is NaN or infinite.
    """
    if not np.isfinite(scores).all():
        raise NumericError("the scores contain NaN or infinity", fix="check the model's ranges")
    kind = kind_of_scores(reference)
    return Closeness(
        kl=float(kl_divergence(reference, scores, kind=kind).mean()),
        expected_kl=expected_kl(reference, scores, kind),
        sqnr_db=score_sqnr_db(reference, scores),
        agreement=float((scores.argmax(axis=1) == reference.argmax(axis=1)).mean()),
    )


@dataclass(frozen=True, eq=False)
class DistanceEstimate:
    """A distance from fp32 and how it depends on each image, so that two models can be compared on the same images.

    Attributes:
        log: natural logarithm of `Closeness.distance`, infinite where scores are NaN or infinite.
        without: float64 ``[images]``, the same without each of the images in turn.
    """

    log: float
    without: npt.NDArray[np.float64]

    def standard_error(self, other: "DistanceEstimate") -> float:
        """Return the standard error of the difference of both logarithms: the jackknife over the images.

        For n images, ``sqrt((n - 1) / n * sum over i of (d_i - mean d)^2)`` with d_i the difference without image i
        (Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, section 3).
        """
        left, count = self.without - other.without, self.without.size
        return math.sqrt((count - 1) / count * float(np.square(left - left.mean()).sum()))

    def exceeds(self, other: "DistanceEstimate", confidence: float) -> bool:
        """Return whether this distance is larger beyond chance: Student's t test of the difference of the logarithms.

        Args:
            other: of another model on the same images.
            confidence: one-sided, 0.5 to 1.
        """
        chance = student_quantile(confidence, self.without.size - 1) * self.standard_error(other)
        return self.log - other.log > chance


def is_gain(differences: npt.NDArray[np.float64], confidence: float) -> bool:
    """Return whether the mean of paired differences is above zero beyond chance: Student's t test.

    Args:
        differences: float64 ``[images]``, one for each of at least two images.
        confidence: one-sided, 0.5 to 1.
    """
    count = differences.size
    chance = student_quantile(confidence, count - 1) * float(differences.std(ddof=1)) / math.sqrt(count)
    return float(differences.mean()) > chance


def student_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution: to 1 % from 4 degrees of freedom on, to 2 % for 0.84 from 1 on.

    The expansion in powers of 1 / freedom of Fisher and Cornish (The Percentile Points of Distributions Having Known
    Cumulants, 1960); scipy would take longer to import than a comparison of models takes.

    Args:
        probability: between 0 and 1, exclusively.
        freedom: degrees of freedom, at least 1.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))


def distance_estimate(reference: Float32Array, scores: Float32Array) -> DistanceEstimate:
    """Return the distance of scores from those of fp32 with what each image contributes.

    Args:
        reference: scores of fp32, ``[images, classes]``, of at least two images.
        scores: to compare, of the same shape.
    """
    count = len(reference)
    if not np.isfinite(scores).all():
        return DistanceEstimate(math.inf, np.full(count, math.inf))
    pairs = _kl_of_pairs(reference, scores, kind_of_scores(reference))
    of_image = pairs.sum(axis=0) + pairs.sum(axis=1) - pairs.diagonal()
    kl = np.append((pairs.sum() - of_image) / (count - 1) ** 2, pairs.mean())
    sqnr_db = sqnr_by_image_db(reference, scores)
    mean_db = np.append((sqnr_db.sum() - sqnr_db) / (count - 1), sqnr_db.mean())
    logs = (np.log(np.maximum(kl, _LEAST_KL)) - mean_db * math.log(10.0) / 10.0) / 2.0
    return DistanceEstimate(float(logs[-1]), logs[:-1])


def without_mean_change(reference: Float32Array, scores: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Return both as logits, the second minus the mean change of each class, which bias correction removes.

    Args:
        reference: scores of fp32, ``[images, classes]``.
        scores: finite scores to compare, of the same shape.
    """
    reference, scores = as_logits(reference, scores)  # biases act before the softmax
    drift = (scores - reference).mean(axis=0, dtype=np.float64)
    return reference, (scores - drift).astype(np.float32)


class SelectionMetric:
    """The selection split, with the scores of fp32 on it.

    Args:
        prepared: the fp32 model.
        images: ``[N, C, H, W]`` each.
        threads: images run side by side.
        device: where all models run, fp32 too.

    Raises:
        ModelError: the model cannot be run.
        DeviceError: the device does not run the model.
    """

    def __init__(
        self, prepared: ir.Model, images: Sequence[Float32Array], *, threads: int, device: Device = CPU
    ) -> None:
        self._prepared, self._images, self._threads, self._device = prepared, images, threads, device
        self._reference = scores_of(prepared, images, threads=threads, device=device)

    def closeness(self, model: ir.Model) -> Closeness:
        """Measure a model.

        Raises:
            ModelError: the model cannot be run.
            NumericError: the scores are NaN or infinite.
        """
        return closeness(self._reference, self._scores(model))

    def distance_if_corrected(self, model: ir.Model) -> float:
        """Return the distance of a model with simulated bias correction; infinite if its scores are not finite.

        Raises:
            ModelError: the model cannot be run.
        """
        scores = self._scores(model)
        if not np.isfinite(scores).all():
            return math.inf
        return closeness(*without_mean_change(self._reference, scores)).distance

    def largest_change(self, model: ir.Model) -> float:
        """Return the largest difference of any score to fp32, as a share of the span of fp32's scores.

        Both run on the CPU, because a device may compute with reduced precision.
        """
        reference = self._cpu_reference
        span = float(np.ptp(reference))
        change = float(np.abs(scores_of(model, self._images, threads=self._threads) - reference).max())
        return change / span if span > 0.0 else change

    @cached_property
    def _cpu_reference(self) -> Float32Array:
        if self._device.is_cpu:
            return self._reference
        return scores_of(self._prepared, self._images, threads=self._threads)

    def _scores(self, model: ir.Model) -> Float32Array:
        return scores_of(model, self._images, threads=self._threads, device=self._device)
