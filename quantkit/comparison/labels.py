"""Is a poor fp32 accuracy the model's, or do the labels count the classes differently?

Asked before any loss is put on int8: an off-by-one label file or an alphabetical class order looks like total failure.
"""

import numpy as np
from scipy import optimize

from quantkit.comparison.predictions import Predictions

# A hint is given only where another reading of the labels explains the images far better than the one given.
FAR_BETTER = 0.30
# And where it explains at least so many more: of three images one is soon explained by anything.
FEWEST = 10
IMAGES_PER_CLASS = 4


def label_problem(predictions: Predictions) -> str | None:
    """Return what seems wrong with the labels of a float model's answers, in one sentence, or None.

    Tried are labels that count from another number (background class first or left out), and labels in another order.
    The order is learnt on half of each class and judged on the other half, so that a poor model does not pass for one.

    Raises:
        LabelError: the true classes are not known.
    """
    accuracy = float(predictions.correct().mean())
    assert predictions.labels is not None  # correct() has refused predictions without
    readings = [
        (_shifted_accuracy(predictions, 1), "count from another number", "+1 on every label"),
        (_shifted_accuracy(predictions, -1), "count from another number", "-1 on every label"),
        (_accuracy_in_another_order(predictions), "number the classes in another order", "the classes renamed"),
    ]
    best, fault, remedy = max(readings, key=lambda reading: reading[0])
    if best - accuracy < max(FAR_BETTER, FEWEST / len(predictions)):
        return None
    return f"the labels seem to {fault}: top-1 is {100 * accuracy:.1f} % as given and {100 * best:.1f} % with {remedy}"


def _shifted_accuracy(predictions: Predictions, shift: int) -> float:
    assert predictions.labels is not None
    return float((predictions.top1 == predictions.labels + shift).mean())


def _accuracy_in_another_order(predictions: Predictions) -> float:
    """Match labels with predicted classes, one to one, on half of each class; accuracy of that on the other half.

    0 with too few images of a class to tell.
    """
    labels = predictions.labels
    assert labels is not None
    if len(predictions) < IMAGES_PER_CLASS * np.unique(labels).size:
        return 0.0
    by_class = np.argsort(labels, kind="stable")
    learn, judge = by_class[::2], by_class[1::2]
    votes = np.zeros((predictions.classes, predictions.classes), np.int64)
    np.add.at(votes, (labels[learn], predictions.top1[learn]), 1)
    _, renamed = optimize.linear_sum_assignment(votes, maximize=True)
    return float((renamed[labels[judge]] == predictions.top1[judge]).mean())
