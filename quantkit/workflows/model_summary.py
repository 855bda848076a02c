"""What `quantkit.inspect` returns: a model as it is known before any image, and what is wrong with it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from quantkit.errors import QuantkitError
from quantkit.graph.coverage import Coverage
from quantkit.graph.inner_preprocessing import InnerPreprocessing
from quantkit.records import Records
from quantkit.report.html import Html, element

JSON_SCHEMA = 1
Shape = tuple[int | str | None, ...]


@dataclass(frozen=True, kw_only=True)
class TensorSummary:
    """One input or output.

    Attributes:
        name: of the tensor.
        dtype: element type, such as ``float32``; None where the model does not say.
        shape: sizes, names of free dimensions, None for a free dimension without a name; None where it is not known.
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
        name: of the input.
        layout: order of its axes, ``NCHW`` or ``NHWC``.
        channels: their number.
        height: in pixels, None where it is free.
        width: in pixels, None where it is free.
        batch: images at once, None where it is free.
    """

    name: str
    layout: str
    channels: int
    height: int | None
    width: int | None
    batch: int | None


@dataclass(frozen=True, kw_only=True)
class ScoresSummary:
    """The output that is taken for the class scores.

    Attributes:
        name: of the output.
        classes: their number, None where the model does not say.
        dataset: a data set with as many classes, None where none is known.
        softmax: the graph ends in a Softmax there, so the scores are probabilities.
    """

    name: str
    classes: int | None
    dataset: str | None
    softmax: bool


@dataclass(frozen=True, kw_only=True)
class FloatOperators:
    """Operators, other than layers, that stay in float for the same reason.

    Attributes:
        op_type: of all of them.
        why: the reason.
        names: of the nodes.
    """

    op_type: str
    why: str
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TargetSummary:
    """What becomes int8 for one target.

    Attributes:
        name: of the target.
        coverage: layers and multiply-adds in int8, and the layers that are not.
        float_operators: what else is left in float, and why.
    """

    name: str
    coverage: Coverage
    float_operators: tuple[FloatOperators, ...]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is wrong, or probably not as meant.

    Attributes:
        severity: ``error`` where `quantkit.calibrate` refuses the model, else ``warning``.
        what: the fault.
        where: the tensor, node or target concerned; None for the file.
        fix: what can be done about it, None where nothing is known.
    """

    severity: Literal["error", "warning"]
    what: str
    where: str | None
    fix: str | None

    @classmethod
    def of(cls, error: QuantkitError, path: str) -> "Problem":
        """Return the problem that an error tells of."""
        where = None if error.where in (None, path) else error.where
        return cls(severity="error", what=error.what, where=where, fix=error.fix)

    def __str__(self) -> str:
        """Return what, where and the fix in one line."""
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        return text if self.fix is None else f"{text}; {self.fix}"


@dataclass(frozen=True, kw_only=True)
class ModelSummary(Records):
    """A model as it is known before any image is seen.

    Attributes:
        path: the file.
        file_bytes: its size, external data included.
        opsets: version of each operator set that is imported, by domain; ONNX's own is ``ai.onnx``.
        ir_version: of the ONNX format.
        producer: the program that wrote it, empty where it does not say.
        inputs: all inputs that are fed.
        outputs: all outputs.
        image: the input that takes the image, None where none was found.
        scores: the output that is taken for the class scores, None where none was found.
        parameters: values stored in weights.
        parameter_types: parameters by element type.
        multiply_adds: for one image, None where they are not known.
        uncounted: layers whose multiply-adds are not known and not contained in ``multiply_adds``.
        assumed_size: ``(height, width)`` that was assumed where the model leaves it free, else None.
        operators: how often each is used, the most frequent first; those of other domains with the domain in front.
        targets: what becomes int8 for each target; empty where the model cannot be prepared.
        preprocessing: what the graph does to the image before the first layer, None where that is nothing.
        notes: what `quantkit.calibrate` would change in the graph and say.
        problems: what is wrong, errors first.
        next_command: the command that goes on from here, None where there are errors.

    Example:
        In the folder that ``quantkit demo`` makes:

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
        """The problems for which `quantkit.calibrate` refuses the model."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "schema": JSON_SCHEMA,
            "path": self.path,
            "file_bytes": self.file_bytes,
            "opsets": dict(self.opsets),
            "ir_version": self.ir_version,
            "producer": self.producer,
            "inputs": [asdict(one) for one in self.inputs],
            "outputs": [asdict(one) for one in self.outputs],
            "image": None if self.image is None else asdict(self.image),
            "scores": None if self.scores is None else asdict(self.scores),
            "parameters": self.parameters,
            "parameter_types": dict(self.parameter_types),
            "multiply_adds": self.multiply_adds,
            "uncounted": self.uncounted,
            "assumed_size": None if self.assumed_size is None else list(self.assumed_size),
            "operators": dict(self.operators),
            "targets": {
                one.name: {
                    "coverage": one.coverage.to_json(),
                    "float_operators": [asdict(kind) for kind in one.float_operators],
                }
                for one in self.targets
            },
            "preprocessing": None if self.preprocessing is None else self.preprocessing.to_json(),
            "notes": list(self.notes),
            "problems": [asdict(one) for one in self.problems],
            "next_command": self.next_command,
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a target: how many layers it has, and how many of them are int8."""
        return [
            {"target": one.name, "layers": one.coverage.layers, "float_layers": len(one.coverage.float_layers)}
            for one in self.targets
        ]

    def __str__(self) -> str:
        """Return the summary as plain text, one line a fact."""
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
