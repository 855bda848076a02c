"""How near an int8 model comes to fp32 on images that had no part in making it: what a search chooses by.

Agreement on a few dozen images hardly tells good models apart: it sees only the answers that tipped over. The
divergence of the answers counts how far each moved, but hangs on the few that are easily tipped, and on the noise that
these happen to meet. So every answer is asked what the noise of every image would do to it. The noise of the scores
relative to their signal, in decibels, counts all images alike, also beside some whose scores are a hundred times as
large, and so strays less by chance. Both follow the power of the noise, and the geometric mean of the two ranks models
steadier than either.
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
    """How near the answers of an int8 model are to those of fp32.

    Attributes:
        kl: mean ``KL(fp32 || int8)`` of the softmaxed scores in nats.
        expected_kl: the same as `expected_kl` finds it, every image with the noise of every image.
        sqnr_db: SQNR of the scores in dB, the mean over the images.
        agreement: share of the images with the same first class.
    """

    kl: float
    expected_kl: float
    sqnr_db: float
    agreement: float

    @property
    def distance(self) -> float:
        """``sqrt(expected_kl * noise / signal)``, what models are ranked by: less is nearer."""
        return math.sqrt(self.expected_kl * 10.0 ** (-self.sqnr_db / 10.0))


def mean_sqnr_db(reference: Float32Array, other: Float32Array) -> float:
    """Return the mean of the images' SQNR in dB, infinite where all scores, ``[images, classes]``, are equal."""
    return math.inf if np.array_equal(reference, other) else float(sqnr_by_image_db(reference, other).mean())


def expected_kl(reference: Float32Array, other: Float32Array, kind: Scores = Scores.LOGITS) -> float:
    """Return the mean over all pairs of images of what the noise of one does to the answer of the other, in nats.

    ``KL(softmax(y) || softmax(y + e)) = (sum_c p_c e_c^2 - (sum_c p_c e_c)^2) / 2`` to second order in the noise e,
    with ``p = softmax(y)``. Where scores are large noise is, too, so image i meets that of image j ``s_i / s_j`` times;
    s is the norm of an image's scores less their mean, or the median norm where that is more.

    Args:
        reference: scores of fp32, ``[images, classes]``.
        other: scores to compare, likewise.
        kind: of the scores; of probabilities, the logarithms count.
    """
    log_p = log_probabilities(reference, kind)
    noise = _shifted(log_probabilities(other, kind) - log_p)
    size = np.linalg.norm(_shifted(log_p), axis=1, keepdims=True)
    size = np.maximum(size, np.median(size))
    relative, p = noise / np.where(size > 0.0, size, 1.0), np.exp(log_p)
    pairs = p @ np.square(relative).T - np.square(p @ relative.T)
    return max(float((pairs * np.square(size)).mean()) / 2.0, 0.0)


def _shifted(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return rows less the mean of each, which softmax does not see."""
    return np.asarray(rows - rows.mean(axis=1, keepdims=True))


def closeness(reference: Float32Array, scores: Float32Array) -> Closeness:
    """Return how near scores are to those of fp32; both ``[images, classes]``.

    Raises:
        NumericError: a score is NaN or infinite.
    """
    if not np.isfinite(scores).all():
        raise NumericError("the scores hold NaN or infinity", fix="look at the model's ranges")
    kind = kind_of_scores(reference)
    return Closeness(
        kl=float(kl_divergence(reference, scores, kind=kind).mean()),
        expected_kl=expected_kl(reference, scores, kind),
        sqnr_db=mean_sqnr_db(reference, scores),
        agreement=float((scores.argmax(axis=1) == reference.argmax(axis=1)).mean()),
    )


class SelectionMetric:
    """The images that choose, with what fp32 says of them.

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
            ModelError: it cannot be run.
            NumericError: its scores are NaN or infinite.
        """
        return closeness(self._reference, scores_of(model, self._images, threads=self._threads))

    def largest_change(self, model: ir.Model) -> float:
        """Return the largest difference of any score to fp32's, as a share of the span of all its scores."""
        span = float(np.ptp(self._reference))
        change = float(np.abs(scores_of(model, self._images, threads=self._threads) - self._reference).max())
        return change / span if span > 0.0 else change
