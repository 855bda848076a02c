"""The result of a comparison of a reference model with others on the same images, and its JSON form.

Shares of images are in percent here and in the JSON (``top1: 69.4``), differences in percentage points, divergence in
nats, sizes in bytes, latency in milliseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quantkit.errors import LabelError, ModelError, UsageError
from quantkit.evaluation.classes import ClassDelta, class_deltas
from quantkit.evaluation.confidence import MarginBin, expected_calibration_error, flips_by_margin
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
from quantkit.records import Records

JSON_SCHEMA = 1
WORST_TENSORS = 10
PERCENT = 100.0


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
    """

    name: str
    predictions: Predictions
    bytes: int | None = None
    kl: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None
    latency_ms: float | None = None
    tensors: tuple[TensorDrift, ...] = ()
    layers: tuple[TensorDrift, ...] = ()
    latency_spread_ms: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Delta:
    """A paired difference of accuracy in percentage points; below 0 the candidate is worse.

    Attributes:
        value: candidate minus reference.
        ci95: Tango's score interval, the one reported.
        bootstrap95: interval of the paired bootstrap, as a check.
        mcnemar_p: McNemar's exact p of no difference.
        lost: number of images that are correct only in the reference.
        gained: number of images that are correct only in the candidate.
        minimum_detectable: the smallest loss that this number of images detects with a power of 80 %.
    """

    value: float
    ci95: Interval
    bootstrap95: Interval
    mcnemar_p: float
    lost: int
    gained: int
    minimum_detectable: float


