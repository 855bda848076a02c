"""``quantkit inspect``: describe a model and its problems, without running it on images."""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import onnx_ir as ir

from quantkit.engine.classifier import ClassifierFile, classifier_signature
from quantkit.engine.session import open_session
from quantkit.errors import ModelError, QuantkitError
from quantkit.graph.analysis.macs import LayerOperations, layer_costs
from quantkit.graph.analysis.ops import PASS_THROUGH, Role
from quantkit.graph.analysis.values import dtype_name, is_op, node_name, operand
from quantkit.graph.coverage import coverage_of
from quantkit.graph.image_input import ImageInput
from quantkit.graph.inner_preprocessing import InnerPreprocessing, inner_preprocessing
from quantkit.graph.model import (
    model_files,
    read_with_faults,
    save_model,
    stored_tensors,
)
from quantkit.graph.prepare import Prepared, prepare
from quantkit.graph.qdq.placement import Placement, place
from quantkit.graph.qdq.plan import plan
from quantkit.graph.signature import Signature
from quantkit.targets import TARGETS
from quantkit.workflows.inspect_hints import advice_on, dataset_of, next_command
from quantkit.workflows.model_summary import (
    FloatOperators,
    ImageSummary,
    ModelSummary,
    Problem,
    ScoresSummary,
    Shape,
    TargetSummary,
    TensorSummary,
)

# The usual image size of networks with free dimensions.
USUAL_SIZE = (224, 224)
_COUNTS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL, ir.DataType.STRING, ir.DataType.UNDEFINED)

T = TypeVar("T")


