"""Predictions of classifiers on a set of images, reduced batch by batch.

Ties: of equal scores the class with the lowest index ranks first, as in ``numpy.argmax``; the number of such images is
recorded, because an int8 output layer ties often and a constant one always.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Self

import numpy as np
import numpy.typing as npt

from quantkit.errors import LabelError, ModelError, NumericError
from quantkit.types import FloatArray

TOP = 5
# Sums of softmax rows differ from 1 by float32 rounding; non-negative rows of logits do not all sum to 1 by chance.
PROBABILITY_SUM_TOLERANCE = 1e-3
# Lower bound of probabilities that an integer output rounded to 0, for logarithms.
PROBABILITY_FLOOR = float(np.finfo(np.float32).eps)

# Number of images with full scores that are reduced together.
_BLOCK = 256
_MIXED_LABELS = "some batches have labels and others have none"


class Scores(StrEnum):
    """Kind of a model's output: logits before the softmax, or probabilities after it."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Predictions of a model for N images, in about 70 bytes per image for any number of classes.

    Attributes:
        names: name of each image, unique, ``[N]``.
        classes: number of classes of the model.
        top: int64 ``[N, min(5, classes)]``, classes by descending score; of equal scores the lowest index first.
        confidence: float64 ``[N]``, softmax probability of the first class in ``top``.
        margin: float64 ``[N]``, in nats: ``log p(first) - log p(second)``, the difference of the two logits.
        tied: bool ``[N]``, the best score was tied.
        constant: bool ``[N]``, all classes had the same score.
        labels: int64 ``[N]``, the true class, or None if unknown.
    """

    names: tuple[str, ...]
    classes: int
    top: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    margin: npt.NDArray[np.float64]
    tied: npt.NDArray[np.bool_]
    constant: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.int64] | None = None

    @classmethod
    def from_scores(
        cls,
        scores: FloatArray,
        names: Sequence[str],
        labels: npt.ArrayLike | None = None,
        *,
        kind: Scores = Scores.LOGITS,
    ) -> Self:
        """Reduce one batch of outputs.

        Args:
            scores: float ``[N, classes]``, at least two classes.
            names: name of each image, ``[N]``.
            labels: true class of each image, ``[N]``, or None.
            kind: what the scores are.

        Raises:
            ModelError: the scores are not ``[N, classes]`` for the N names.
            NumericError: a score is NaN or infinite; the message has the image.
            LabelError: a label is not a class of the model, or their number is not N.
        """
        _check_scores(scores, names)
        top = _top_classes(scores)
        log_p = log_probabilities(scores, kind)
        rows = np.arange(len(names))
        first, second = scores[rows, top[:, 0]], scores[rows, top[:, 1]]
        return cls(
            names=tuple(names),
            classes=scores.shape[1],
            top=top,
            confidence=np.exp(log_p[rows, top[:, 0]]),
            margin=log_p[rows, top[:, 0]] - log_p[rows, top[:, 1]],
            tied=first == second,
            constant=scores.min(axis=1) == scores.max(axis=1),
            labels=None if labels is None else _checked_labels(labels, names, scores.shape[1]),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Concatenate batches in order.

        Raises:
            ModelError: no batch, or batches with different numbers of classes.
            LabelError: some batches have labels and others have none.
        """
        if not parts:
            raise ModelError("there are no predictions: no image was given")
        if len({part.classes for part in parts}) > 1:
            raise ModelError("the number of classes differs between batches")
        labels = [part.labels for part in parts if part.labels is not None]
        if labels and len(labels) < len(parts):
            raise LabelError(_MIXED_LABELS)
        arrays = {
            key: np.concatenate([getattr(part, key) for part in parts])
            for key in ("top", "confidence", "margin", "tied", "constant")
        }
        return cls(
            names=tuple(name for part in parts for name in part.names),
            classes=parts[0].classes,
            labels=np.concatenate(labels) if labels else None,
            **arrays,
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def top1(self) -> npt.NDArray[np.int64]:
        """The predicted class of each image, int64 ``[N]``."""
        return self.top[:, 0]

    def correct(self, k: int = 1) -> npt.NDArray[np.bool_]:
        """Return for each image whether its label is among the first ``k`` classes, bool ``[N]``.

        Raises:
            LabelError: the true classes are not known.
        """
        if self.labels is None:
            raise LabelError("accuracy needs the true class of every image", fix="give the labels")
        hits: npt.NDArray[np.bool_] = (self.top[:, :k] == self.labels[:, None]).any(axis=1)
        return hits

    def ordered_like(self, names: Sequence[str]) -> Self:
        """Return the predictions in the order of other names; predictions are paired by name, not by position.

        Raises:
            LabelError: the two sets of images differ.
        """
        if self.names == tuple(names):
            return self
        place = {name: index for index, name in enumerate(self.names)}
        missing = [name for name in names if name not in place]
        if missing or len(names) != len(self.names) or len(set(names)) != len(names):
            example = f", for example {missing[0]!r}" if missing else ""
            raise LabelError(
                f"the models have different images: {len(missing)} of {len(names)} have no prediction{example}",
                fix="compare models on one set of images",
            )
        return self.only([place[name] for name in names])

    def only(self, indices: Sequence[int]) -> Self:
        """Return the predictions at these positions, in the given order."""
        taken = {
            item.name: getattr(self, item.name)[np.asarray(indices, np.int64)]
            for item in fields(self)
            if isinstance(getattr(self, item.name), np.ndarray)
        }
        return type(self)(names=tuple(self.names[index] for index in indices), classes=self.classes, **taken)


@dataclass
class _Batch:
    """Images to reduce: scores of every model, names and labels."""

    scores: list[FloatArray]
    names: Sequence[str]
    labels: npt.ArrayLike | None


class Collector:
    """Collects the predictions of several models over the same batches, of any size.

    The first model is the reference of the divergence of the others. Full scores of at most a few hundred images are in
    memory at a time.

    Args:
        models: number of models.
        kind: kind of their scores; by default inferred from the first scores of the reference.
    """

    def __init__(self, models: int, *, kind: Scores | None = None) -> None:
        self.models = models
        self.kind = kind
        self._waiting: list[_Batch] = []
        self._parts: list[list[Predictions]] = [[] for _ in range(models)]
        self._divergence: list[list[npt.NDArray[np.float64]]] = [[] for _ in range(models)]

    def update(self, scores: Sequence[FloatArray], names: Sequence[str], labels: npt.ArrayLike | None = None) -> None:
        """Add one batch: the scores of every model, in the order of the models, for the same images.

        Raises:
            ModelError: shapes do not match.
            NumericError: a score is NaN or infinite.
            LabelError: labels do not match, or some batches have labels and others have none.
        """
        if len(scores) != self.models:
            raise ValueError(f"{self.models} models need {self.models} arrays of scores, not {len(scores)}")
        for index, model_scores in enumerate(scores):
            if model_scores.shape != scores[0].shape:
                raise ModelError(
                    f"model {index + 1} returns scores of shape {list(model_scores.shape)} "
                    f"and the first model {list(scores[0].shape)}",
                    fix="compare models with the same classes",
                )
            _check_scores(model_scores, names)
        if self._waiting and (self._waiting[0].labels is None) != (labels is None):
            raise LabelError(_MIXED_LABELS)
        self._waiting.append(_Batch([np.array(model_scores) for model_scores in scores], names, labels))
        if sum(len(batch.names) for batch in self._waiting) >= _BLOCK:
            self._reduce()

    def predictions(self, model: int) -> Predictions:
        """Return all predictions of a model so far."""
        self._reduce()
        return Predictions.concatenate(self._parts[model])

    def divergence(self, model: int) -> npt.NDArray[np.float64] | None:
        """Return the KL divergence of each image in nats, ``[N]``; None for the reference."""
        self._reduce()
        return np.concatenate(self._divergence[model]) if self._divergence[model] else None

    def _reduce(self) -> None:
        """Reduce all collected images together, because a call per image would cost more than its arithmetic."""
        batches, self._waiting = self._waiting, []
        if not batches:
            return
        names = [name for batch in batches for name in batch.names]
        labels = None if batches[0].labels is None else np.concatenate([np.asarray(b.labels) for b in batches])
        reference = np.concatenate([batch.scores[0] for batch in batches])
        if self.kind is None:
            self.kind = kind_of_scores(reference)
        for model in range(self.models):
            scores = np.concatenate([batch.scores[model] for batch in batches])
            self._parts[model].append(Predictions.from_scores(scores, names, labels, kind=self.kind))
            if model:
                self._divergence[model].append(kl_divergence(reference, scores, kind=self.kind))


def kind_of_scores(scores: FloatArray) -> Scores:
    """Infer from a float model's output, ``[N, classes]``, whether it ends in a softmax.

    In this case no row has negative entries, and every row sums to 1.
    """
    whole = np.asarray(scores, np.float64)
    sums_to_one = np.abs(whole.sum(axis=1) - 1.0) <= PROBABILITY_SUM_TOLERANCE
    return Scores.PROBABILITIES if bool((whole >= 0.0).all() and sums_to_one.all()) else Scores.LOGITS


def log_probabilities(scores: FloatArray, kind: Scores = Scores.LOGITS) -> npt.NDArray[np.float64]:
    """Return ``log softmax`` of each row in float64, ``[N, classes]``.

    Logits: ``x - max x - log sum exp(x - max x)``. Probabilities are floored at `PROBABILITY_FLOOR` and divided by
    their sum, which is not 1 for an integer output.
    """
    wide = np.asarray(scores, np.float64)
    if kind is Scores.PROBABILITIES:
        wide = np.log(np.maximum(wide, PROBABILITY_FLOOR))
    shifted = wide - wide.max(axis=1, keepdims=True)
    normalised: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised


def kl_divergence(
    reference: FloatArray, scores: FloatArray, *, kind: Scores = Scores.LOGITS
) -> npt.NDArray[np.float64]:
    """Return ``KL(reference || scores) = sum p (log p - log q)`` of each row in nats, float64 ``[N]``, at least 0."""
    log_p, log_q = log_probabilities(reference, kind), log_probabilities(scores, kind)
    divergence: npt.NDArray[np.float64] = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return np.maximum(divergence, 0.0)


def _top_classes(scores: FloatArray) -> npt.NDArray[np.int64]:
    """Return the best classes of each row by repeated argmax, which returns the lowest index of equals."""
    left = scores.astype(np.float64)
    rows = np.arange(left.shape[0])
    top = np.empty((left.shape[0], min(TOP, left.shape[1])), np.int64)
    for place in range(top.shape[1]):
        top[:, place] = left.argmax(axis=1)
        left[rows, top[:, place]] = -np.inf
    return top


def _check_scores(scores: FloatArray, names: Sequence[str]) -> None:
    if scores.ndim != 2 or scores.shape[0] != len(names) or scores.shape[1] < 2:
        raise ModelError(
            f"a classifier returns [images, classes]; this output is {list(scores.shape)} for {len(names)} images"
        )
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
        raise NumericError(
            "the model's output contains NaN or infinity",
            where=names[int(np.argmin(finite))],
            fix="check this image and the model's ranges",
        )


def _checked_labels(labels: npt.ArrayLike, names: Sequence[str], classes: int) -> npt.NDArray[np.int64]:
    checked = np.asarray(labels, np.int64)
    if checked.shape != (len(names),):
        raise LabelError(f"there are {checked.size} labels for {len(names)} images")
    wrong = (checked < 0) | (checked >= classes)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise LabelError(
            f"the label {checked[index]} is out of range: the model has {classes} classes (0 to {classes - 1})",
            where=names[index],
            fix="count labels from 0, and shift them by one for a model with a background class",
        )
    return checked
