"""``quantkit compare``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quantkit.cli.app import app
from quantkit.cli.next_step import print_next_step
from quantkit.cli.options import (
    CheckPreprocessingOption,
    ExecutionOptions,
    InputOptions,
    LimitedImages,
    RunOption,
)
from quantkit.cli.progress import show_progress
from quantkit.cli.show import (
    despite_closed_pipe,
    give_result,
    print_files,
    print_lines,
    print_next,
    print_notes,
    print_preset_notes,
)
from quantkit.cli.terminal import console
from quantkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from quantkit.evaluation.gate import GateVerdict
    from quantkit.workflows.compare import ModelComparison
    from quantkit.workflows.vacc.error_breakdown import ErrorBreakdown


@app.command()
def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="The reference first, then the others: names in the run (fp32, int8), ONNX files of any tool, "
            "NAME=FILE.onnx, or card=DIR."
        ),
    ],
    on: LimitedImages,
    read: InputOptions,
    execution: ExecutionOptions,
    run: RunOption = None,
    drift_images: Annotated[int, typer.Option(min=0, help="Number of images to measure drift on; 0 for none.")] = 32,
    breakdown: Annotated[
        bool, typer.Option("--breakdown", help="Separate the card's preprocessing, fp16 and int8 (needs a run).")
    ] = False,
    runtime: Annotated[
        Literal["vamp", "vsx"],
        typer.Option(help="Preprocessing of --breakdown: that of vamp, or of vsx, the vendor's classification script."),
    ] = "vamp",
    latency: Annotated[bool, typer.Option("--latency", help="Measure latency too, on one thread.")] = False,
    datalist: Annotated[Path | None, typer.Option(help="Datalist of the results of a card (NAME=DIR).")] = None,
    check_preprocessing: CheckPreprocessingOption = True,
    json: Annotated[Path | None, typer.Option(help="Write the comparison as JSON.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table as CSV.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as Markdown.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a report: one HTML file that opens without a network.")
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help='End with code 20 if the measured values meet it, e.g. "top1_drop > 0.5 or agreement < 98". '
            "Repeatable; each condition counts.",
        ),
    ] = None,
    fail_if_proven: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help='End with code 20 if the whole 95 % interval meets it, e.g. "top1_drop > 0.5": fail if proven worse. '
            "Repeatable.",
        ),
    ] = None,
    fail_unless_proven: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help='End with code 20 unless the whole 95 % interval meets it, e.g. "top1_drop <= 0.5": '
            "fail unless proven within, the release gate. Repeatable.",
        ),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the verdicts of the conditions as JUnit XML.")] = None,
) -> None:
    """Compare models on the same images: accuracy, its difference with a 95 % interval, agreement, drift."""
    from quantkit.cli.evaluation_settings import comparison_settings
    from quantkit.evaluation.gate import GateMode, parse_gates, require
    from quantkit.evaluation.junit import error_report, junit_xml
    from quantkit.files import write_text
    from quantkit.report.tables import csv_text
    from quantkit.report.tables import markdown as markdown_text
    from quantkit.workflows.compare import compare as step
    from quantkit.workflows.project import load_project
    from quantkit.workflows.report import report
    from quantkit.workflows.vacc.error_breakdown import error_breakdown

    gates = parse_gates(
        {
            GateMode.FAIL_IF: fail_if,
            GateMode.FAIL_IF_PROVEN: fail_if_proven,
            GateMode.FAIL_UNLESS_PROVEN: fail_unless_proven,
        },
        latency=latency,
        drift=drift_images > 0,
    )
    if junit is not None and not gates:
        raise UsageError("needs a condition", where="--junit", fix="give --fail-if too")
    with error_report(junit):
        where, project = execution.arguments(), load_project()
        settings = comparison_settings(models, run, on, read, project)
        print_preset_notes(read.preset)
        if breakdown and settings.run is None:
            raise UsageError("needs a run", where="--breakdown", fix="give --run")
        merged = settings.shown(project, run, on, read)
        merged.add("models", tuple(models), given=models)
        on.show_limits(merged)
        execution.show(merged)
        with show_progress(merged.by_name, recorded="compare") as progress:
            result = step(
                models,
                **settings.arguments(),
                drift_images=drift_images,
                latency=latency,
                datalist=datalist,
                check_preprocessing=check_preprocessing,
                **where,
                progress=progress,
            )
        parts = None
        if breakdown and settings.run is not None:
            with show_progress() as progress:
                parts = error_breakdown(
                    settings.run,
                    images=result.source,
                    pipeline=settings.pipeline,
                    runtime=runtime,
                    threads=execution.threads,
                    progress=progress,
                )
        verdicts = [verdict for gate in gates for verdict in gate.verdicts(result)]
    # Files are written first, so that a closed pipe (`head`) does not lose them.
    if junit is not None:
        write_text(junit, junit_xml(result, verdicts))
    content = result.to_json()
    if verdicts:
        content["gates"] = [verdict.to_json() for verdict in verdicts]
    if parts is not None:
        content["breakdown"] = parts.to_json()
    give_result(content, json)
    if csv is not None:
        write_text(csv, csv_text(result))
    if markdown is not None:
        write_text(markdown, markdown_text(result, verdicts))
    if html is not None:
        report(result, html, verdicts=verdicts)
    # Nor may it turn a failed gate into a success.
    with despite_closed_pipe():
        _print(result, parts, verdicts)
        print_files(path for path in (json, csv, markdown, html, junit) if path is not None)
        if settings.run is not None:
            print_next_step(settings.run, "compare")
        elif html is None:
            print_next("compare", *models, *_repeated(on.images, read.preset), "--html", "report.html")
    require(verdicts)


def _repeated(images: str | None, preset: str | None) -> list[str]:
    """Return the options of a comparison without a run that the next one needs too."""
    given = {"--images": images, "--preset": preset}
    return [word for name, value in given.items() if value is not None for word in (name, value)]


def _print(result: "ModelComparison", breakdown: "ErrorBreakdown | None", verdicts: "Sequence[GateVerdict]") -> None:
    from quantkit.report.tables import accuracy_table, drift_table, notes

    console.print(accuracy_table(result))
    for candidate in result.candidates:
        if candidate.tensors:
            console.print(drift_table(candidate))
    if breakdown is not None:
        console.print(_breakdown_table(breakdown))
    print_lines(f"labels: {result.source.source}")
    print_notes(result.notes)
    print_lines(*dict.fromkeys((*notes(result), *(breakdown.notes if breakdown is not None else ()))))
    for verdict in verdicts:
        print_lines(verdict.line, style=None if verdict.passed else "red")


def _breakdown_table(breakdown: "ErrorBreakdown") -> "Table":
    from quantkit.report.tables import ABSENT, plain_table, points

    title = f"Error breakdown, from fp32 to the card: {breakdown.images:,} images"
    table = plain_table(title, ["change"], ("top-1", "agree", "Δ of this step", "Δ in all"), wide=None)
    table.add_row("fp32", f"{breakdown.top1:.2f}", ABSENT, ABSENT, ABSENT)
    for step in breakdown.steps:
        deltas = (points(one.value, one.ci95) for one in (step.of_step, step.in_all))
        table.add_row(f"then {step.name}", f"{step.top1:.2f}", f"{step.agreement:.2f}", *deltas)
    table.add_section()
    for step in breakdown.steps:
        alone = points(step.alone.value, step.alone.ci95)
        table.add_row(f"only {step.name}", ABSENT, ABSENT, ABSENT, alone)
    return table
