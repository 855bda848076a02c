"""Text of a model summary: labelled lines for terminals, pipes and notebooks."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from quantkit.graph.inner_preprocessing import InnerPreprocessing, numbers
from quantkit.report.tables import size
from quantkit.workflows.model_summary import ImageSummary, ModelSummary, Problem, TargetSummary, TensorSummary

_NAMED = 3
# A space that textwrap does not break at.
_FIXED_SPACE = "\u00a0"
_NOT_BEHIND_COMMA = re.compile(r"(?<!,) ")
_CHECK_PRESET = (
    "The file does not record the preprocessing used in training: check that the preset matches it, or give a "
    "YAML file (quantkit preprocess guess finds it from images and writes one)."
)
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Row:
    """One line.

    Attributes:
        label: label; empty if it is the same as in the line before.
        text: content.
        tone: style of the text.
        kind: where a narrow terminal breaks the text: at any space, between the items of a list, or nowhere.
    """

    label: str
    text: str
    tone: Literal["plain", "good", "warning", "error", "dim"] = "plain"
    kind: Literal["sentence", "list", "command"] = "sentence"

    def lines(self, width: int) -> list[str]:
        """Wrap the text to a width in characters, where it can be broken."""
        if self.kind == "command":
            return [self.text]
        text = _NOT_BEHIND_COMMA.sub(_FIXED_SPACE, self.text) if self.kind == "list" else self.text
        broken = textwrap.wrap(text, width, break_on_hyphens=False)
        return [line.replace(_FIXED_SPACE, " ") for line in broken] or [""]


def summary_rows(summary: ModelSummary, *, verbose: bool = False) -> list[Row]:
    """Return the lines of a summary.

    Args:
        summary: from `quantkit.inspect`.
        verbose: list every layer and operator in float by name, for every target, and all notes.
    """
    rows = [
        Row("file", _file(summary), kind="list"),
        *_labelled("input", [_input(one, summary.image) for one in summary.inputs] or ["none"]),
        *_labelled("output", [_output(one, summary) for one in summary.outputs] or ["none"]),
        Row("size", _size(summary), kind="list"),
        Row("operators", ", ".join(f"{kind} {count}" for kind, count in summary.operators.items()), kind="list"),
    ]
    if summary.preprocessing is not None:
        rows.append(Row("inside", inner_text(summary.preprocessing)))
    rows += _int8(summary)
    rows += _in_float(summary.targets, verbose)
    if verbose:
        rows += _labelled("note", list(summary.notes), "dim")
    rows += [_problem(one) for one in summary.problems]
    if summary.next_command is not None:
        rows += [Row("next", summary.next_command, kind="command"), Row("", _CHECK_PRESET, "dim")]
    return [replace(row, text=_printable(row.text)) for row in rows]


def _printable(text: str) -> str:
    """Return a text with control characters escaped: names come from the file and may contain terminal sequences."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def inner_text(inner: InnerPreprocessing) -> str:
    """Return a description of the preprocessing inside a graph."""
    text = "the graph begins with " + ", ".join(inner.steps)
    if not inner.normalizes:
        return text
    unit = "0..255" if inner.takes_bytes else "0..1"
    return f"{text}: it takes pixels of {unit} and computes (x - {numbers(inner.mean)}) / {numbers(inner.std)}"


def short_count(count: int) -> str:
    """Return a count with three digits and a unit: ``4.09 G``."""
    for unit, sign in _UNITS:
        if count >= 0.9995 * unit:
            return f"{float(f'{count / unit:.3g}'):g} {sign}"
    return str(count)


def _labelled(label: str, texts: list[str], tone: Literal["plain", "dim"] = "plain") -> list[Row]:
    return [Row("" if index else label, text, tone) for index, text in enumerate(texts)]


def _file(summary: ModelSummary) -> str:
    opsets = ", ".join(
        f"opset {version}" if domain == "ai.onnx" else f"{domain} {version}"
        for domain, version in summary.opsets.items()
    )
    parts = [summary.path, size(summary.file_bytes), opsets, f"IR {summary.ir_version}"]
    return ", ".join([*parts, f"by {summary.producer}"] if summary.producer else parts)


def _input(tensor: TensorSummary, image: ImageSummary | None) -> str:
    if image is None or tensor.name != image.name:
        return str(tensor)
    sides = "any size" if image.height is None or image.width is None else f"{image.height} x {image.width}"
    batch = "any batch" if image.batch is None else f"batch {image.batch}"
    return f"{tensor}, the image: {image.layout}, {_channels(image.channels)}, {sides}, {batch}"


def _channels(count: int) -> str:
    return f"{count} channel" if count == 1 else f"{count} channels"


def _output(tensor: TensorSummary, summary: ModelSummary) -> str:
    scores = summary.scores
    if scores is None or tensor.name != scores.name:
        return str(tensor) if scores is None else f"{tensor}, not used"
    text = f"{tensor}, the scores"
    if scores.classes is not None:
        text += f": {scores.classes:,} {'class' if scores.classes == 1 else 'classes'}" + (
            f" (as {scores.dataset})" if scores.dataset else ""
        )
    return f"{text}, after a Softmax" if scores.softmax else text


def _size(summary: ModelSummary) -> str:
    text = f"{short_count(summary.parameters)} parameters"
    if set(summary.parameter_types) - {"float32"}:
        text += f" ({', '.join(f'{kind} {short_count(count)}' for kind, count in summary.parameter_types.items())})"
    if summary.multiply_adds is not None:
        text += f", {short_count(summary.multiply_adds)} multiply-adds per image"
        if summary.assumed_size is not None:
            height, width = summary.assumed_size
            text += f" of {height} x {width} (--size gives another)"
    if summary.uncounted:
        layers = "1 layer" if summary.uncounted == 1 else f"{summary.uncounted} layers"
        text += f", and those of {layers} of unknown size"
    return text


def _int8(summary: ModelSummary) -> Iterator[Row]:
    width = max((len(one.name) for one in summary.targets), default=0)
    for index, one in enumerate(summary.targets):
        tone: Literal["good", "warning"] = "warning" if one.coverage.is_low else "good"
        yield Row("" if index else "int8", f"{one.name:{width}}  {one.coverage.summary()}", tone)


def _in_float(targets: tuple[TargetSummary, ...], verbose: bool) -> list[Row]:
    """Return the layers in float of every target; other operators of the default target, or of all if verbose."""
    texts: dict[str, list[str]] = {}
    for index, one in enumerate(targets):
        for text in _float_texts(one, verbose, layers_only=index > 0 and not verbose):
            texts.setdefault(text, []).append(one.name)
    every = len(targets)
    return _labelled(
        "in float",
        [text if len(names) == every else f"{', '.join(names)}: {text}" for text, names in texts.items()],
        "dim",
    )


def _float_texts(target: TargetSummary, verbose: bool, layers_only: bool) -> Iterator[str]:
    for why, layers in target.coverage.by_reason().items():
        yield f"{_some([layer.name for layer in layers], verbose)}: {why}"
    if layers_only:
        return
    kinds: dict[str, list[str]] = {}
    for kind in target.float_operators:
        count = f" {len(kind.names)}" if len(kind.names) > 1 else ""
        names = f" ({', '.join(kind.names)})" if verbose else ""
        kinds.setdefault(kind.why, []).append(f"{kind.op_type}{count}{names}")
    for why, texts in kinds.items():
        yield f"{', '.join(texts)}: {why}"


def _some(names: list[str], verbose: bool) -> str:
    if verbose or len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def _problem(problem: Problem) -> Row:
    return Row(problem.severity, str(problem), problem.severity)
