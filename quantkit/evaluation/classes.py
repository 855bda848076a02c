"""Accuracy change of each class, corrected for multiple comparisons."""

from dataclasses import dataclass

import numpy as np

from quantkit.errors import LabelError
from quantkit.evaluation.paired import PairedOutcomes, mcnemar_exact
from quantkit.evaluation.predictions import Predictions
from quantkit.types import Float64Array

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class ClassDelta:
    """Accuracy of a class in both models.

    Attributes:
        label: index of the class.
        images: number of images of the class.
        reference_correct: number of images that are correct in the reference.
        candidate_correct: number of images that are correct in the candidate.
        lost: number of images that are correct only in the reference.
        gained: number of images that are correct only in the candidate.
        p: McNemar's exact p for this class.
        p_adjusted: p corrected for the number of classes; the change is significant below 0.05.
    """

    label: int
    images: int
    reference_correct: int
    candidate_correct: int
    lost: int
    gained: int
    p: float
    p_adjusted: float

    @property
    def delta(self) -> float:
        """Accuracy of the candidate minus that of the reference on this class, a fraction."""
        return (self.candidate_correct - self.reference_correct) / self.images


def class_deltas(reference: Predictions, candidate: Predictions) -> tuple[ClassDelta, ...]:
    """Return the classes with images, sorted by index.

    The exact p of the classes are corrected by Benjamini and Hochberg (JRSS B 57:289-300, 1995), which is valid because
    classes share no images. Only classes with enough discordant images to reach 0.05 are counted as tests (Tarone,
    Biometrics 46:515-522, 1990; for the false discovery rate Gilbert, JRSS C 54:143-158, 2005), which depends only on
    the number of discordant images, not on their direction. The others get 1.

    Raises:
        LabelError: the true classes are not known.
    """
    labels = reference.labels
    if labels is None:
        raise LabelError("per-class results need the true class of every image", fix="give the labels")
    right, now_right = reference.correct(), candidate.correct()

    def count(images: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.bincount(labels[images], minlength=reference.classes)

    totals = count(np.ones(len(reference), bool))
    before, after = count(right), count(now_right)
    lost, gained = count(right & ~now_right), count(now_right & ~right)
    present = np.flatnonzero(totals)
    p = np.asarray([mcnemar_exact(PairedOutcomes(int(totals[c]), int(lost[c]), int(gained[c]))) for c in present])
    # The smallest p with m discordant images: all of them on one side.
    testable = 2.0 * 0.5 ** (lost + gained)[present] <= SIGNIFICANCE
    adjusted = np.ones_like(p)
    if testable.any():
        adjusted[testable] = _adjusted(p[testable])
    return tuple(
        ClassDelta(
            label=int(c),
            images=int(totals[c]),
            reference_correct=int(before[c]),
            candidate_correct=int(after[c]),
            lost=int(lost[c]),
            gained=int(gained[c]),
            p=float(p_class),
            p_adjusted=float(p_corrected),
        )
        for c, p_class, p_corrected in zip(present, p, adjusted, strict=True)
    )


def _adjusted(p: Float64Array) -> Float64Array:
    """Return p values adjusted by Benjamini and Hochberg: the least of ``p * tests / rank`` from each rank on."""
    order = np.argsort(p)
    by_rank = p[order] * (p.size / np.arange(1, p.size + 1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum.accumulate(by_rank[::-1])[::-1]
    return np.clip(adjusted, 0.0, 1.0)
