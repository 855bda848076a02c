"""What an HTML report is made from: typed, plain data that a run fills in."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from quantkit.errors import UsageError
from quantkit.evaluation.drift import TensorDrift
from quantkit.evaluation.predictions import Predictions
from quantkit.evaluation.result import Comparison, ModelResult
from quantkit.numerics import Range
from quantkit.stats.convergence import ConvergencePoint
from quantkit.stats.tensor import TensorStatistics

MAX_FLIPS = 120

FlipKind = Literal["lost", "gained", "changed"]
FLIP_KINDS: tuple[FlipKind, ...] = get_args(FlipKind)


@dataclass(frozen=True, kw_only=True)
class MethodRange:
    """The range one method chose for a tensor.

    Attributes:
        method: as on the command line, with its fraction if it has one.
        range: what the integers span.
        step: real units in one integer step.
        used: this is the range in the model that the report is about.
    """

    method: str
    range: Range
    step: float
    used: bool = False


@dataclass(frozen=True, kw_only=True)
class ReportTensor:
    """One tensor of the network, in the order of the network.

    Attributes:
        name: ONNX name.
        op_type: operator that produces it.
        layer: name of the node that produces it.
        inputs: names of the tensors in the report that it is computed from; empty at the first.
        statistics: its values in the calibration pass; None where not observed.
        ranges: what every method would choose.
        local: drift of this layer alone, fed fp32 input; None where not measured.
        reason: why it is left in floating point; empty where it is quantized.
    """

    name: str
    op_type: str = ""
    layer: str = ""
    inputs: tuple[str, ...] = ()
    statistics: TensorStatistics | None = None
    ranges: tuple[MethodRange, ...] = ()
    local: TensorDrift | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one model said of an image: a class and how sure it was.

    Attributes:
        label: index of the class.
        confidence: softmax probability of it.
    """

    label: int
    confidence: float


