"""Diagnoses labels with another class numbering as the cause of poor fp32 accuracy.

An off-by-one label file or an alphabetical class order looks like a total failure of the model.
"""

import numpy as np

from quantkit.data.label_order import find_label_order
from quantkit.evaluation.paired import wilson_interval
from quantkit.evaluation.predictions import Predictions

# Renamed classes are reported only if they explain the images far better than the given labels.
FAR_BETTER = 0.30
# And only if they explain at least this number of additional images.
FEWEST = 10
IMAGES_PER_CLASS = 4


def diagnose_labels(predictions: Predictions) -> str | None:
    """Return a warning if a float model's predictions suggest labels in another order, or are no better than guessing.

    Raises:
        LabelError: the true classes are not known.
    """
    problem = label_problem(predictions)
    if problem is not None:
        return problem
    chance = 1.0 / predictions.classes
    if wilson_interval(int(predictions.correct().sum()), len(predictions)).lo <= chance:
        return (
            f"top-1 is not better than guessing ({100 * chance:.2g} %): check the labels, then the "
            "preprocessing, then the model"
        )
    return None


def label_problem(predictions: Predictions) -> str | None:
    """Return the suspected fault of the labels of a float model's predictions in one sentence, or None.

    Known mistakes of counting and ordering are tried (`quantkit.data.label_order`), then labels in any other order. The
    order is fitted on half of each class and evaluated on the other half, so that a poor model is not reported.

    Raises:
        LabelError: the true classes are not known.
    """
    accuracy = float(predictions.correct().mean())
    assert predictions.labels is not None  # otherwise correct() has raised
    order = find_label_order(predictions.top1, predictions.labels, predictions.classes)
    if order is not None:
        return (
            f"the labels seem {order.fault}: top-1 is {100 * order.accuracy:.1f} % as given and "
            f"{100 * order.accuracy_fixed:.1f} % otherwise; {order.fix}"
        )
    renamed = _accuracy_in_another_order(predictions)
    if renamed - accuracy < max(FAR_BETTER, FEWEST / len(predictions)):
        return None
    return (
        f"the labels seem to number the classes in another order: top-1 is {100 * accuracy:.1f} % as given and "
        f"{100 * renamed:.1f} % with the classes renamed; give the labels in the order of the model's outputs"
    )


def _accuracy_in_another_order(predictions: Predictions) -> float:
    """Match labels with predicted classes one to one on half of each class; return the accuracy on the other half.

    Returns 0 if classes have too few images.
    """
    labels = predictions.labels
    assert labels is not None
    if len(predictions) < IMAGES_PER_CLASS * np.unique(labels).size:
        return 0.0
    by_class = np.argsort(labels, kind="stable")
    learn, evaluate = by_class[::2], by_class[1::2]
    votes = np.zeros((predictions.classes, predictions.classes), np.int64)
    np.add.at(votes, (labels[learn], predictions.top1[learn]), 1)
    from scipy.optimize import linear_sum_assignment  # slow to import, and few sets have so many images a class

    _, renamed = linear_sum_assignment(votes, maximize=True)
    return float((renamed[labels[evaluate]] == predictions.top1[evaluate]).mean())
