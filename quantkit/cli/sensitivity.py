"""``quantkit sensitivity``."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quantkit.cli.app import app
from quantkit.cli.next_step import print_next_step
from quantkit.cli.options import (
    EvaluatedImages,
    ExecutionOptions,
    JsonOption,
    MethodOptions,
    QuantizationOptions,
    RunOption,
    SubjectArgument,
    given_once,
)
from quantkit.cli.progress import show_progress
from quantkit.cli.show import give_result, print_files, print_lines, print_next, print_notes
from quantkit.cli.terminal import console
from quantkit.config.method import MethodName

if TYPE_CHECKING:
    from rich.table import Table

    from quantkit.sensitivity.result import Figures, Sensitivity


@dataclass(frozen=True, kw_only=True)
class RunMethodOptions(MethodOptions):
    """The calibration method, that of the run by default, and what runs the model."""

    method: Annotated[
        MethodName | None, typer.Option(help="Calibration method.", show_default="that of the run's int8 model")
    ] = None


@app.command()
def sensitivity(
    on: EvaluatedImages,
    by_method: RunMethodOptions,
    given: QuantizationOptions,
    execution: ExecutionOptions,
    subject: SubjectArgument = None,
    run: RunOption = None,
    by: Annotated[
        Literal["isolated", "leave-one-out", "accuracy"],
        typer.Option(
            help="Order of the layers: noise of the layer alone in int8, noise saved by it alone in float, or accuracy."
        ),
    ] = "isolated",
    count: Annotated[int | None, typer.Option(min=1, help="Number of images.", show_default="a few dozen")] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of layers to print; files contain all.")
    ] = None,
    bias_correction: Annotated[
        bool,
        typer.Option("--bias-correction/--no-bias-correction", help="Apply the run's bias correction."),
    ] = True,
    json: JsonOption = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table as CSV.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the table and its bars.")] = None,
) -> None:
    """Measure the cost of each layer, isolated and left out; resumable.

    With --device, fp32 and all int8 models run there. A correction of biases is fitted on the CPU.
    """
    from quantkit.config.method import Auto
    from quantkit.config.settings import Settings
    from quantkit.files import write_text
    from quantkit.report.sections.sensitivity import summary
    from quantkit.report.sensitivity import sensitivity_page
    from quantkit.runs.folder import RunFolder
    from quantkit.workflows.project import load_project, run_of_subject
    from quantkit.workflows.quantized_files import method_of_run
    from quantkit.workflows.run_results import sensitivity_path
    from quantkit.workflows.sensitivity import sensitivity as step
    from quantkit.workflows.sensitivity_decision import compare_command, decide, quantize_command

    place = given_once(subject, run, "run")
    where, project = execution.arguments(), load_project()
    images = on.completed(project, own_images=by == "accuracy")
    folder = run_of_subject(place, project)
    method, target = by_method.method_and_target(project)
    if isinstance(method, Auto):
        method = method_of_run(RunFolder(folder).read(), target)
    options = given.quantize_options(project, bias_correction=bias_correction)
    merged = Settings(project)
    merged.add("run", folder, given=place, key="run")
    by_method.show_method(merged, method, target)
    merged.add("by", by, given=by if by != "isolated" else None)
    merged.add("count", count, given=count)
    given.show_options(merged, options, bias=bias_correction)
    merged.add("images", images.images, given=on.images, key="images")
    with show_progress(merged.by_name, recorded="sensitivity") as progress:
        found = step(
            folder,
            method=method,
            target=target,
            options=options,
            by=by,
            count=count,
            **images.arguments(),
            **where,
            progress=progress,
        )
    decision = decide(found)
    # Files are written first, so that a closed pipe (`head`) does not lose them.
    content = found.to_json() | {"decision": decision.to_json()}
    give_result(content, json)
    if csv is not None:
        write_text(csv, found.csv_text())
    if html is not None:
        write_text(html, sensitivity_page(found, decision.lines()))
    console.print(_table(found, top))
    print_lines(*summary(found))
    print_lines(*decision.lines(), style="bold")
    print_notes(found.notes)
    print_files((sensitivity_path(RunFolder(folder), found.target), *(one for one in (json, csv, html) if one)))
    if not decision.layers:
        print_next_step(folder, "sensitivity")
        return
    for line in (quantize_command(folder, found, method, options, decision.skips), compare_command(folder, found)):
        print_next(*shlex.split(line)[1:])


def _table(found: "Sensitivity", top: int | None) -> "Table":
    """Return one row per layer; with labels, accuracy replaces operator and noise."""
    from quantkit.report.names import Name
    from quantkit.report.tables import plain_table, share

    labelled = found.whole.accuracy is not None
    shown = found.layers if top is None else found.layers[:top]
    many = "" if len(shown) == len(found.layers) else f", {len(shown)} of {len(found.layers)} layers"
    figures = ("Δ top-1, points", "agree") if labelled else ("dB", "KL", "noise")
    # The kind is a heading of its first figure only, which leaves room for the names of nodes.
    headings = [
        f"{'' if index else kind}\n{name}" for kind in ("isolated", "left out") for index, name in enumerate(figures)
    ]
    text = ("layer", "node") if labelled else ("layer", "node", "op")
    title = f"{found.model}: layers isolated and left out{many}"
    table = plain_table(title, text, headings if labelled else ("MACs", *headings), wide=1)
    names = [layer.node for layer in shown]
    for layer in shown:
        name = "" if layer.conv_index is None else layer.skip
        node = Name(layer.node, names, least=11)
        about = (name, node) if labelled else (name, node, layer.op_type[:6], share(layer.macs_share, 1))
        table.add_row(*about, *(cell for one in (layer.isolated, layer.leave_one_out) for cell in _cells(one)))
    return table


def _cells(figures: "Figures") -> tuple[str, ...]:
    from quantkit.report.tables import MINUS, decibels, points, share

    if figures.accuracy is None:
        return decibels(figures.sqnr_db), f"{figures.kl:.1g}", share(figures.share, 0).replace("-", MINUS)
    accuracy = figures.accuracy
    return points(accuracy.delta_top1, accuracy.delta_top1_ci95), f"{accuracy.agreement:.2f}"
