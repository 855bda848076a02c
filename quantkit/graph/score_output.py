"""Which output of a classifier holds its class scores, found by evidence and never by position.

An output can be the scores where it holds floating-point numbers along one axis besides the batch. Of several, those
are left out that others are computed from (features), that are the largest of others (TopK), that say the same behind a
softmax, and auxiliary heads. What is left must be one; otherwise the user is asked.
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

ONE_VALUE = "one value an image"
AS_ASKED = "as asked for"

# Images in the batch that an output's shape is seen for where the batch is dynamic; 1 would look like any other axis.
PROBE_BATCH = 2


@dataclass(frozen=True)
class OutputInfo:
    """An input or output of a file.

    Attributes:
        name: of the value.
        dtype: its element type, None where it is unknown.
        shape: None where it is unknown.
        classes: scores of an image where it can be the class scores, None where their number is not known.
        fault: why it cannot be the class scores; empty where it can.
    """

    name: str
    dtype: ir.DataType | None
    shape: ir.Shape | None
    classes: int | None = None
    fault: str = ""

    @classmethod
    def of(cls, value: ir.Value, classes: int | None = None, fault: str = "") -> "OutputInfo":
        """Return a value's description."""
        shape = None if value.shape is None else ir.Shape(list(value.shape))
        return cls(name_of(value), value.dtype, shape, classes, fault)

    def __str__(self) -> str:
        text = f"{self.name} {shape_text(self.shape)} {type_name(self.dtype)}"
        return f"{text} ({self.fault})" if self.fault else text


@dataclass(frozen=True)
class ScoreOutput:
    """The output that holds the class scores.

    Attributes:
        name: of the output.
        classes: number of classes, None where nothing tells it.
        is_matrix: whether its shape is ``[N, classes]``; otherwise it has other axes of one entry, or no batch axis.
        reason: why it was taken.
    """

    name: str
    classes: int | None
    is_matrix: bool
    reason: str


def describe_outputs(
    model: ir.Model, image: ImageInput, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[OutputInfo, ...]:
    """Return every output, with what speaks against its being the class scores.

    Args:
        model: as read from its file.
        image: its image input.
        shapes: shapes that outputs were seen to have for a batch of ``image.batch`` images, `PROBE_BATCH` where that is
            dynamic.
    """
    batch = image.batch or PROBE_BATCH
    found = []
    for value in model.graph.outputs:
        if name_of(value) in shapes:
            classes, fault = _class_count(shapes[name_of(value)], batch)
        else:
            classes, fault = _class_count(dims(value), image.batch)
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            classes, fault = None, "no tensor"
        elif value.dtype is not None and value.dtype not in _FLOATS:
            classes, fault = None, "not floating point"
        elif not fault and (node := value.producer()) is not None and node.op_type in _SELECTING:
            fault = f"a selection of other values, by {node.op_type}"
        found.append(OutputInfo.of(value, classes, fault))
    return tuple(found)


def undecided(model: ir.Model, image: ImageInput) -> bool:
    """Tell whether the shapes of a model's float outputs are not known well enough to choose among them."""
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
    """Return the output that holds the class scores.

    Args:
        model: as read from its file.
        outputs: from `describe_outputs`.
        wanted: name of the output to take; absent, it is found.

    Raises:
        ModelError: there is no such output, none looks like class scores, or several do.
    """
    found = "; ".join(str(one) for one in outputs) or "no output at all"
    if wanted is not None:
        chosen = next((one for one in outputs if one.name == wanted), None)
        if chosen is None:
            raise ModelError(f"the model has no output {wanted!r}", where=found, fix="give --output one of these names")
        if chosen.fault not in ("", ONE_VALUE):
            raise ModelError(f"the output {wanted!r} is no class scores: {chosen.fault}", where=found)
        return _score_output(chosen, AS_ASKED)
    candidates = [one for one in outputs if not one.fault]
    if not candidates:  # a network that tells two classes apart by one number
        candidates = [one for one in outputs if one.fault == ONE_VALUE]
    if not candidates:
        raise ModelError(
            "no output looks like class scores [N, classes]",
            where=found,
            fix="export the model with its logits among the outputs",
        )
    if len(candidates) == 1:
        reason = "the only output" if len(outputs) == 1 else "the only one with one score a class"
        return _score_output(candidates[0], reason)
    return _score_output(*_best(model, candidates, found))


def _score_output(chosen: OutputInfo, reason: str) -> ScoreOutput:
    shape = chosen.shape
    is_matrix = shape is not None and len(shape) == 2 and (chosen.classes is None or shape[1] == chosen.classes)
    return ScoreOutput(chosen.name, chosen.classes, is_matrix, reason)


def _class_count(shape: Sequence[int | None] | None, batch: int | None) -> tuple[int | None, str]:
    """Return the number of classes along the one axis that can be theirs, and the fault where there is no such axis."""
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
        return None, "more than one axis beside the batch"
    return wide[0], ""


def _best(model: ir.Model, candidates: list[OutputInfo], found: str) -> tuple[OutputInfo, str]:
    """Return the scores among several outputs that could be them, and why."""
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
    """Return one output of each group that ranks the classes alike: the least squashed, of those ``[N, classes]``."""
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
    """Return the value that another one repeats in another form, and the number of squashing functions between."""
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
    """Tell whether a node applies one number to all scores, such as a temperature."""
    if node.op_type not in _SCALING or len(node.inputs) != 2:
        return False
    other = array(node.inputs[1])
    return other is not None and other.size == 1 and (node.op_type in ("Add", "Sub") or float(other.flat[0]) > 0)


def _feeds_another(value: ir.Value, others: Iterable[ir.Value]) -> bool:
    """Tell whether another output is computed from this one, or from what it repeats."""
    source, _ = _root(value)
    return any(other is not value and source in _upstream(other) for other in others)


def _upstream(value: ir.Value) -> set[ir.Value]:
    """Return all values that one is computed from."""
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
    """Return the output behind the most layers where all have the same classes: auxiliary heads branch off earlier."""
    if len({one.classes for one in candidates}) != 1:
        return []
    depth = [len(_layers(values[one.name])) for one in candidates]
    return [one for one, layers in zip(candidates, depth, strict=True) if layers == max(depth)]


def _layers(value: ir.Value) -> set[ir.Node]:
    nodes = {node for source in (value, *_upstream(value)) if (node := source.producer()) is not None}
    return {node for node in nodes if is_op(node, *LAYERS)}
