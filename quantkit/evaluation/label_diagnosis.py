"""Is a poor fp32 accuracy the model's, or do the labels count the classes differently?

Asked before any loss is put on int8: an off-by-one label file or an alphabetical class order looks like total failure.
"""

import numpy as np
from scipy import optimize

from quantkit.data.label_order import find_label_order
from quantkit.evaluation.paired import wilson_interval
from quantkit.evaluation.predictions import Predictions

# Renamed classes are spoken of only where they explain the images far better than the labels as given.
FAR_BETTER = 0.30
# And where they explain at least so many more: of three images one is soon explained by anything.
FEWEST = 10
IMAGES_PER_CLASS = 4


def diagnose_labels(predictions: Predictions) -> str | None:
    """Return what a float model's own answers make doubtful: labels in another order, or no better than guessing.

    Raises:
        LabelError: the true classes are not known.
    """
    problem = label_problem(predictions)
    if problem is not None:
        return problem
    chance = 1.0 / predictions.classes
    if wilson_interval(int(predictions.correct().sum()), len(predictions)).lo <= chance:
        return (
            f"top-1 cannot be told from guessing ({100 * chance:.2g} %): look at the labels, then at the "
            "preprocessing, then at the model"
        )
    return None


def label_problem(predictions: Predictions) -> str | None:
    """Return what seems wrong with the labels of a float model's answers, in one sentence, or None.

    Tried are the known mistakes of counting and ordering (`quantkit.data.label_order`), and labels in any other order.
    That order is learnt on half of each class and judged on the other half, so that a poor model does not pass for one.

    Raises:
        LabelError: the true classes are not known.
    """
    accuracy = float(predictions.correct().mean())
    assert predictions.labels is not None  # correct() has refused predictions without
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
    """Match labels with predicted classes, one to one, on half of each class; accuracy of that on the other half.

    0 with too few images of a class to tell.
    """
    labels = predictions.labels
    assert labels is not None
    if len(predictions) < IMAGES_PER_CLASS * np.unique(labels).size:
        return 0.0
    by_class = np.argsort(labels, kind="stable")
    learn, evaluate = by_class[::2], by_class[1::2]
    votes = np.zeros((predictions.classes, predictions.classes), np.int64)
    np.add.at(votes, (labels[learn], predictions.top1[learn]), 1)
    _, renamed = optimize.linear_sum_assignment(votes, maximize=True)
    return float((renamed[labels[evaluate]] == predictions.top1[evaluate]).mean())
