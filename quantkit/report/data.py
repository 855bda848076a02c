"""The content of an HTML report as typed data; `quantkit.workflows.report` creates it from a run."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from quantkit.errors import UsageError
from quantkit.evaluation.drift import TensorDrift
from quantkit.evaluation.gate import GateVerdict
from quantkit.evaluation.paired import Interval
from quantkit.evaluation.predictions import Predictions
from quantkit.evaluation.result import Comparison, ModelResult
from quantkit.graph.coverage import Coverage
from quantkit.numerics import Range
from quantkit.report.tables import decibels
from quantkit.sensitivity.result import Sensitivity
from quantkit.stats.convergence import ConvergencePoint
from quantkit.stats.tensor import TensorStatistics

MAX_IMAGES = 120
MAX_CONFUSIONS = 40

ChangeKind = Literal["lost", "gained", "changed"]
CHANGE_KINDS: tuple[ChangeKind, ...] = get_args(ChangeKind)


@dataclass(frozen=True, kw_only=True)
class MethodRange:
    """The range of a tensor by a calibration method.

    Attributes:
        method: name of the method, followed by the target where several are shown.
        range: the range of the integers in real values.
        step: real units per integer step.
        used_by: names of the candidates quantized with this method.
    """

    method: str
    range: Range
    step: float
    used_by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReportTensor:
    """A tensor of the network.

    Attributes:
        name: ONNX name.
        op_type: operator that computes it.
        layer: name of the node that computes it.
        inputs: names of the nearest tensors of the report among its ancestors; empty for graph inputs.
        statistics: calibration statistics; None if the tensor was not observed.
        ranges: range by calibration method.
        reason: why the tensor stays in float; empty if it is quantized.
    """

    name: str
    op_type: str = ""
    layer: str = ""
    inputs: tuple[str, ...] = ()
    statistics: TensorStatistics | None = None
    ranges: tuple[MethodRange, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The class that a model predicts for an image.

    Attributes:
        label: index of the class.
        confidence: softmax probability of that class, 0 to 1.
    """

    label: int
    confidence: float


@dataclass(frozen=True, kw_only=True)
class ChangedImage:
    """An image that at least one candidate puts in another class than the reference.

    Attributes:
        name: path relative to the image folder.
        label: index of the true class, None if unknown.
        answers: one per model, in the order of the comparison.
        kinds: one per candidate: ``lost`` or ``gained`` if one model is correct, ``changed`` if neither model is
            correct or the true class is unknown, None if the candidate agrees with the reference.
        picture: JPEG or PNG, None if the image cannot be read.
    """

    name: str
    label: int | None
    answers: tuple[Answer, ...]
    kinds: tuple[ChangeKind | None, ...]
    picture: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A pair of classes that models confuse.

    Attributes:
        expected: index of the true class; without labels, of the class by the reference.
        answered: index of the predicted class.
        counts: number of such images per model, in the order of the comparison.
    """

    expected: int
    answered: int
    counts: tuple[int, ...]

    @property
    def increase(self) -> int:
        """Largest increase of a candidate over the reference."""
        return max(self.counts[1:]) - self.counts[0]


@dataclass(frozen=True, kw_only=True)
class TuningStage:
    """The best recipe of one stage of `quantkit tune`.

    Attributes:
        stage: name of the stage.
        tried: number of recipes tried.
        recipe: description of the best of them.
        agreement: share of the selection images in the class of fp32, 0 to 1.
        sqnr_db: SQNR of the scores on the selection images; None if infinite.
        seconds: time spent on all recipes of the stage.
        float_macs: share of the multiply-adds in float, 0 to 1.
        images: number of held-out evaluation images; 0 if the recipe was not evaluated.
        delta: top-1 minus that of fp32 on them, in percentage points.
        ci95: interval of that difference.
        kept: whether this is the recipe of the tuned model.
    """

    stage: str
    tried: int
    recipe: str
    agreement: float
    sqnr_db: float | None
    seconds: float
    float_macs: float
    images: int = 0
    delta: float | None = None
    ci95: Interval | None = None
    kept: bool = False


@dataclass(frozen=True, kw_only=True)
class TuningLog:
    """A search of `quantkit tune`.

    Attributes:
        name: name of the tuned model in the run.
        target: target of the tuned model.
        conclusion: what the search found, a sentence each, without a full stop.
        stages: the stages in the order of the search.
        notes: notes of the search.
    """

    name: str
    target: str
    conclusion: tuple[str, ...]
    stages: tuple[TuningStage, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SensitivityFinding:
    """A measured sensitivity with its recommendation.

    Attributes:
        result: the figures.
        decision: the recommendation in sentences.
        command: command that writes the recommended model, empty without a recommendation.
    """

    result: Sensitivity
    decision: tuple[str, ...]
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A layer at which a candidate loses precision.

    Attributes:
        tensor: name of the tensor that the layer computes.
        why: description of the figure.
    """

    tensor: str
    why: str


