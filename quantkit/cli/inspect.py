"""``quantkit inspect``."""

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli.app import app
from quantkit.cli.options import InputOption, OutputOption
from quantkit.cli.terminal import console, session
from quantkit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from quantkit.workflows.model_summary import ModelSummary

_STYLES = {"plain": "", "good": "green", "warning": "yellow", "error": "red", "dim": "dim"}
_LABEL_WIDTH = 12
_LEAST_WIDTH = 20


@app.command()
def inspect(
    model: Annotated[
        Path | None, typer.Argument(help="ONNX file; that of quantkit.yaml by default.", show_default=False)
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="Image size, if the model has free dimensions: 224, or HEIGHTxWIDTH."),
    ] = None,
    output: OutputOption = None,
    input_: InputOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Describe a model: inputs, outputs, cost, what becomes int8, problems and their fixes.

    Exit code 0 if calibrate accepts the model, with or without warnings; else 7, after the description is printed.
    """
    from quantkit.config.project import PROJECT_FILE
    from quantkit.graph.fixed_inputs import parse_inputs
    from quantkit.workflows.inspect import inspect as step
    from quantkit.workflows.project import load_project

    model = model or load_project().model
    if model is None:
        raise UsageError("no model was given", fix=f"give an ONNX file, or name one in {PROJECT_FILE}")
    summary = step(model, size=parse_size(size), output=output, inputs=parse_inputs(input_ or ()))
    session.event("result", result=summary.to_json())
    if json_:
        json.dump(summary.to_json(), sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
        sys.stdout.write("\n")
    else:
        _print(summary)
    if summary.errors:
        more = f" (and {len(summary.errors) - 1} more)" if len(summary.errors) > 1 else ""
        raise ModelError(f"calibrate refuses it: {summary.errors[0]}{more}", where=model)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return height and width from ``224`` or ``224x320``.

    Raises:
        UsageError: the text has neither form.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text)
    if found is None:
        raise UsageError(f"invalid size {text!r}", where="--size", fix="write 224, or 224x320 for height and width")
    return int(found[1]), int(found[2] or found[1])


def _print(summary: "ModelSummary") -> None:
    from rich.text import Text

    from quantkit.workflows.summary_text import summary_rows

    # One line per fact, however long, if the output is not a terminal: for grep and cut.
    width = console.width - _LABEL_WIDTH if console.is_terminal else sys.maxsize
    for row in summary_rows(summary, verbose=session.verbose):
        label = _STYLES[row.tone] if row.tone in ("warning", "error") else "bold"
        for index, line in enumerate(row.lines(max(width, _LEAST_WIDTH))):
            shown = Text(f"{'' if index else row.label:{_LABEL_WIDTH}}", style=label)
            console.print(shown.append(line, style=_STYLES[row.tone]), soft_wrap=True)