@dataclass(frozen=True, kw_only=True)
class Versus:
    """Comparison of a candidate with the reference.

    Attributes:
        top1: paired difference in top-1, None without labels.
        top5: paired difference of top-5, None without labels.
        agreement: percent of images that both models put in the same class.
        agreement_ci95: its 95 % interval (Wilson).
        changed: number of images in another class.
        kl: mean divergence of the softmax outputs in nats, None if outputs are not available.
        kl_ci95: its 95 % interval (Student).
        classes: per-class results; empty without labels.
        margins: rate of changed classes by the reference's margin.
        sample_size: one sentence about the loss that this number of images detects; None without labels.
    """

    top1: Delta | None
    top5: Delta | None
    agreement: float
    agreement_ci95: Interval
    changed: int
    kl: float | None
    kl_ci95: Interval | None
    classes: tuple[ClassDelta, ...]
    margins: tuple[MarginBin, ...]
    sample_size: str | None


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """A model of a comparison.

    Attributes:
        name: name of the model.
        bytes: size of the file, None without a file.
        top1: top-1 in percent, None without labels.
        top5: top-5 in percent, None without labels.
        ece: expected calibration error in percent, None without labels.
        tie_rate: percentage of images with tied best scores.
        constant: number of images with equal scores of all classes.
        latency_ms: median latency of one image, None if not measured.
        latency_spread_ms: 10th and 90th percentile of the latency, None if not measured.
        tensors: accumulated drift of every measured tensor, in the order of the network.
        layers: isolated drift of each integer layer, by its output tensor, in the order of the network.
        versus: the comparison with the reference; None for the reference.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> result = quantkit.compare(["fp32", "kl"], run="run", images="images/test", limit=50, drift_images=0)
        >>> result.models[1].name, result.models[1].versus.changed <= 5
        ('kl', True)
    """

    name: str
    bytes: int | None
    top1: float | None
    top5: float | None
    ece: float | None
    tie_rate: float
    constant: int
    latency_ms: float | None
    tensors: tuple[TensorDrift, ...]
    versus: Versus | None
    layers: tuple[TensorDrift, ...] = ()
    latency_spread_ms: Interval | None = None

    @property
    def worst_tensors(self) -> tuple[TensorDrift, ...]:
        """The tensors with the lowest SQNR, worst first."""
        return tuple(sorted(self.tensors, key=lambda tensor: tensor.sqnr_db)[:WORST_TENSORS])

    @property
    def worst_layers(self) -> tuple[TensorDrift, ...]:
        """The layers with the lowest isolated SQNR, worst first: the causes of accumulated drift."""
        return tuple(sorted(self.layers, key=lambda layer: layer.sqnr_db)[:WORST_TENSORS])

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; missing and infinite figures are null."""
        own = {
            "name": self.name,
            "top1": self.top1,
            "top5": self.top5,
            "bytes": self.bytes,
            "ece": self.ece,
            "tie_rate": self.tie_rate,
            "constant_outputs": self.constant,
            "latency_ms": self.latency_ms,
            "latency_ms_p10_p90": _pair(self.latency_spread_ms),
        }
        if self.versus is None:
            return own
        drift = {"worst_tensors": self.worst_tensors, "worst_layers": self.worst_layers}
        return own | _versus_json(self.versus) | {key: [one.to_json() for one in worst] for key, worst in drift.items()}


@dataclass(frozen=True, kw_only=True)
class Comparison(Records):
    """Models compared on the same images; the first is the reference.

    Attributes:
        images: number of images.
        labelled: whether the true classes are known.
        models: the reference, then the candidates.
        warnings: suspected problems, one sentence each.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> result = quantkit.compare(["fp32", "kl"], run="run", images="images/test", limit=50, drift_images=0)
        >>> [row["model"] for row in result.rows()]
        ['fp32', 'kl']
    """

    images: int
    labelled: bool
    models: tuple[ModelResult, ...]
    warnings: tuple[str, ...] = ()

    @property
    def reference(self) -> ModelResult:
        """The model that the others are measured against."""
        return self.models[0]

    @property
    def candidates(self) -> tuple[ModelResult, ...]:
        """All models except the reference."""
        return self.models[1:]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per model, the reference first: percent, points, bytes, nats and milliseconds."""
        return [_row(self.images, model) for model in self.models]

    def _repr_html_(self) -> str:
        """Return the accuracy table for notebooks."""
        from quantkit.report.notebook import comparison_html

        return comparison_html(self)

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``quantkit compare --json``: `images`, `models` and more."""
        return {
            "schema": JSON_SCHEMA,
            "images": self.images,
            "labelled": self.labelled,
            "warnings": list(self.warnings),
            "models": [model.to_json() for model in self.models],
        }


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


def _versus_json(versus: Versus) -> dict[str, Any]:
    return {
        **_accuracy_json(versus.top1, "top1"),
        **_accuracy_json(versus.top5, "top5"),
        "sample_size": versus.sample_size,
        "agreement": versus.agreement,
        "agreement_ci95": _pair(versus.agreement_ci95),
        "changed": versus.changed,
        "kl": versus.kl,
        "kl_ci95": _pair(versus.kl_ci95),
        "margins": [
            {
                "lo": margin.lo,
                "hi": margin.hi,
                "images": margin.images,
                "changed": PERCENT * margin.flips / margin.images,
                "changed_ci95": _pair(margin.interval.scaled(PERCENT)),
            }
            for margin in versus.margins
        ],
        "classes": [
            {
                "label": moved.label,
                "images": moved.images,
                "delta_top1": PERCENT * moved.delta,
                "lost": moved.lost,
                "gained": moved.gained,
                "p_adjusted": moved.p_adjusted,
            }
            for moved in versus.classes
            if moved.lost or moved.gained
        ],
    }


def _accuracy_json(delta: Delta | None, metric: str) -> dict[str, Any]:
    p = "mcnemar_p" if metric == "top1" else f"mcnemar_p_{metric}"
    keys = (f"delta_{metric}", f"delta_{metric}_ci95", f"delta_{metric}_bootstrap95", p)
    counts = (f"lost_{metric}", f"gained_{metric}", f"minimum_detectable_difference_{metric}")
    if delta is None:
        return dict.fromkeys(keys + counts)
    figures = (delta.value, _pair(delta.ci95), _pair(delta.bootstrap95), delta.mcnemar_p)
    return dict(zip(keys + counts, (*figures, delta.lost, delta.gained, delta.minimum_detectable), strict=True))


def _row(images: int, model: ModelResult) -> dict[str, Any]:
    versus = model.versus
    delta = None if versus is None else versus.top1
    return {
        "model": model.name,
        "images": images,
        "top1": model.top1,
        "top5": model.top5,
        "delta_top1": None if delta is None else delta.value,
        "delta_top1_lo": None if delta is None else delta.ci95.lo,
        "delta_top1_hi": None if delta is None else delta.ci95.hi,
        "mcnemar_p": None if delta is None else delta.mcnemar_p,
        "agreement": None if versus is None else versus.agreement,
        "kl": None if versus is None else versus.kl,
        "bytes": model.bytes,
        "latency_ms": model.latency_ms,
    }


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.lo, interval.hi]