@dataclass(frozen=True, kw_only=True)
class MethodChoice:
    """How method ``auto`` chose the method of a model.

    Attributes:
        model: its name in the run.
        reason: in a sentence.
        rows: one a method: ``method``, ``images``, ``distance``, ``sqnr_db``, ``agreement`` in percent, ``outcome``.
    """

    model: str
    reason: str
    rows: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """The data of a report.

    Attributes:
        title: name of the network.
        comparison: the models, the reference first.
        tensors: tensors of the network in order; their drift is in the comparison, by name.
        images: images that changed class, as `changed_images` returns them.
        confusions: pairs of classes, as `confusion_pairs` returns them.
        class_names: name of each class; empty without names.
        convergence: convergence points of the calibration.
        coverage: int8 coverage of each candidate; candidates of unknown origin are left out.
        tunings: searches of `quantkit tune` in the run.
        sensitivities: results of `quantkit sensitivity` in the run.
        choices: choices of method ``auto`` for candidates.
        verdicts: verdicts of the gates.
        provenance: names and values, in order.
    """

    title: str
    comparison: Comparison
    tensors: tuple[ReportTensor, ...] = ()
    images: tuple[ChangedImage, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    class_names: tuple[str, ...] = ()
    convergence: tuple[ConvergencePoint, ...] = ()
    coverage: tuple[tuple[str, Coverage], ...] = ()
    tunings: tuple[TuningLog, ...] = ()
    sensitivities: tuple[SensitivityFinding, ...] = ()
    choices: tuple[MethodChoice, ...] = ()
    verdicts: tuple[GateVerdict, ...] = ()
    provenance: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.comparison.candidates:
            raise UsageError("a report needs a comparison of two or more models", fix="name a candidate")

    @property
    def candidates(self) -> tuple[ModelResult, ...]:
        """The models compared with the reference."""
        return self.comparison.candidates

    @property
    def network(self) -> tuple[ReportTensor, ...]:
        """The tensors in order, including those known only from the drift of a candidate."""
        found = list(self.tensors)
        names = [tensor.name for tensor in found]
        for model in self.candidates:
            place = 0
            for drift in model.tensors:
                if drift.name in names:
                    place = max(place, names.index(drift.name) + 1)
                else:
                    found.insert(place, ReportTensor(name=drift.name, op_type=drift.op_type))
                    names.insert(place, drift.name)
                    place += 1
        return tuple(found)

    def class_name(self, label: int) -> str:
        """Return the first synonym of a class name, or the index if the class has no name."""
        name = self.class_names[label].split(",")[0].strip() if label < len(self.class_names) else ""
        return name or f"class {label}"


def changed_images(
    models: Sequence[Predictions],
    *,
    picture: Callable[[str], bytes | None] | None = None,
    limit: int = MAX_IMAGES,
) -> tuple[ChangedImage, ...]:
    """Return images that a candidate puts in another class than the reference.

    Every candidate and kind of change gets an equal part of the limit; unused parts are added to the next kinds. Within
    a kind, images are sorted by descending confidence of the reference.

    Args:
        models: predictions of the reference and the candidates, in the same order of images.
        picture: returns a JPEG or PNG for an image name; called only for the images returned.
        limit: maximum number of images.
    """
    reference, candidates = models[0], models[1:]
    kinds = [_kinds(reference, candidate) for candidate in candidates]
    groups: list[list[int]] = [
        sorted(np.flatnonzero(of_candidate == kind).tolist(), key=lambda index: -reference.confidence[index])
        for kind in range(1, len(CHANGE_KINDS) + 1)
        for of_candidate in kinds
    ]
    share = limit // max(len(groups), 1)
    first = dict.fromkeys(index for group in groups for index in group[:share])
    others = (index for group in groups for index in group[share:] if index not in first)
    wanted = [*first, *itertools.islice(dict.fromkeys(others), max(limit - len(first), 0))]
    return tuple(
        ChangedImage(
            name=reference.names[index],
            label=None if reference.labels is None else int(reference.labels[index]),
            answers=tuple(_answer(model, index) for model in models),
            kinds=tuple(CHANGE_KINDS[of[index] - 1] if of[index] else None for of in kinds),
            picture=None if picture is None else picture(reference.names[index]),
        )
        for index in _by_group(wanted, groups)
    )


def confusion_pairs(models: Sequence[Predictions], *, limit: int = MAX_CONFUSIONS) -> tuple[Confusion, ...]:
    """Return the pairs of classes with changed confusions, the largest increase first.

    Args:
        models: predictions of the reference and the candidates, in the same order of images.
        limit: maximum number of pairs.
    """
    reference = models[0]
    expected = reference.top1 if reference.labels is None else reference.labels
    counts: dict[tuple[int, int], list[int]] = {}
    for place, model in enumerate(models):
        wrong = model.top1 != expected
        for pair in zip(expected[wrong].tolist(), model.top1[wrong].tolist(), strict=True):
            counts.setdefault(pair, [0] * len(models))[place] += 1
    pairs = [
        Confusion(expected=pair[0], answered=pair[1], counts=tuple(found))
        for pair, found in counts.items()
        if len(set(found)) > 1
    ]
    return tuple(sorted(pairs, key=lambda one: (-one.increase, -max(one.counts), one.expected, one.answered))[:limit])


def greatest_losses(data: ReportData, model: ModelResult, count: int = 3) -> tuple[Loss, ...]:
    """Return the layers with the largest loss of precision of a candidate, the worst first.

    These are the layers with the lowest isolated SQNR if it was measured, otherwise the layers with the largest
    decrease of the accumulated SQNR below the lowest of their inputs. Graph inputs are left out.
    """
    inputs = {tensor.name: tensor.inputs for tensor in data.tensors}
    alone = [drift for drift in model.layers if inputs.get(drift.name, ("",))]
    if alone:
        worst = sorted(alone, key=lambda drift: drift.sqnr_db)[:count]
        return tuple(Loss(tensor=one.name, why=f"isolated SQNR {decibels(one.sqnr_db)} dB") for one in worst)
    sqnr = {drift.name: drift.sqnr_db for drift in model.tensors}
    falls = []
    for tensor in data.tensors:
        before = [sqnr[name] for name in tensor.inputs if name in sqnr and np.isfinite(sqnr[name])]
        if before and tensor.name in sqnr:
            falls.append((sqnr[tensor.name] - min(before), tensor.name))
    steepest = [item for item in sorted(falls)[:count] if item[0] < 0]
    return tuple(Loss(tensor=name, why=f"accumulated SQNR falls by {-fall:.1f} dB") for fall, name in steepest)


def by_name(drifts: Sequence[TensorDrift]) -> dict[str, TensorDrift]:
    """Return drifts by the name of their tensor."""
    return {drift.name: drift for drift in drifts}


def _kinds(reference: Predictions, candidate: Predictions) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return 0 for each image of the same class, otherwise 1 plus the index of its kind."""
    changed = reference.top1 != candidate.top1
    if reference.labels is None:
        return np.where(changed, 3, 0)
    right, now_right = reference.top1 == reference.labels, candidate.top1 == reference.labels
    return np.where(changed, np.where(right, 1, np.where(now_right, 2, 3)), 0)


def _by_group(wanted: Sequence[int], groups: Sequence[Sequence[int]]) -> list[int]:
    """Return the images in the order of the groups: all of the first, then the others of the second, and so on."""
    kept = set(wanted)
    return list(dict.fromkeys(index for group in groups for index in group if index in kept))


def _answer(predictions: Predictions, index: int) -> Answer:
    return Answer(label=int(predictions.top1[index]), confidence=float(predictions.confidence[index]))
