"""``quantkit quantize``."""

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli.app import app
from quantkit.cli.options import (
    MethodOptions,
    QuantizationOptions,
    RequireCoverageOption,
    RunOption,
    SubjectArgument,
    given_once,
)
from quantkit.cli.progress import show_progress
from quantkit.cli.show import (
    parse_percent,
    print_coverage,
    print_files,
    print_lines,
    print_next,
    print_notes,
    print_selection,
)
from quantkit.cli.terminal import session


@app.command()
def quantize(
    by: MethodOptions,
    given: QuantizationOptions,
    subject: SubjectArgument = None,
    run: RunOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="ONNX file to write.", show_default="int8.onnx or int8-METHOD.onnx in the run folder"),
    ] = None,
    bias_correction: Annotated[
        bool,
        typer.Option(
            "--bias-correction/--no-bias-correction",
            help="Correct biases on the calibration images, if available, where it reduces the error.",
        ),
    ] = True,
    explain: Annotated[
        bool, typer.Option("--explain", help="List how each operator is quantized, or why it is not.")
    ] = False,
    require_coverage: RequireCoverageOption = None,
) -> None:
    """Compute the ranges by another method from the statistics of a run, and write the int8 model."""
    from quantkit.config.settings import Settings
    from quantkit.runs.folder import RECORD
    from quantkit.workflows.project import load_project, run_of_subject
    from quantkit.workflows.quantize import quantize as step

    project = load_project()
    options = given.quantize_options(project, bias_correction=bias_correction)
    place = given_once(subject, run, "run")
    folder = run_of_subject(place, project)
    method, target = by.method_and_target(project)
    merged = Settings(project)
    merged.add("run", folder, given=place, key="run")
    by.show_method(merged, method, target)
    given.show_options(merged, options, bias=bias_correction)
    with show_progress(merged.by_name, recorded="quantize") as progress:
        done = step(
            folder,
            method=method,
            target=target,
            options=options,
            out=out,
            require_coverage=parse_percent(require_coverage, "--require-coverage", all_allowed=True),
            progress=progress,
        )
    session.event("result", result=done.to_json())
    if explain:
        for row in done.explain():
            print_lines(f"{row.kind:8}  {row.op_type:18}  {row.how:9}  {row.name}")
            if row.why:
                print_lines(f"{'':10}{row.why}", style="dim")
    print_selection(done.selection)
    print_notes(done.notes)
    print_files(dict.fromkeys((done.path, *done.files, folder / RECORD)))
    print_coverage(done.coverage)
    print_next("compare", "fp32", done.name, "--run", folder)