@dataclass(frozen=True, kw_only=True)
class FlippedImage:
    """An image that the two models put in different classes.

    Attributes:
        name: as in the predictions.
        kind: ``lost`` and ``gained`` by the true class; ``changed`` where neither is right or the truth is not known.
        label: the true class, None where it is not known.
        reference: what the reference said.
        candidate: what the candidate said.
        thumbnail: a small JPEG or PNG, None where the image is not at hand.
    """

    name: str
    kind: FlipKind
    label: int | None
    reference: Answer
    candidate: Answer
    thumbnail: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Blame:
    """A layer that the loss is put on.

    Attributes:
        tensor: name of the tensor the layer gives.
        why: in a few words, with a figure.
    """

    tensor: str
    why: str


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything a report shows.

    Attributes:
        title: name of the network.
        comparison: the models, the reference first.
        subject: name of the candidate that the report is about.
        tensors: the network's tensors in order; drift is taken from the comparison by name.
        flips: images in another class, as `flipped_images` gives them; how many there are, the comparison knows.
        class_names: name of each class; empty where they have none.
        convergence: how the ranges moved during calibration.
        blame: the layers to blame, worst first; empty to take them from the drift (`layers_to_blame`).
        provenance: names and values of what the report was made from, in order.
    """

    title: str
    comparison: Comparison
    subject: str
    tensors: tuple[ReportTensor, ...] = ()
    flips: tuple[FlippedImage, ...] = ()
    class_names: tuple[str, ...] = ()
    convergence: tuple[ConvergencePoint, ...] = ()
    blame: tuple[Blame, ...] = ()
    provenance: tuple[tuple[str, str], ...] = field(default=())

    def __post_init__(self) -> None:
        if self.subject not in {model.name for model in self.comparison.candidates}:
            raise UsageError(
                f"the comparison has no candidate {self.subject!r}",
                fix=f"choose one of {', '.join(model.name for model in self.comparison.candidates)}",
            )

    @property
    def model(self) -> ModelResult:
        """The candidate that the report is about."""
        return next(model for model in self.comparison.candidates if model.name == self.subject)

    @property
    def network(self) -> tuple[ReportTensor, ...]:
        """The tensors in order, with those that only the drift knows where it has them."""
        found, place = list(self.tensors), 0
        names = [tensor.name for tensor in found]
        for drift in self.model.tensors:
            if drift.name in names:
                place = max(place, names.index(drift.name) + 1)
            else:
                found.insert(place, ReportTensor(name=drift.name, op_type=drift.op_type))
                names.insert(place, drift.name)
                place += 1
        return tuple(found)

    def class_name(self, label: int) -> str:
        """Return the name of a class, the first of its synonyms, or else its number."""
        name = self.class_names[label].split(",")[0].strip() if label < len(self.class_names) else ""
        return name or f"class {label}"


def flipped_images(
    reference: Predictions,
    candidate: Predictions,
    *,
    thumbnail: Callable[[str], bytes | None] | None = None,
    limit: int = MAX_FLIPS,
) -> tuple[FlippedImage, ...]:
    """Return images that the candidate puts in another class: lost first, then gained, then the others.

    Within a kind the image that the reference was surest of comes first: it is the most surprising.

    Args:
        reference: answers of the reference.
        candidate: answers of the candidate, in the same order of images.
        thumbnail: gives a small JPEG or PNG for an image's name; called for the images returned only.
        limit: how many to return at most.
    """
    indices = {kind: _ranked(reference, candidate, kind) for kind in FLIP_KINDS}
    # Each kind has a third of the room, and takes what the others leave.
    shown = {kind: list(found[: limit // len(FLIP_KINDS)]) for kind, found in indices.items()}
    for kind, found in indices.items():
        room = limit - sum(map(len, shown.values()))
        shown[kind] += found[len(shown[kind]) : len(shown[kind]) + room]
    return tuple(
        FlippedImage(
            name=reference.names[index],
            kind=kind,
            label=None if reference.labels is None else int(reference.labels[index]),
            reference=_answer(reference, index),
            candidate=_answer(candidate, index),
            thumbnail=None if thumbnail is None else thumbnail(reference.names[index]),
        )
        for kind, found in shown.items()
        for index in found
    )


def layers_to_blame(data: ReportData, count: int = 3) -> tuple[Blame, ...]:
    """Return the layers at which most precision is lost, worst first.

    Where layers were measured alone (`ReportTensor.local`), by the lowest SQNR there. Otherwise by how far the
    end-to-end SQNR of a tensor lies below the worst of those it is computed from. Inputs of the graph are no
    layers and bear no blame.
    """
    if data.blame:
        return data.blame[:count]
    alone = [(tensor.local.sqnr_db, tensor) for tensor in data.tensors if tensor.local is not None and tensor.inputs]
    if alone:
        worst = sorted(alone, key=lambda item: item[0])[:count]
        return tuple(Blame(tensor=tensor.name, why=f"{db:.1f} dB when it alone is int8") for db, tensor in worst)
    sqnr = {drift.name: drift.sqnr_db for drift in data.model.tensors}
    falls = []
    for tensor in data.tensors:
        before = [sqnr[name] for name in tensor.inputs if name in sqnr and np.isfinite(sqnr[name])]
        if before and tensor.name in sqnr:
            falls.append((sqnr[tensor.name] - min(before), tensor.name))
    steepest = [item for item in sorted(falls)[:count] if item[0] < 0]
    return tuple(Blame(tensor=name, why=f"SQNR falls by {-fall:.1f} dB here") for fall, name in steepest)


def _ranked(reference: Predictions, candidate: Predictions, kind: FlipKind) -> list[int]:
    """Images that changed in one way, the surest first."""
    changed = reference.top1 != candidate.top1
    if reference.labels is None:
        wanted = changed if kind == "changed" else np.zeros_like(changed)
    else:
        right, now_right = reference.top1 == reference.labels, candidate.top1 == reference.labels
        wanted = {"lost": right, "gained": now_right, "changed": ~(right | now_right)}[kind] & changed
    found = np.flatnonzero(wanted)
    return [int(index) for index in found[np.argsort(-reference.confidence[found], kind="stable")]]


def _answer(predictions: Predictions, index: int) -> Answer:
    return Answer(label=int(predictions.top1[index]), confidence=float(predictions.confidence[index]))
