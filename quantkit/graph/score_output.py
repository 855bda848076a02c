"""Detects the output of a classifier with the class scores by its shape, type and position in the graph.

Candidates are floating-point outputs with one axis besides the batch. Among several candidates, features (from which
others are computed), selections (TopK), the same scores after a softmax, and auxiliary heads are excluded. If more than
one remains, the user must select it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.analysis.ops import LAYERS
from quantkit.graph.analysis.values import array, dims, is_op, name_of, reads
from quantkit.graph.image_input import ImageInput, shape_text, type_name

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
# Monotonic functions: they keep the ranking of the classes.
_SQUASHING = frozenset({"Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid", "Log", "Exp"})
_RESHAPING = frozenset(
    {"Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear"}
)
_SCALING = frozenset({"Mul", "Div", "Add", "Sub"})
_SELECTING = frozenset({"TopK", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum", "GatherElements", "GatherND"})
_SCORES_NAME = re.compile(r"logit|prob|softmax|score|class|pred|label|cls", re.IGNORECASE)
_OTHER_NAME = re.compile(r"(^|[^a-z])aux|feat|embed|hidden|pool|attention|attn|mask|box", re.IGNORECASE)

ONE_VALUE = "one value per image"
AS_ASKED = "as requested"

# Batch size to determine output shapes if the batch is dynamic; 1 could not be distinguished from other axes.
PROBE_BATCH = 2


@dataclass(frozen=True)
class OutputInfo:
    """Description of an input or output of a file.

    Attributes:
        name: name of the value.
        dtype: element type, None if unknown.
        shape: shape, None if unknown.
        classes: number of classes if it can be the class scores, None if unknown.
        fault: why it cannot be the class scores; empty if it can.
    """

    name: str
    dtype: ir.DataType | None
    shape: ir.Shape | None
    classes: int | None = None
    fault: str = ""

    @classmethod
    def of(cls, value: ir.Value, classes: int | None = None, fault: str = "") -> "OutputInfo":
        """Return the description of a value."""
        shape = None if value.shape is None else ir.Shape(list(value.shape))
        return cls(name_of(value), value.dtype, shape, classes, fault)

    def __str__(self) -> str:
        text = f"{self.name} {shape_text(self.shape)} {type_name(self.dtype)}"
        return f"{text} ({self.fault})" if self.fault else text


@dataclass(frozen=True)
class ScoreOutput:
    """The output with the class scores.

    Attributes:
        name: name of the output.
        classes: number of classes, None if unknown.
        is_matrix: whether its shape is ``[N, classes]``; otherwise it has other axes of size 1, or no batch axis.
        reason: why it was selected.
    """

    name: str
    classes: int | None
    is_matrix: bool
    reason: str


def describe_outputs(
    model: ir.Model, image: ImageInput, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[OutputInfo, ...]:
    """Return every output, with the reason if it cannot be the class scores.

    Args:
        model: as read from its file.
        image: its image input.
        shapes: measured shapes of outputs for a batch of ``image.batch`` images, or `PROBE_BATCH` if it is dynamic.
    """
    batch = image.batch or PROBE_BATCH
    found = []
    for value in model.graph.outputs:
        if name_of(value) in shapes:
            classes, fault = _class_count(shapes[name_of(value)], batch)
        else:
            classes, fault = _class_count(dims(value), image.batch)
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            classes, fault = None, "not a tensor"
        elif value.dtype is not None and value.dtype not in _FLOATS:
            classes, fault = None, "not floating point"
        elif not fault and (node := value.producer()) is not None and node.op_type in _SELECTING:
            fault = f"a selection of other values, by {node.op_type}"
        found.append(OutputInfo.of(value, classes, fault))
    return tuple(found)


def undecided(model: ir.Model, image: ImageInput) -> bool:
    """Return whether the shapes of a model's float outputs must be measured to select the scores."""
    for value in model.graph.outputs:
        shape = dims(value)
        if value.dtype is not None and value.dtype not in _FLOATS:
            continue
        if shape is None or (len(shape) != 2 and shape.count(None) > (0 if image.batch else 1)):
            return True
        if len(shape) == 2 and shape[1] is None:
            return True
    return False


def choose_scores(model: ir.Model, outputs: Sequence[OutputInfo], wanted: str | None) -> ScoreOutput:
    """Return the output with the class scores.

    Args:
        model: as read from its file.
        outputs: from `describe_outputs`.
        wanted: name of the output; detected by default.

    Raises:
        ModelError: there is no such output, or not exactly one candidate.
    """
    found = "; ".join(str(one) for one in outputs) or "no output at all"
    if wanted is not None:
        chosen = next((one for one in outputs if one.name == wanted), None)
        if chosen is None:
            raise ModelError(f"the model has no output {wanted!r}", where=found, fix="give --output one of these names")
        if chosen.fault not in ("", ONE_VALUE):
            raise ModelError(f"the output {wanted!r} cannot be the class scores: {chosen.fault}", where=found)
        return _score_output(chosen, AS_ASKED)
    candidates = [one for one in outputs if not one.fault]
    if not candidates:  # a network with one number for two classes
        candidates = [one for one in outputs if one.fault == ONE_VALUE]
    if not candidates:
        raise ModelError(
            "no output looks like class scores [N, classes]",
            where=found,
            fix="export the model with its logits among the outputs",
        )
    if len(candidates) == 1:
        reason = "the only output" if len(outputs) == 1 else "the only one with one score per class"
        return _score_output(candidates[0], reason)
    return _score_output(*_best(model, candidates, found))


