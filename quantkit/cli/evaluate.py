"""``quantkit eval``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantkit.cli.app import app
from quantkit.cli.options import (
    BatchOption,
    CheckPreprocessingOption,
    ClusterOption,
    DeviceOption,
    ExifOption,
    ImagesOption,
    InputOption,
    LabelsOption,
    OutputOption,
    PresetOption,
    ProviderOption,
    SkipDamagedOption,
    images_given,
)
from quantkit.cli.progress import show_progress
from quantkit.cli.show import print_files, print_next, print_notes, print_preset_notes
from quantkit.cli.terminal import console, session
from quantkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantkit.evaluation.predictions import Predictions
    from quantkit.evaluation.predictions_file import Origin


@app.command("eval")
def evaluate(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL", help="ONNX file, or name in the run; with --merge, npz files.")
    ],
    run: Annotated[Path | None, typer.Option(help="Run folder of quantkit calibrate.")] = None,
    images: ImagesOption = None,
    skip_damaged: SkipDamagedOption = False,
    labels: LabelsOption = None,
    names: Annotated[Path | None, typer.Option(help="Class names, one per line.")] = None,
    exclude: Annotated[Path | None, typer.Option(help="Calibration set whose images are left out.")] = None,
    preset: PresetOption = None,
    exif: ExifOption = None,
    output: OutputOption = None,
    input_: InputOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of evaluation images.")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Evaluate the I-th of N parts only.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the predictions of shards: --merge A.npz B.npz --out C.npz.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the predictions, an npz file.", show_default="not written")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the accuracy as JSON.")] = None,
    check_preprocessing: CheckPreprocessingOption = True,
    device: DeviceOption = "cpu",
    batch: BatchOption = 1,
    provider_option: ProviderOption = None,
    cluster: ClusterOption = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of worker threads.")] = None,
) -> None:
    """Print a model's top-1 and top-5 accuracy. Resumable; scores are cached."""
    if merge:
        _merge([Path(path) for path in models], out, json)
        return
    if len(models) > 1:
        raise UsageError(f"{len(models)} models were given", fix="evaluate one at a time, or use quantkit compare")
    from quantkit.config.project import Project
    from quantkit.engine.device import Device
    from quantkit.runs.configuration import record_settings
    from quantkit.workflows.evaluate import evaluate as step
    from quantkit.workflows.evaluate import parse_shard
    from quantkit.workflows.resolve_evaluation import evaluation_settings, settings_of_evaluation

    where = Device.parse(device, batch=batch, options=provider_option or ())
    settings = evaluation_settings(
        folder=Path(),
        model=models[0],
        run=run,
        images=images,
        labels=labels,
        names=names,
        preset=preset,
        exif=exif,
        output=output,
        inputs=tuple(input_ or ()),
    )
    if preset is not None:
        print_preset_notes(preset, Project())
    merged = settings_of_evaluation(settings, run=run, images=images, labels=labels, preset=preset)
    merged.add("exclude", exclude, given=exclude)
    merged.add("shard", shard, given=shard)
    merged.add("limit", limit, given=limit)
    merged.add("device", where.describe() if device != "cpu" else None, given=device)
    with show_progress(merged.by_name) as progress:
        done = step(
            models[0],
            run=settings.run,
            images=images_given(settings.images, skip_damaged),
            labels=settings.labels,
            names=settings.names,
            exclude=exclude,
            pipeline=settings.pipeline,
            limit=limit,
            shard=None if shard is None else parse_shard(shard),
            cache=settings.cache,
            output=settings.output,
            inputs=settings.inputs,
            check_preprocessing=check_preprocessing,
            device=where,
            cluster=cluster,
            threads=threads,
            progress=progress,
        )
    if settings.run is not None:
        record_settings(settings.run, f"eval {done.name}", merged.by_name)
    fresh = len(done.predictions) - done.kept
    if fresh:
        before = f" ({done.kept} were cached)" if done.kept else ""
        rate = fresh / max(done.elapsed_s, 1e-9)
        where_run = "" if done.origin.device == "cpu" else f" on {done.origin.device}"
        console.print(f"{fresh} images in {done.elapsed_s:.1f} s, {rate:.1f} images/s{where_run}{before}", markup=False)
    else:
        console.print("all scores were cached, nothing was run")
    print_notes(done.notes)
    ran_on = None if done.ran_on is None else done.ran_on.to_json()
    _finish(done.predictions, done.origin, done.warnings, out, json, {"output": done.output, "ran_on": ran_on})
    if shard is not None and out is not None:
        print_next("eval", "--merge", out, "OTHER.npz", "--out", "all.npz")
    elif settings.run is not None:
        print_next("compare", "fp32", models[0] if models[0] != "fp32" else "int8", "--run", settings.run)
    else:
        chosen = [] if preset is None else ["--preset", preset]
        print_next("calibrate", "--model", models[0], "--images", "FOLDER", *chosen)


def _merge(paths: list[Path], out: Path | None, json: Path | None) -> None:
    from quantkit.evaluation.label_diagnosis import diagnose_labels
    from quantkit.evaluation.predictions_file import merge_predictions

    if out is None:
        raise UsageError("needs a file for the merged predictions", where="--merge", fix="give --out")
    predictions, origin = merge_predictions(paths)
    diagnosis = diagnose_labels(predictions) if predictions.labels is not None else None
    if origin.shards:
        here = ", ".join(f"{i}/{n}" for i, n in origin.shards)
        console.print(f"note: only the shards {here} are included")
    _finish(predictions, origin, () if diagnosis is None else (diagnosis,), out, json)
    print_next("compare", "fp32", "int8", "--run", "RUN")


def _finish(
    predictions: "Predictions",
    origin: "Origin",
    warnings: tuple[str, ...],
    out: Path | None,
    json: Path | None,
    about: "Mapping[str, Any] | None" = None,
) -> None:
    from dataclasses import asdict

    from quantkit.evaluation.predictions_file import save_predictions
    from quantkit.files import write_json
    from quantkit.workflows.evaluate import accuracy_of

    accuracy = accuracy_of(predictions)
    for name, value, interval in (
        ("top-1", accuracy.top1, accuracy.top1_ci95),
        ("top-5", accuracy.top5, accuracy.top5_ci95),
    ):
        bounds = f"[{interval.lo:.2f}, {interval.hi:.2f}]"
        console.print(f"{name} {value:.2f} %  {bounds}", markup=False)
    console.print(f"over {accuracy.images} images; intervals of 95 %")
    if accuracy.tied:
        console.print(f"{accuracy.tied} images with tied top scores, {accuracy.constant} with all scores equal")
    for warning in warnings:
        console.print(f"warning: {warning}", soft_wrap=True, markup=False, style="yellow")
    if out is not None:
        save_predictions(out, predictions, origin)
    content = {**accuracy.to_json(), "classes": predictions.classes, "output": None, "origin": asdict(origin)}
    content |= dict(about or {})
    if json is not None:
        write_json(json, content)
    session.event("result", result=content)
    print_files(path for path in (out, json) if path is not None)