def inspect(
    model: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    output: str | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> ModelSummary:
    """Describe a model without running it on images: inputs, outputs, cost, int8 coverage and problems.

    A model that `quantkit.calibrate` rejects is described as far as possible; ``problems`` lists the reasons.

    Args:
        model: the ONNX file.
        size: ``(height, width)`` of an image in pixels, for free dimensions of the model; 224 x 224 by default.
        output: name of the output with the class scores; detected by default.
        inputs: values of the other inputs, by name: numbers, arrays, or paths of ``.npy`` files.

    Raises:
        ModelError: the file cannot be read, or contains no graph.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> quantkit.inspect("mini_iresnet.onnx").scores.classes
        10
    """
    path = Path(model)
    read, faults = read_with_faults(path)
    finding = _Finding(os.fspath(path), bool(faults), [Problem.of(fault, os.fspath(path)) for fault in faults])
    signature = finding.attempt(lambda: classifier_signature(read, path, output=output, inputs=inputs))
    image = None if signature is None else _image_of(signature.image)
    scores = None if signature is None else _scores_of(read, signature, image)
    inner = finding.attempt(lambda: _inner(read, image))
    # The weights of a damaged file are unreliable, so only its graph is described.
    prepared = None if faults else finding.attempt(lambda: _prepared(path, read, signature))
    shape, assumed = _input_shape(image, size)
    costs = finding.attempt(lambda: layer_costs(read if prepared is None else prepared.model, shape))
    targets = [] if prepared is None or costs is None else list(_targets(prepared, costs, finding))
    _try_to_load(path, prepared, finding)
    finding.problems += advice_on(image, scores, inner, tuple(targets))
    types = _parameter_types(read)
    usable = not any(problem.severity == "error" for problem in finding.problems)
    return ModelSummary(
        path=os.fspath(path),
        file_bytes=sum(file.stat().st_size for file in ([path] if faults else model_files(path))),
        opsets={domain or "ai.onnx": version for domain, version in read.opset_imports.items()},
        ir_version=read.ir_version,
        producer=" ".join(text for text in (read.producer_name, read.producer_version) if text),
        inputs=tuple(_tensor(value) for value in read.graph.inputs if not value.is_initializer()),
        outputs=tuple(_tensor(value) for value in read.graph.outputs),
        image=image,
        scores=scores,
        parameters=sum(types.values()),
        parameter_types=types,
        multiply_adds=_total(costs),
        uncounted=sum(cost.multiply_adds is None for cost in costs or ()),
        assumed_size=assumed,
        operators=_operators(read),
        targets=tuple(targets),
        preprocessing=inner,
        notes=() if prepared is None else prepared.notes,
        problems=tuple(sorted(finding.problems, key=lambda problem: problem.severity)),
        next_command=next_command(path, image, scores, inner) if usable else None,
    )


@dataclass
class _Finding:
    """The problems found so far.

    Attributes:
        path: path of the model.
        damaged: the file is damaged, so any later step may fail because of that.
        problems: the problems.
    """

    path: str
    damaged: bool
    problems: list[Problem] = field(default_factory=list)

    def attempt(self, step: Callable[[], T]) -> T | None:
        """Return the result of a step; None if it fails, which is a problem unless the file is damaged."""
        try:
            return step()
        except QuantkitError as error:
            problem = Problem.of(error, self.path)
        except Exception as error:  # an invalid graph can break any step; the rest of the summary is still useful
            if self.damaged:
                return None
            problem = Problem(
                severity="error",
                what=f"unexpected {type(error).__name__}: {error}",
                where=None,
                fix="please report it",
            )
        if problem not in self.problems:
            self.problems.append(problem)
        return None


def _prepared(path: Path, model: ir.Model, signature: Signature | None) -> Prepared:
    """Return the prepared model; without a known signature, the graph of the file."""
    return prepare(model) if signature is None else ClassifierFile(path, model, signature).prepared()


def _image_of(found: ImageInput) -> ImageSummary:
    return ImageSummary(
        name=found.name,
        layout=found.layout,
        channels=found.channels,
        height=found.height,
        width=found.width,
        batch=found.batch,
    )


def _scores_of(model: ir.Model, signature: Signature, image: ImageSummary | None) -> ScoresSummary:
    name, classes = signature.scores.name, signature.scores.classes
    [value] = [value for value in model.graph.outputs if value.name == name][:1]
    return ScoresSummary(
        name=name, classes=classes, dataset=dataset_of(classes, image), softmax=_is_softmax_output(value)
    )


def _is_softmax_output(value: ir.Value) -> bool:
    """Return whether a value is the output of a Softmax, possibly reshaped or transposed."""
    node = value.producer()
    while node is not None and is_op(node, *PASS_THROUGH, "Identity", "Cast"):
        source = operand(node, 0)
        node = None if source is None else source.producer()
    return is_op(node, "Softmax")


def _inner(model: ir.Model, image: ImageSummary | None) -> InnerPreprocessing | None:
    """Return the preprocessing after the image input, or after the input that is most like one."""
    fed = [value for value in model.graph.inputs if not value.is_initializer()]
    if image is not None:
        likely = [value for value in fed if value.name == image.name]
    else:
        likely = [value for value in fed if value.shape is not None and len(value.shape) == 4]
    return inner_preprocessing(likely[0]) if likely else None


def _try_to_load(path: Path, prepared: Prepared | None, finding: _Finding) -> None:
    """Load the model and the prepared model in onnxruntime, to find faults before any image is read."""
    if finding.problems or prepared is None:
        return
    finding.attempt(lambda: open_session(path))
    if not finding.problems:
        finding.attempt(lambda: _load_prepared(prepared))


def _load_prepared(prepared: Prepared) -> None:
    with tempfile.TemporaryDirectory(prefix="quantkit-") as folder:
        file = Path(folder) / "prepared.onnx"
        save_model(prepared.model, file)
        try:
            open_session(file)
        except ModelError as error:
            raise ModelError(error.what.replace(str(file), "it"), where="the prepared model", fix=error.fix) from error


def _input_shape(
    image: ImageSummary | None, size: tuple[int, int] | None
) -> tuple[tuple[int, ...] | None, tuple[int, int] | None]:
    """Return the input shape of one image if the model has free dimensions, and the size assumed for them."""
    if image is None or (image.height is not None and image.width is not None):
        return None, None
    given = size or USUAL_SIZE
    height, width = image.height or given[0], image.width or given[1]
    sides = (image.channels, height, width) if image.layout == "NCHW" else (height, width, image.channels)
    return (image.batch or 1, *sides), (height, width)


def _targets(prepared: Prepared, costs: Sequence[LayerOperations], finding: _Finding) -> Iterator[TargetSummary]:
    layers = {cost.name for cost in costs}
    for target in TARGETS.values():
        made = finding.attempt(partial(plan, prepared.model, target))
        # If a plan is impossible, the placement of each node is still known.
        placement = (
            finding.attempt(partial(place, prepared.model.graph, target, {})) if made is None else made.placement
        )
        if placement is not None:
            yield TargetSummary(
                name=target.name,
                coverage=coverage_of(costs, placement, () if made is None else made.absorbed),
                float_operators=tuple(_float_operators(placement, layers)),
            )


def _float_operators(placement: Placement, layers: set[str]) -> Iterator[FloatOperators]:
    found: dict[tuple[str, str], list[str]] = {}
    for node in placement.graph:
        head = placement.attached.get(node, node)
        computes = any(value.dtype == ir.DataType.FLOAT for value in node.outputs)
        if head in placement.integer or not computes or node_name(node) in layers:
            continue
        why = placement.reasons.get(node, "") if placement.roles[node] is Role.FLOAT or head is node else ""
        kind = node.op_type if node.domain == "" else f"{node.domain}.{node.op_type}"
        found.setdefault((kind, why or placement.reasons.get(head, "")), []).append(node_name(node))
    for (kind, why), names in sorted(found.items(), key=lambda item: -len(item[1])):
        yield FloatOperators(op_type=kind, why=why, names=tuple(names))


def _tensor(value: ir.Value) -> TensorSummary:
    shape: Shape | None = None
    if value.shape is not None:
        shape = tuple(size if isinstance(size, int) else size.value for size in value.shape)
    dtype = None if value.dtype is None else dtype_name(value.dtype)
    return TensorSummary(name=value.name or "", dtype=dtype, shape=shape)


def _parameter_types(model: ir.Model) -> dict[str, int]:
    """Return the number of weight values by element type; shapes, indices and flags do not count."""
    counts: Counter[str] = Counter()
    for _, tensor in stored_tensors(model):
        if tensor.dtype not in _COUNTS:
            counts[dtype_name(tensor.dtype)] += tensor.size
    return dict(counts.most_common())


def _operators(model: ir.Model) -> dict[str, int]:
    kinds: Iterable[str] = (
        node.op_type if node.domain == "" else f"{node.domain}.{node.op_type}" for node in model.graph.all_nodes()
    )
    counts = Counter(kinds)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _total(costs: Sequence[LayerOperations] | None) -> int | None:
    known = [cost.multiply_adds for cost in costs or () if cost.multiply_adds is not None]
    return sum(known) if known else None
