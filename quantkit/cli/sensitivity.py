"""``quantkit sensitivity``."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quantkit.cli.app import app
from quantkit.cli.options import (
    ActivationsOption,
    BatchOption,
    ClusterOption,
    DeviceOption,
    FractionOption,
    ImagesOption,
    KeepOutliersOption,
    LabelsOption,
    PerChannelOption,
    PowerOfTwoOption,
    ProviderOption,
    RunArgument,
    RunOption,
    SkipDamagedOption,
    SkipOption,
    TargetOption,
    WeightBitsOption,
    given_once,
    images_given,
)
from quantkit.cli.progress import show_progress
from quantkit.cli.show import print_files, print_next, print_notes
from quantkit.cli.terminal import console, session
from quantkit.config.choices import MethodName

if TYPE_CHECKING:
    from rich.table import Table

    from quantkit.sensitivity.result import Figures, Sensitivity


@app.command()
def sensitivity(
    subject: RunArgument = None,
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
    method: Annotated[
        MethodName | None, typer.Option(help="Calibration method.", show_default="that of the run's int8 model")
    ] = None,
    fraction: FractionOption = None,
    target: TargetOption = None,
    per_channel: PerChannelOption = None,
    activations: ActivationsOption = None,
    weight_bits: WeightBitsOption = None,
    power_of_two: PowerOfTwoOption = None,
    skip: SkipOption = None,
    bias_correction: Annotated[
        bool,
        typer.Option("--bias-correction/--no-bias-correction", help="Apply the run's bias correction."),
    ] = True,
    keep_outliers: KeepOutliersOption = False,
    images: ImagesOption = None,
    skip_damaged: SkipDamagedOption = False,
    labels: LabelsOption = None,
    names: Annotated[Path | None, typer.Option(help="Class names, one per line.")] = None,
    exclude: Annotated[Path | None, typer.Option(help="Calibration set whose images are left out.")] = None,
    device: DeviceOption = "cpu",
    batch: BatchOption = 1,
    provider_option: ProviderOption = None,
    cluster: ClusterOption = None,
    threads: Annotated[int | None, typer.Option(help="Number of worker threads.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all figures as JSON.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table as CSV.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the table and its bars.")] = None,
) -> None:
    """Measure the cost of each layer, isolated and left out; resumable.

    With --device, fp32 and all int8 models run there. A correction of biases is fitted on the CPU.
    """
    from quantkit.config.settings import Settings
    from quantkit.engine.device import Device
    from quantkit.files import write_json, write_text
    from quantkit.report.sections.sensitivity import summary
    from quantkit.report.sensitivity import sensitivity_page
    from quantkit.runs.configuration import record_settings
    from quantkit.runs.folder import RunFolder
    from quantkit.targets import parse_target
    from quantkit.workflows.project import load_project, run_of_subject
    from quantkit.workflows.quantize import QuantizeOptions
    from quantkit.workflows.resolve import method_for_run
    from quantkit.workflows.run_results import sensitivity_path
    from quantkit.workflows.sensitivity import sensitivity as step
    from quantkit.workflows.sensitivity_decision import compare_command, decide, quantize_command

    where = Device.parse(device, batch=batch, options=provider_option or ())
    project = load_project(Path())
    own_images = by == "accuracy" and images is None
    found_by = project.images if own_images else images
    folder, aim = (
        run_of_subject(given_once(subject, run, "run"), project, Path()),
        parse_target(target or project.target or "ort"),
    )
    chosen = method_for_run(method, fraction, project, folder, aim)
    options = QuantizeOptions(
        per_channel=project.per_channel if per_channel is None else per_channel,
        activation_type=activations,
        weight_bits=weight_bits,
        power_of_two=power_of_two,
        skip=tuple(skip or project.skip),
        bias_correction=bias_correction,
        keep_outliers=keep_outliers,
    )
    merged = Settings(project)
    merged.add("run", folder, given=subject or run, key="run")
    merged.add("method", chosen, given=method or fraction, key="method")
    merged.add("target", aim.name, given=target, key="target")
    merged.add("by", by, given=by if by != "isolated" else None)
    merged.add("count", count, given=count)
    merged.add("per channel", options.per_channel, given=per_channel, key="per_channel")
    merged.add("activations", activations, given=activations)
    merged.add("weight bits", weight_bits, given=weight_bits)
    merged.add("power of two", power_of_two, given=power_of_two)
    merged.add("skip", options.skip, given=skip, key="skip")
    merged.add("bias correction", bias_correction, given=None if bias_correction else False)
    merged.add("keep outliers", keep_outliers or None, given=keep_outliers)
    merged.add("images", found_by, given=images, key="images")
    with show_progress(merged.by_name) as progress:
        found = step(
            folder,
            method=chosen,
            target=aim,
            options=options,
            by=by,
            count=count,
            images=images_given(found_by, skip_damaged),
            labels=project.labels if own_images and labels is None else labels,
            names=names or project.names,
            exclude=exclude,
            device=where,
            cluster=cluster,
            threads=threads,
            progress=progress,
        )
    record_settings(folder, f"sensitivity {found.target}", merged.by_name)
    decision = decide(found)
    # Files are written first, so that a closed pipe (`head`) does not lose them.
    content = found.to_json() | {"decision": decision.to_json()}
    if json is not None:
        write_json(json, content)
    session.event("result", result=content)
    if csv is not None:
        write_text(csv, found.csv_text())
    if html is not None:
        write_text(html, sensitivity_page(found, decision.lines()))
    console.print(_table(found, top))
    for line in summary(found):
        console.print(line, soft_wrap=True, markup=False)
    for line in decision.lines():
        console.print(line, soft_wrap=True, markup=False, style="bold")
    print_notes(found.notes)
    print_files((sensitivity_path(RunFolder(folder), found.target), *(one for one in (json, csv, html) if one)))
    if not decision.layers:
        print_next("tune", folder)
        return
    for line in (quantize_command(folder, found, chosen, options, decision.skips), compare_command(folder, found)):
        print_next(*shlex.split(line)[1:])


def _table(found: "Sensitivity", top: int | None) -> "Table":
    """Return one row per layer; with labels, accuracy replaces operator and noise."""
    from quantkit.report.names import Name
    from quantkit.report.tables import plain_table, share

    labelled = found.whole.accuracy is not None
    shown = found.layers if top is None else found.layers[:top]
    many = "" if len(shown) == len(found.layers) else f", {len(shown)} of {len(found.layers)} layers"
    table = plain_table(f"{found.model}: layers isolated and left out{many}")
    for heading in ("layer", "node") if labelled else ("layer", "node", "op"):
        table.add_column(heading, no_wrap=heading != "node")
    figures = ("Δ top-1, points", "agree") if labelled else ("dB", "KL", "noise")
    # The kind is a heading of its first figure only, which leaves room for the names of nodes.
    headings = [
        f"{'' if index else kind}\n{name}" for kind in ("isolated", "left out") for index, name in enumerate(figures)
    ]
    for heading in headings if labelled else ("MACs", *headings):
        table.add_column(heading, justify="right", no_wrap=True)
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
