"""Calibration of a model's confidence, and the rate of changed classes by margin."""

from dataclasses import dataclass

import numpy as np

from quantkit.evaluation.paired import Interval, wilson_interval
from quantkit.evaluation.predictions import Predictions

ECE_BINS = 15
MARGIN_BINS = 10


@dataclass(frozen=True)
class MarginBin:
    """The images with an fp32 margin in ``[lo, hi]``.

    Attributes:
        lo: smallest margin in the bin, nats.
        hi: largest margin in the bin, nats.
        images: number of images.
        flips: number of images that the candidate puts in another class.
        interval: 95 % interval of the share of such images.
    """

    lo: float
    hi: float
    images: int
    flips: int
    interval: Interval

    @property
    def rate(self) -> float:
        """Share of the images with a changed class."""
        return self.flips / self.images


def expected_calibration_error(predictions: Predictions, bins: int = ECE_BINS) -> float:
    """Return the mean gap between confidence and accuracy, a fraction (Guo et al., ICML 2017, eq. 3).

    Images are grouped into equal bins of confidence over (0, 1]; the gap ``|accuracy - mean confidence|`` of each bin
    is weighted by its share of the images.

    Raises:
        LabelError: the true classes are not known.
    """
    correct = predictions.correct()
    place = np.clip(np.ceil(predictions.confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    right = np.bincount(place, weights=correct, minlength=bins)
    confidence = np.bincount(place, weights=predictions.confidence, minlength=bins)
    return float(np.abs(right - confidence).sum() / len(predictions))


def flips_by_margin(reference: Predictions, candidate: Predictions, bins: int = MARGIN_BINS) -> tuple[MarginBin, ...]:
    """Return how often the candidate changes the class by the reference's margin, in bins with equal numbers of images.

    The margin (log-odds of the first class against the second) is the noise on the logits that a decision tolerates;
    the bins are sorted from the smallest margin to the largest.
    """
    order = np.argsort(reference.margin, kind="stable")
    changed = (reference.top1 != candidate.top1)[order]
    margins = reference.margin[order]
    pieces = np.array_split(np.arange(order.size), min(bins, order.size))
    return tuple(
        MarginBin(
            lo=float(margins[piece[0]]),
            hi=float(margins[piece[-1]]),
            images=piece.size,
            flips=int(changed[piece].sum()),
            interval=wilson_interval(int(changed[piece].sum()), piece.size),
        )
        for piece in pieces
    )
