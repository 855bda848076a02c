"""The result of `quantkit.inspect`: a description of a model and its problems."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from quantkit.errors import QuantkitError
from quantkit.graph.coverage import Coverage
from quantkit.graph.inner_preprocessing import InnerPreprocessing
from quantkit.records import Records, plain, plain_fields
from quantkit.report.html import Html, element

JSON_SCHEMA = 1
Shape = tuple[int | str | None, ...]


@dataclass(frozen=True, kw_only=True)
class TensorSummary:
    """An input or output.

    Attributes:
        name: name of the tensor.
        dtype: element type, such as ``float32``; None if unknown.
        shape: sizes, names of free dimensions, None for a free dimension without a name; None if unknown.
    """

    name: str
    dtype: str | None
    shape: Shape | None

    def __str__(self) -> str:
        """Return ``input: float32 [N, 3, 224, 224]``."""
        sizes = "of unknown shape" if self.shape is None else f"[{', '.join(str(size or '?') for size in self.shape)}]"
        return f"{self.name}: {self.dtype or 'of unknown type'} {sizes}"


@dataclass(frozen=True, kw_only=True)
class ImageSummary:
    """The input that takes the image.

    Attributes:
        name: name of the input.
        layout: order of its axes, ``NCHW`` or ``NHWC``.
        channels: number of channels.
        height: height in pixels, None if free.
        width: width in pixels, None if free.
        batch: batch size, None if free.
    """

    name: str
    layout: str
    channels: int
    height: int | None
    width: int | None
    batch: int | None


@dataclass(frozen=True, kw_only=True)
class ScoresSummary:
    """The output used as class scores.

    Attributes:
        name: name of the output.
        classes: number of classes, None if unknown.
        dataset: a known data set with this number of classes, or None.
        softmax: the output comes from a Softmax, so the scores are probabilities.
    """

    name: str
    classes: int | None
    dataset: str | None
    softmax: bool


@dataclass(frozen=True, kw_only=True)
class FloatOperators:
    """Operators of one type, other than layers, that stay in float for the same reason.

    Attributes:
        op_type: operator type.
        why: the reason.
        names: names of the nodes.
    """

    op_type: str
    why: str
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TargetSummary:
    """Int8 coverage for one target.

    Attributes:
        name: name of the target.
        coverage: layers and multiply-adds in int8, and the layers in float.
        float_operators: other operators in float, with the reasons.
    """

    name: str
    coverage: Coverage
    float_operators: tuple[FloatOperators, ...]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An error or a probable mistake.

    Attributes:
        severity: ``error`` if `quantkit.calibrate` rejects the model, else ``warning``.
        what: the fault.
        where: the tensor, node or target concerned; None for the file.
        fix: how to fix it, None if unknown.
    """

    severity: Literal["error", "warning"]
    what: str
    where: str | None
    fix: str | None

    @classmethod
    def of(cls, error: QuantkitError, path: str) -> "Problem":
        """Return the problem that an error describes."""
        where = None if error.where in (None, path) else error.where
        return cls(severity="error", what=error.what, where=where, fix=error.fix)

    def __str__(self) -> str:
        """Return location, fault and fix in one line."""
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        return text if self.fix is None else f"{text}; {self.fix}"


@dataclass(frozen=True, kw_only=True)
class ModelSummary(Records):
    """Description of a model.

    Attributes:
        path: the file.
        file_bytes: size in bytes, external data included.
        opsets: version of each imported operator set by domain; ONNX's own is ``ai.onnx``.
        ir_version: version of the ONNX IR.
        producer: the program that wrote the file, empty if unknown.
        inputs: all inputs that need a value.
        outputs: all outputs.
        image: the image input, None if none was found.
        scores: the output used as class scores, None if none was found.
        parameters: number of weight values.
        parameter_types: parameters by element type.
        multiply_adds: multiply-adds for one image, None if unknown.
        uncounted: number of layers with unknown multiply-adds, not included in ``multiply_adds``.
        assumed_size: ``(height, width)`` assumed for free dimensions, else None.
        operators: number of nodes by operator type, most frequent first; prefixed with the domain if it is not ONNX's.
        targets: int8 coverage of each target; empty if the model cannot be prepared.
        preprocessing: normalization of the image inside the graph, None if there is none.
        notes: changes that `quantkit.calibrate` would make to the graph.
        problems: errors, then warnings.
        next_command: the command to run next, None if there are errors.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> [row["target"] for row in quantkit.inspect("mini_iresnet.onnx").rows()]
        ['ort', 'tensorrt', 'vacc']
    """

    path: str
    file_bytes: int
    opsets: Mapping[str, int]
    ir_version: int
    producer: str
    inputs: tuple[TensorSummary, ...]
    outputs: tuple[TensorSummary, ...]
    image: ImageSummary | None
    scores: ScoresSummary | None
    parameters: int
    parameter_types: Mapping[str, int]
    multiply_adds: int | None
    uncounted: int
    assumed_size: tuple[int, int] | None
    operators: Mapping[str, int]
    targets: tuple[TargetSummary, ...]
    preprocessing: InnerPreprocessing | None
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]
    next_command: str | None

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems for which `quantkit.calibrate` rejects the model."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        targets = {
            one.name: {"coverage": one.coverage.to_json(), "float_operators": plain(one.float_operators)}
            for one in self.targets
        }
        return {"schema": JSON_SCHEMA, **plain_fields(self), "targets": targets}

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per target: the number of layers, and how many of them are int8."""
        return [
            {"target": one.name, "layers": one.coverage.layers, "float_layers": len(one.coverage.float_layers)}
            for one in self.targets
        ]

    def __str__(self) -> str:
        """Return the summary as plain text, one line per fact."""
        from quantkit.workflows.summary_text import summary_rows

        return "\n".join(f"{row.label:12}{row.text}".rstrip() for row in summary_rows(self))

    def _repr_html_(self) -> Html:
        """Return the summary as a table, for notebooks."""
        from quantkit.workflows.summary_text import summary_rows

        rows = [
            element("tr", element("th", row.label, style="text-align:left"), element("td", row.text, style=_LEFT))
            for row in summary_rows(self)
        ]
        return element("table", element("tbody", *rows))


_LEFT = "text-align:left;white-space:pre-wrap"