def _score_output(chosen: OutputInfo, reason: str) -> ScoreOutput:
    shape = chosen.shape
    is_matrix = shape is not None and len(shape) == 2 and (chosen.classes is None or shape[1] == chosen.classes)
    return ScoreOutput(chosen.name, chosen.classes, is_matrix, reason)


def _class_count(shape: Sequence[int | None] | None, batch: int | None) -> tuple[int | None, str]:
    """Return the number of classes along the only possible axis, and the fault if there is none."""
    if shape is None:
        return None, ""
    rest = list(shape)
    axis = next((place for place, size in enumerate(rest[:2]) if size == batch), None)
    if axis is None and len(rest) == 1 and batch not in (1, None):
        return None, "no batch axis"
    if axis is None and len(rest) > 1:
        axis = 0
    if axis is not None:
        del rest[axis]
    wide = [size for size in rest if size != 1]
    if not wide:
        return 1, ONE_VALUE
    if len(wide) > 1:
        return None, "more than one axis besides the batch"
    return wide[0], ""


def _best(model: ir.Model, candidates: list[OutputInfo], found: str) -> tuple[OutputInfo, str]:
    """Return the scores among several candidates, and the reason."""
    values = {name_of(value): value for value in model.graph.outputs}
    left = _one_of_each_head(candidates, values)
    if len(left) == 1:
        return left[0], "the scores before the softmax" if _is_squashed(candidates, values) else "the others repeat it"
    ends = [one for one in left if not _feeds_another(values[one.name], [values[other.name] for other in left])]
    if len(ends) == 1:
        return ends[0], "computed from the others"
    for better, reason in (
        ([one for one in ends if not _OTHER_NAME.search(one.name)], "by the names of the outputs"),
        (_named_scores(ends), "by the names of the outputs"),
        (_deepest(ends, values), "the deepest; the others branch off earlier"),
    ):
        if len(better) == 1:
            return better[0], reason
        ends = better or ends
    raise ModelError(
        f"{len(ends)} outputs could be the class scores: {', '.join(one.name for one in ends)}",
        where=found,
        fix="name one with --output (output= in Python)",
    )


def _one_of_each_head(candidates: Sequence[OutputInfo], values: Mapping[str, ir.Value]) -> list[OutputInfo]:
    """Return one output per group with equal rankings: ``[N, classes]`` first, then the fewest squashing functions."""
    groups: dict[ir.Value, list[tuple[int, OutputInfo]]] = {}
    for one in candidates:
        root, squashed = _root(values[one.name])
        groups.setdefault(root, []).append((squashed, one))
    chosen = []
    for group in groups.values():
        _, best = min(group, key=lambda item: (item[0], 0 if item[1].shape is None else abs(len(item[1].shape) - 2)))
        chosen.append(best)
    return chosen


def _is_squashed(candidates: Sequence[OutputInfo], values: Mapping[str, ir.Value]) -> bool:
    return len({_root(values[one.name])[1] for one in candidates}) > 1


def _root(value: ir.Value) -> tuple[ir.Value, int]:
    """Return the source of a monotonically transformed value, and the number of squashing functions in between."""
    squashed = 0
    while (node := value.producer()) is not None and node.domain == "":
        if node.op_type in _SQUASHING:
            squashed += 1
        elif not (node.op_type in _RESHAPING or _is_scaling(node)):
            break
        source = node.inputs[0]
        if source is None or source.producer() is None:
            break
        value = source
    return value, squashed


def _is_scaling(node: ir.Node) -> bool:
    """Return whether a node scales all scores by one number, such as a temperature."""
    if node.op_type not in _SCALING or len(node.inputs) != 2:
        return False
    other = array(node.inputs[1])
    return other is not None and other.size == 1 and (node.op_type in ("Add", "Sub") or float(other.flat[0]) > 0)


def _feeds_another(value: ir.Value, others: Iterable[ir.Value]) -> bool:
    """Return whether another output is computed from this one, or from its source."""
    source, _ = _root(value)
    return any(other is not value and source in _upstream(other) for other in others)


def _upstream(value: ir.Value) -> set[ir.Value]:
    """Return all values that a value is computed from."""
    found: set[ir.Value] = set()
    pending = [value]
    while pending:
        node = pending.pop().producer()
        for source in () if node is None else reads(node):
            if source not in found:
                found.add(source)
                pending.append(source)
    return found


def _named_scores(candidates: Sequence[OutputInfo]) -> list[OutputInfo]:
    return [one for one in candidates if _SCORES_NAME.search(one.name)]


def _deepest(candidates: Sequence[OutputInfo], values: Mapping[str, ir.Value]) -> list[OutputInfo]:
    """Return the output after the most layers if all have the same classes: auxiliary heads branch off earlier."""
    if len({one.classes for one in candidates}) != 1:
        return []
    depth = [len(_layers(values[one.name])) for one in candidates]
    return [one for one, layers in zip(candidates, depth, strict=True) if layers == max(depth)]


def _layers(value: ir.Value) -> set[ir.Node]:
    nodes = {node for source in (value, *_upstream(value)) if (node := source.producer()) is not None}
    return {node for node in nodes if is_op(node, *LAYERS)}
