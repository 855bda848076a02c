"""Which numbering of the classes do labels follow? Told from a model's own predictions.

ImageNet is numbered in two ways: by the sorted WordNet ids, from 0, as models do, and by the ILSVRC devkit, from 1.
Mixed up they look like a model, or a quantization, that failed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from quantkit.data.classes import ilsvrc_order, imagenet_index

# A reading replaces the one given only when it explains the images far beyond chance: standard errors of the paired
# difference, and a gain in share of images.
_STANDARD_ERRORS = 5.0
_GAIN = 0.05


@dataclass(frozen=True)
class LabelOrder:
    """A reading of the labels under which the predictions make more sense.

    Attributes:
        fault: what the labels or predictions seem to be, in words that follow "the labels seem".
        fix: what to do about it.
        accuracy: share of images predicted right as the labels were given.
        accuracy_fixed: the same under this reading.
    """

    fault: str
    fix: str
    accuracy: float
    accuracy_fixed: float


def find_label_order(predictions: NDArray[np.int64], labels: NDArray[np.int64], outputs: int) -> LabelOrder | None:
    """Return the known mistake in the order of classes that the predictions betray, or None.

    Tried are labels that count one too many or too few, a background class that shifts the model's outputs, and, for
    models of 1,000 or 1,001 classes, labels or outputs in the order of the ILSVRC devkit. A reading is named only when
    it is better by far more than chance: compared image by image, by five standard errors.

    Args:
        predictions: int64 ``[N]``, the model's best class of each image.
        labels: int64 ``[N]``, the class of each image as given.
        outputs: number of the model's classes.
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
    """Yield fault, fix, predictions and labels of each reading."""
    yield "to count from 1 where the model counts from 0", "subtract 1 from each label", predictions, labels - 1
    yield (
        "to lack the background class that the model's output 0 stands for",
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
    """Return the class index of each ILSVRC id; -2, which nothing equals, for what is no such id."""
    table = np.array([imagenet_index()[wnid] for wnid in ilsvrc_order()], np.int64)
    return np.where((ids >= 1) & (ids <= len(table)), table[(ids - 1).clip(0, len(table) - 1)], -2)
