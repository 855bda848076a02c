"""``quantkit quantize``."""

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli.app import app
from quantkit.cli.options import (
    ActivationsOption,
    FractionOption,
    KeepOutliersOption,
    MethodOrAutoOption,
    PerChannelOption,
    PowerOfTwoOption,
    RequireCoverageOption,
    RunArgument,
    RunOption,
    SkipOption,
    TargetOption,
    WeightBitsOption,
    given_once,
)
from quantkit.cli.progress import show_progress
from quantkit.cli.show import (
    parse_percent,
    print_coverage,
    print_files,
    print_next,
    print_notes,
    print_selection,
)
from quantkit.cli.terminal import console, session


@app.command()
def quantize(
    subject: RunArgument = None,
    run: RunOption = None,
    method: MethodOrAutoOption = None,
    fraction: FractionOption = None,
    target: TargetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="ONNX file to write.", show_default="int8.onnx or int8-METHOD.onnx in the run folder"),
    ] = None,
    per_channel: PerChannelOption = None,
    activations: ActivationsOption = None,
    weight_bits: WeightBitsOption = None,
    power_of_two: PowerOfTwoOption = None,
    skip: SkipOption = None,
    bias_correction: Annotated[
        bool,
        typer.Option(
            "--bias-correction/--no-bias-correction",
            help="Correct biases on the calibration images, if available, where it reduces the error.",
        ),
    ] = True,
    keep_outliers: KeepOutliersOption = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="List how each operator is quantized, or why it is not.")
    ] = False,
    require_coverage: RequireCoverageOption = None,
) -> None:
    """Compute the ranges by another method from the statistics of a run, and write the int8 model."""
    from quantkit.config.settings import Settings
    from quantkit.runs.configuration import record_settings
    from quantkit.targets import parse_target
    from quantkit.workflows.project import load_project, run_of_subject
    from quantkit.workflows.quantize import QuantizeOptions
    from quantkit.workflows.quantize import quantize as step
    from quantkit.workflows.resolve import method_of

    project = load_project(Path())
    options = QuantizeOptions(
        per_channel=project.per_channel if per_channel is None else per_channel,
        activation_type=activations,
        weight_bits=weight_bits,
        power_of_two=power_of_two,
        skip=tuple(skip or project.skip),
        bias_correction=bias_correction,
        keep_outliers=keep_outliers,
    )
    given = given_once(subject, run, "run")
    folder = run_of_subject(given, project, Path())
    chosen = method_of(method, fraction, project)
    aim = parse_target(target or project.target or "ort")
    merged = Settings(project)
    merged.add("run", folder, given=given, key="run")
    merged.add("method", chosen, given=method or fraction, key="method")
    merged.add("target", aim.name, given=target, key="target")
    merged.add("per channel", options.per_channel, given=per_channel, key="per_channel")
    merged.add("activations", activations, given=activations)
    merged.add("weight bits", weight_bits, given=weight_bits)
    merged.add("power of two", power_of_two, given=power_of_two)
    merged.add("skip", options.skip, given=skip, key="skip")
    merged.add("bias correction", bias_correction, given=None if bias_correction else False)
    merged.add("keep outliers", keep_outliers or None, given=keep_outliers)
    with show_progress(merged.by_name) as progress:
        done = step(
            folder,
            method=chosen,
            target=aim,
            options=options,
            out=out,
            require_coverage=parse_percent(require_coverage, "--require-coverage", all_allowed=True),
            progress=progress,
        )
    record_settings(folder, f"quantize {done.name}", merged.by_name)
    session.event("result", result=done.to_json())
    if explain:
        for row in done.explain():
            console.print(f"{row.kind:8}  {row.op_type:18}  {row.how:9}  {row.name}", soft_wrap=True, markup=False)
            if row.why:
                console.print(f"{'':10}{row.why}", soft_wrap=True, markup=False, style="dim")
    print_selection(done.selection)
    print_notes(done.notes)
    print_files(dict.fromkeys((done.path, *done.files)))
    print_coverage(done.coverage)
    print_next("compare", "fp32", done.name, "--run", folder)
