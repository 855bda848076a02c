"""Detects the class numbering of labels from a model's predictions.

ImageNet has two numberings: the sorted WordNet ids from 0, as in models, and the ids of the ILSVRC devkit from 1. If
they are confused, the model or its quantization seems to have failed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from quantkit.data.classes import ilsvrc_order, imagenet_index

# An interpretation is reported only if its gain is significant: minimum standard errors of the paired difference, and
# minimum gain in share of images.
_STANDARD_ERRORS = 5.0
_GAIN = 0.05


@dataclass(frozen=True)
class LabelOrder:
    """An interpretation of the labels that fits the predictions better.

    Attributes:
        fault: description of labels or predictions, to follow "the labels seem".
        fix: how to fix it.
        accuracy: accuracy with the given labels, a fraction.
        accuracy_fixed: accuracy with this interpretation.
    """

    fault: str
    fix: str
    accuracy: float
    accuracy_fixed: float


def find_label_order(predictions: NDArray[np.int64], labels: NDArray[np.int64], outputs: int) -> LabelOrder | None:
    """Return a known mistake in the order of classes that explains the predictions, or None.

    The candidates are labels that are one too large or too small, a background class that shifts the model's outputs,
    and, for models with 1,000 or 1,001 classes, labels or outputs in the order of the ILSVRC devkit. An interpretation
    is returned only if its paired gain is highly significant (five standard errors).

    Args:
        predictions: int64 ``[N]``, the model's top class of each image.
        labels: int64 ``[N]``, the given class of each image.
        outputs: number of classes of the model.
    """
    right = predictions == labels
    readings = [
        (fault, fix, predictions_read == labels_read)
        for fault, fix, predictions_read, labels_read in _readings(predictions, labels, outputs)
    ]
    fault, fix, right_read = max(readings, key=lambda reading: int(reading[2].sum()))
    won, lost = int((right_read & ~right).sum()), int((right & ~right_read).sum())
    if won - lost <= max(_STANDARD_ERRORS * sqrt(won + lost), _GAIN * len(labels)):
        return None
    return LabelOrder(fault, fix, float(right.mean()), float(right_read.mean()))


def _readings(
    predictions: NDArray[np.int64], labels: NDArray[np.int64], outputs: int
) -> Iterator[tuple[str, str, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield fault, fix, predictions and labels of each interpretation."""
    yield "to count from 1 where the model counts from 0", "subtract 1 from each label", predictions, labels - 1
    yield (
        "to lack the background class of the model's output 0",
        "add 1 to each label, or use the model without its background class",
        predictions,
        labels + 1,
    )
    if outputs not in (1000, 1001):
        return
    background = outputs - 1000
    yield (
        "to be ILSVRC ids, which count from 1 in the devkit's order",
        "map them with quantkit imagenet prepare",
        predictions - background,
        _index_of_ilsvrc_id(labels),
    )
    yield (
        "to follow the devkit's order, counted from 0",
        "map them to the order of the sorted WordNet ids",
        predictions - background,
        _index_of_ilsvrc_id(labels + 1),
    )
    yield (
        "right, but the model's outputs to follow the devkit's order",
        "reorder the model's last layer to the sorted WordNet ids",
        _index_of_ilsvrc_id(predictions - background + 1),
        labels,
    )


def _index_of_ilsvrc_id(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the class index of each ILSVRC id; -2, which matches nothing, for invalid ids."""
    table = np.array([imagenet_index()[wnid] for wnid in ilsvrc_order()], np.int64)
    return np.where((ids >= 1) & (ids <= len(table)), table[(ids - 1).clip(0, len(table) - 1)], -2)
