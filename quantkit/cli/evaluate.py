"""``quantkit eval``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantkit.cli.app import app
from quantkit.cli.next_step import print_next_comparison
from quantkit.cli.options import (
    CheckPreprocessingOption,
    ExecutionOptions,
    InputOptions,
    LimitedImages,
    RunOption,
)
from quantkit.cli.progress import show_progress
from quantkit.cli.show import give_result, print_files, print_lines, print_next, print_notes, print_preset_notes
from quantkit.cli.terminal import console
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
    on: LimitedImages,
    read: InputOptions,
    execution: ExecutionOptions,
    run: RunOption = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Evaluate the I-th of N parts only.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the predictions of shards: --merge A.npz B.npz --out C.npz.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the predictions, an npz file.", show_default="not written")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the accuracy as JSON.")] = None,
    check_preprocessing: CheckPreprocessingOption = True,
) -> None:
    """Print a model's top-1 and top-5 accuracy. Resumable; scores are cached."""
    if merge:
        _merge([Path(path) for path in models], out, json)
        return
    if len(models) > 1:
        raise UsageError(f"{len(models)} models were given", fix="evaluate one at a time, or use quantkit compare")
    from quantkit.cli.evaluation_settings import cache_folder, evaluation_settings
    from quantkit.graph.model import is_quantized, read_model
    from quantkit.workflows.evaluate import evaluate as step
    from quantkit.workflows.evaluate import parse_shard
    from quantkit.workflows.project import load_project

    where, project = execution.arguments(), load_project()
    settings = evaluation_settings(models[0], run, on, read, project)
    print_preset_notes(read.preset)
    merged = settings.shown(project, run, on, read)
    on.show_limits(merged)
    merged.add("shard", shard, given=shard)
    execution.show(merged)
    with show_progress(merged.by_name, recorded="eval") as progress:
        done = step(
            models[0],
            **settings.arguments(),
            shard=None if shard is None else parse_shard(shard),
            cache=cache_folder(settings.run, Path(models[0]), project),
            check_preprocessing=check_preprocessing,
            **where,
            progress=progress,
        )
    fresh = len(done.predictions) - done.kept
    if fresh:
        before = f" ({done.kept} were cached)" if done.kept else ""
        rate = fresh / max(done.elapsed_s, 1e-9)
        where_run = "" if done.origin.device == "cpu" else f" on {done.origin.device}"
        console.print(f"{fresh} images in {done.elapsed_s:.1f} s, {rate:.1f} images/s{where_run}{before}", markup=False)
    else:
        console.print("all scores were cached, nothing was run")
    print_lines(f"labels: {done.labels}")
    print_notes(done.notes)
    ran_on = None if done.ran_on is None else done.ran_on.to_json()
    _finish(
        done.predictions,
        done.origin,
        done.warnings,
        out,
        json,
        {"output": done.output, "ran_on": ran_on, "labels": done.labels},
    )
    if shard is not None and out is not None:
        print_next("eval", "--merge", out, "OTHER.npz", "--out", "all.npz")
    elif settings.run is not None:
        print_next_comparison(settings.run, models[0])
    else:
        chosen = ["--images", "FOLDER", *([] if read.preset is None else ["--preset", read.preset])]
        quantized = is_quantized(read_model(Path(models[0]), allow_quantized=True))
        step_words = ["compare", "FP32.onnx"] if quantized else ["calibrate", "--model"]
        print_next(*step_words, models[0], *chosen)


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
        print_lines(f"warning: {warning}", style="yellow")
    if out is not None:
        save_predictions(out, predictions, origin)
    content = {
        **accuracy.to_json(),
        "classes": predictions.classes,
        "output": None,
        "labels": None,
        "origin": asdict(origin),
    }
    content |= about or {}
    give_result(content, json)
    print_files(path for path in (out, json) if path is not None)
