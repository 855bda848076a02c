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

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.engine.scores import scores_of, sqnr_by_image_db
from quantkit.errors import NumericError
from quantkit.evaluation.predictions import Scores, kind_of_scores, kl_divergence, log_probabilities
from quantkit.types import Float32Array


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """Closeness of the scores of an int8 model to those of fp32.

    Attributes:
        kl: mean ``KL(fp32 || int8)`` of the softmaxed scores in nats.
        expected_kl: the same with the noise of every image applied to every image, see `expected_kl`.
        sqnr_db: SQNR of the scores in dB, the mean over the images.
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


def mean_sqnr_db(reference: Float32Array, other: Float32Array) -> float:
    """Return the mean of the images' SQNR in dB, infinite if all scores, ``[images, classes]``, are equal."""
    return math.inf if np.array_equal(reference, other) else float(sqnr_by_image_db(reference, other).mean())


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
    log_p = log_probabilities(reference, kind)
    noise = _centered(log_probabilities(other, kind) - log_p)
    size = np.linalg.norm(_centered(log_p), axis=1, keepdims=True)
    size = np.maximum(size, np.median(size))
    relative, p = noise / np.where(size > 0.0, size, 1.0), np.exp(log_p)
    pairs = p @ np.square(relative).T - np.square(p @ relative.T)
    return max(float((pairs * np.square(size)).mean()) / 2.0, 0.0)


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
        sqnr_db=mean_sqnr_db(reference, scores),
        agreement=float((scores.argmax(axis=1) == reference.argmax(axis=1)).mean()),
    )


def without_mean_change(reference: Float32Array, scores: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Return both as logits, the second minus the mean change of each class, which bias correction removes.

    Args:
        reference: scores of fp32, ``[images, classes]``.
        scores: finite scores to compare, of the same shape.
    """
    if kind_of_scores(reference) is Scores.PROBABILITIES:  # biases act before the softmax
        reference, scores = (
            log_probabilities(one, Scores.PROBABILITIES).astype(np.float32) for one in (reference, scores)
        )
    drift = (scores - reference).mean(axis=0, dtype=np.float64)
    return reference, (scores - drift).astype(np.float32)


class SelectionMetric:
    """The selection split, with the scores of fp32 on it.

    Args:
        prepared: the fp32 model.
        images: ``[N, C, H, W]`` each.
        threads: images run side by side.

    Raises:
        ModelError: the model cannot be run.
    """

    def __init__(self, prepared: ir.Model, images: Sequence[Float32Array], *, threads: int) -> None:
        self._images, self._threads = images, threads
        self._reference = scores_of(prepared, images, threads=threads)

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
        """Return the largest difference of any score to fp32, as a share of the span of fp32's scores."""
        span = float(np.ptp(self._reference))
        change = float(np.abs(self._scores(model) - self._reference).max())
        return change / span if span > 0.0 else change

    def _scores(self, model: ir.Model) -> Float32Array:
        return scores_of(model, self._images, threads=self._threads)
