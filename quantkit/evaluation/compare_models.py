"""Compares a reference model with other models, paired by image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from quantkit.engine.placement import DevicePlacement
from quantkit.errors import LabelError, ModelError, UsageError
from quantkit.evaluation.classes import class_deltas
from quantkit.evaluation.confidence import expected_calibration_error, flips_by_margin
from quantkit.evaluation.drift import TensorDrift
from quantkit.evaluation.label_diagnosis import diagnose_labels
from quantkit.evaluation.paired import (
    CONFIDENCE,
    Interval,
    PairedOutcomes,
    bootstrap_interval,
    mcnemar_exact,
    mean_interval,
    score_interval,
    wilson_interval,
)
from quantkit.evaluation.power import minimum_detectable_difference, sample_size_note
from quantkit.evaluation.predictions import Predictions
from quantkit.evaluation.result import PERCENT, Comparison, Delta, ModelResult, Versus


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluatedModel:
    """A model with its predictions: the input of `compare_models`.

    Attributes:
        name: name of the model, unique in a comparison.
        predictions: its predictions.
        bytes: size of its file with external data, None if there is no file (results of a card).
        kl: float64 ``[N]``, divergence of each image from the reference in nats, if full outputs are available.
        latency_ms: median latency of one image, if measured.
        latency_spread_ms: 10th and 90th percentile of the latency.
        tensors: accumulated drift of its tensors, in the order of the network; empty if not measured.
        layers: isolated drift of each integer layer; empty if not measured.
        ran_on: device of the predictions, None for results of a card.
    """

    name: str
    predictions: Predictions
    bytes: int | None = None
    kl: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None
    latency_ms: float | None = None
    tensors: tuple[TensorDrift, ...] = ()
    layers: tuple[TensorDrift, ...] = ()
    latency_spread_ms: Interval | None = None
    ran_on: DevicePlacement | None = None


def compare_models(models: Sequence[EvaluatedModel], *, warnings: Sequence[str] = (), seed: int = 0) -> Comparison:
    """Compare the first model with each of the others, paired by image.

    Args:
        models: the reference and at least one candidate; predictions are matched by name.
        warnings: further warnings, such as images that are also in the calibration set.
        seed: random seed of the bootstrap.

    Raises:
        UsageError: fewer than two models, or two models with the same name.
        LabelError: the models have predictions for different images, or different labels.
        ModelError: the models have different numbers of classes.
    """
    names = [model.name for model in models]
    if len(models) < 2:
        raise UsageError("a comparison takes at least two models", fix="name the reference first, then the others")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"the model {twice!r} is named twice", fix="name each model once")
    reference = models[0].predictions
    aligned = [_paired(model, reference) for model in models]
    results = tuple(
        _model_result(model, predictions, reference if index else None, seed)
        for index, (model, predictions) in enumerate(zip(models, aligned, strict=True))
    )
    return Comparison(
        images=len(reference),
        labelled=reference.labels is not None,
        models=results,
        warnings=(*warnings, *_warnings(models[0].name, reference, results)),
    )


def _paired(model: EvaluatedModel, reference: Predictions) -> Predictions:
    """Return a model's predictions in the order of the reference, after checking the labels."""
    answers = model.predictions.ordered_like(reference.names)
    if answers.classes != reference.classes:
        raise ModelError(
            f"has {answers.classes} classes and the reference {reference.classes}",
            where=model.name,
            fix="compare models with the same classes",
        )
    if answers.labels is not None and reference.labels is not None:
        differing = np.flatnonzero(answers.labels != reference.labels)
        if differing.size:
            raise LabelError(
                f"{differing.size} images have another label than for the reference, "
                f"the first is {answers.names[differing[0]]!r}",
                where=model.name,
                fix="evaluate every model with the same labels",
            )
    return replace(answers, labels=reference.labels)


def _model_result(
    model: EvaluatedModel, predictions: Predictions, reference: Predictions | None, seed: int
) -> ModelResult:
    labelled = predictions.labels is not None
    return ModelResult(
        name=model.name,
        bytes=model.bytes,
        top1=_percent(predictions.correct()) if labelled else None,
        top5=_percent(predictions.correct(5)) if labelled else None,
        ece=PERCENT * expected_calibration_error(predictions) if labelled else None,
        tie_rate=_percent(predictions.tied),
        constant=int(predictions.constant.sum()),
        latency_ms=model.latency_ms,
        latency_spread_ms=model.latency_spread_ms,
        tensors=model.tensors,
        layers=model.layers,
        ran_on=model.ran_on,
        versus=None if reference is None else _versus(model, predictions, reference, seed),
    )


def _versus(model: EvaluatedModel, candidate: Predictions, reference: Predictions, seed: int) -> Versus:
    same = int((reference.top1 == candidate.top1).sum())
    labelled = reference.labels is not None
    outcomes = [PairedOutcomes.of(reference.correct(k), candidate.correct(k)) for k in (1, 5)] if labelled else []
    return Versus(
        top1=_delta(outcomes[0], seed) if labelled else None,
        top5=_delta(outcomes[1], seed) if labelled else None,
        agreement=PERCENT * same / len(reference),
        agreement_ci95=wilson_interval(same, len(reference)).scaled(PERCENT),
        changed=len(reference) - same,
        kl=None if model.kl is None else float(model.kl.mean()),
        kl_ci95=None if model.kl is None else mean_interval(model.kl),
        classes=class_deltas(reference, candidate) if labelled else (),
        margins=flips_by_margin(reference, candidate),
        sample_size=sample_size_note(outcomes[0]) if labelled else None,
    )


def _percent(images: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> float:
    """Return the percentage of marked images; divided last, so that 57 of 100 is 57.0."""
    return PERCENT * int(images.sum()) / images.size


def _delta(outcomes: PairedOutcomes, seed: int) -> Delta:
    return Delta(
        value=PERCENT * (outcomes.gained - outcomes.lost) / outcomes.images,
        ci95=score_interval(outcomes, CONFIDENCE).scaled(PERCENT),
        bootstrap95=bootstrap_interval(outcomes, CONFIDENCE, seed=seed).scaled(PERCENT),
        mcnemar_p=mcnemar_exact(outcomes),
        lost=outcomes.lost,
        gained=outcomes.gained,
        minimum_detectable=PERCENT * minimum_detectable_difference(outcomes),
    )


def _warnings(name: str, reference: Predictions, results: Sequence[ModelResult]) -> list[str]:
    found: list[str] = []
    if reference.labels is not None:
        diagnosis = diagnose_labels(reference)
        if diagnosis is not None:
            found.append(f"{name}: {diagnosis}")
        absent = reference.classes - np.unique(reference.labels).size
        if absent:
            found.append(f"{absent:,} of {reference.classes:,} classes have no image here")
    for result in results:
        if result.constant:
            found.append(
                f"{result.name}: all classes have the same score on {result.constant:,} of {len(reference):,} images; "
                "they count as class 0"
            )
        elif result.tie_rate >= 1.0:
            found.append(
                f"{result.name}: the best scores are tied on {result.tie_rate:.1f} % of the images; the lower class "
                "index is used"
            )
    return found
