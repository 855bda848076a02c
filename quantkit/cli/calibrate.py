"""``quantkit calibrate``."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli.app import app
from quantkit.cli.options import (
    BatchOption,
    CheckPreprocessingOption,
    ClusterOption,
    DeviceOption,
    DialectName,
    ExifOption,
    FractionOption,
    InputOption,
    KeepOutliersOption,
    LabelsOption,
    MethodOrAutoOption,
    OutputOption,
    PerChannelOption,
    PresetOption,
    ProviderOption,
    RequireCoverageOption,
    SkipDamagedOption,
    SkipOption,
    TargetOption,
    given_once,
)
from quantkit.cli.progress import show_progress
from quantkit.cli.show import (
    parse_percent,
    print_coverage,
    print_files,
    print_next,
    print_notes,
    print_preset_notes,
    print_selection,
)
from quantkit.cli.terminal import console, session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantkit.stats.convergence import ConvergencePoint
    from quantkit.workflows.calibrate import Calibration

_RANGES_SHOWN = 8


@app.command()
def calibrate(
    subject: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="fp32 ONNX classifier; --model is the same.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="fp32 ONNX classifier.")] = None,
    set_: Annotated[Path | None, typer.Option("--set", help="Calibration set, from quantkit calib-set build.")] = None,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="In place of --set: draw a balanced set from a folder, tar, zip, parquet, shards or a URL.",
            show_default="none",
        ),
    ] = None,
    skip_damaged: SkipDamagedOption = False,
    labels: LabelsOption = None,
    count: Annotated[int | None, typer.Option(help="Number of images to draw from --images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the draw from --images.")] = None,
    preset: PresetOption = None,
    exif: ExifOption = None,
    method: MethodOrAutoOption = None,
    fraction: FractionOption = None,
    target: TargetOption = None,
    per_channel: PerChannelOption = None,
    skip: SkipOption = None,
    bias_correction: Annotated[
        bool, typer.Option("--bias-correction/--no-bias-correction", help="Correct biases where it reduces the error.")
    ] = True,
    keep_outliers: KeepOutliersOption = False,
    output: OutputOption = None,
    input_: InputOption = None,
    run: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/ and the model's name")] = None,
    dialect: Annotated[DialectName | None, typer.Option(help="Dialect of vamc.yaml.")] = None,
    calibration_folder: Annotated[
        Path | None, typer.Option(help="Folder in which the card's compiler finds the calibration images.")
    ] = None,
    until_stable: Annotated[
        str | None, typer.Option(help="Stop when no range changes by more than this share of its width, e.g. 0.5%.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ignore cached statistics; replace a run of other inputs.")
    ] = False,
    require_coverage: RequireCoverageOption = None,
    check_preprocessing: CheckPreprocessingOption = True,
    device: DeviceOption = "cpu",
    batch: BatchOption = 1,
    provider_option: ProviderOption = None,
    cluster: ClusterOption = None,
    threads: Annotated[int | None, typer.Option(help="Number of worker threads.")] = None,
) -> None:
    """Run the model once over a calibration set; write statistics, ranges and the int8 model."""
    from quantkit.config.settings import Settings
    from quantkit.engine.device import Device
    from quantkit.runs.configuration import record_settings
    from quantkit.workflows.calibrate import calibrate as step
    from quantkit.workflows.project import load_project
    from quantkit.workflows.resolve import calibration_settings

    where = Device.parse(device, batch=batch, options=provider_option or ())
    model = given_once(subject, model, "model")
    settings = calibration_settings(
        folder=Path(),
        model=model,
        set_=set_,
        images=images,
        skip_damaged=skip_damaged,
        labels=labels,
        count=count,
        seed=seed,
        preset=preset,
        exif=exif,
        method=method,
        fraction=fraction,
        target=target,
        per_channel=per_channel,
        skip=tuple(skip or ()),
        run=run,
        dialect=dialect,
        calibration_folder=calibration_folder,
        output=output,
        inputs=tuple(input_ or ()),
    )
    least = parse_percent(require_coverage, "--require-coverage", all_allowed=True)
    project = load_project(Path())
    print_preset_notes(preset, project)
    merged = Settings(project)
    merged.add("model", settings.model, given=model, key="model")
    drawn = f"{settings.count} of {settings.images}, seed {settings.seed}"
    merged.add("images", settings.set or drawn, given=set_ or images, key="set")
    merged.add_preprocessing(settings.pipeline, preset)
    merged.add("method", settings.method, given=method or fraction, key="method")
    merged.add("target", settings.target.name, given=target, key="target")
    merged.add("per channel", settings.options.per_channel, given=per_channel, key="per_channel")
    merged.add("skip", settings.options.skip, given=skip, key="skip")
    merged.add("bias correction", bias_correction, given=None if bias_correction else False)
    merged.add("keep outliers", keep_outliers or None, given=keep_outliers)
    merged.add("output", settings.output, given=output, key="output")
    merged.add("inputs", settings.inputs, given=input_, key="inputs")
    merged.add("until stable", until_stable, given=until_stable)
    merged.add("dialect", dialect or project.dialect, given=dialect, key="dialect")
    merged.add("device", where.describe() if device != "cpu" else None, given=device)
    merged.add("batch", batch if batch != 1 else None, given=batch)
    merged.add("run", settings.run, given=run, key="run")
    with show_progress() as progress:
        chosen = settings.calibration_set(progress)
    with show_progress(merged.by_name) as progress:
        done = step(
            settings.model,
            chosen,
            settings.pipeline,
            run=settings.run,
            method=settings.method,
            target=settings.target,
            options=replace(settings.options, bias_correction=bias_correction, keep_outliers=keep_outliers),
            backends=settings.backends,
            output=settings.output,
            inputs=settings.inputs,
            until_stable=parse_percent(until_stable, "--until-stable"),
            fresh=fresh,
            require_coverage=least,
            check_preprocessing=check_preprocessing,
            device=where,
            cluster=cluster,
            threads=threads,
            progress=progress,
        )
    record_settings(done.run, "calibrate", merged.by_name)
    about = {"run": str(done.run), "images": len(done.statistics.images)}
    session.event("result", result={**about, **done.quantized.to_json()})
    _print(done, None if settings.set is not None else chosen)


def _print(done: "Calibration", drawn: Path | None) -> None:
    from quantkit.report.names import Name
    from quantkit.report.tables import plain_table

    statistics, quantized = done.statistics, done.quantized
    images = len(statistics.images)
    if done.reused:
        console.print(f"{len(statistics.tensors)} tensors over {images} images: cached statistics, nothing was run")
    else:
        rate = (images - done.resumed_images) / done.elapsed_s
        before = f", {done.resumed_images} of them before" if done.resumed_images else ""
        device = statistics.provenance.device
        where_run = "" if device == "cpu" else f" on {device}"
        console.print(
            f"{len(statistics.tensors)} tensors over {images} images in {done.elapsed_s:.1f} s "
            f"({rate:.1f} images/s{where_run}){before}",
            markup=False,
        )
    table = plain_table("Ranges, and the values observed")
    table.add_column("tensor")
    for heading in ("lo", "hi", "observed"):
        table.add_column(heading, justify="right", no_wrap=True)
    shown = dict(islice(quantized.ranges.items(), _RANGES_SHOWN))
    for name, range_ in shown.items():
        one = statistics.tensors[name]
        table.add_row(Name(name, shown), f"{range_.lo:.4g}", f"{range_.hi:.4g}", f"{one.lo:.4g} .. {one.hi:.4g}")
    console.print(table)
    if len(quantized.ranges) > _RANGES_SHOWN:
        console.print(f"... and {len(quantized.ranges) - _RANGES_SHOWN} more")
    if statistics.convergence:
        console.print(_convergence(statistics.convergence), soft_wrap=True, markup=False)
    print_selection(quantized.selection)
    print_notes(done.notes)
    print_files((*done.files, *([] if drawn is None else [drawn])), in_folder=done.run)
    print_coverage(done.coverage)
    print_next("compare", "fp32", quantized.name, "--run", done.run)


def _convergence(points: "Sequence[ConvergencePoint]") -> str:
    """Return how far the ranges moved between the last two checks of a pass."""
    from quantkit.stats.convergence import FIRST_POINT

    last = points[-1]
    before = points[-2].images if len(points) > 1 else FIRST_POINT
    moved = ", ".join(f"{name} {share:.2%} ({last.tensor[name]})" for name, share in last.movement.items())
    return f"from {before} to {last.images} images, ranges moved by at most this share of their width: {moved}"
