"""``quantkit preprocess``: find out the preprocessing of a model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli.app import sub_app
from quantkit.cli.options import DeviceOptions, InputOptions, JsonOption, LabelledImages
from quantkit.cli.progress import show_progress
from quantkit.cli.show import give_result, print_files, print_lines, print_next, print_notes
from quantkit.cli.terminal import console
from quantkit.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from quantkit.workflows.preprocessing_guess import PreprocessingGuess

preprocess = sub_app("preprocess", "Find out the preprocessing of a model; quantkit preset shows and makes presets.")


@preprocess.callback()
def _group() -> None:
    """Keep ``guess`` a command of its own, although it is the only one of the group."""


@dataclass(frozen=True, kw_only=True)
class StartOptions(InputOptions):
    """The preprocessing to start from, and how the model is run."""

    preset: Annotated[
        str | None,
        typer.Option(
            help="Preprocessing to start from: a name, or a file as --preset of calibrate takes.",
            show_default="that of the run, of quantkit.yaml, or what is usual for the input",
        ),
    ] = None


@preprocess.command()
def guess(
    on: LabelledImages,
    read: StartOptions,
    execution: DeviceOptions,
    model: Annotated[
        Path | None, typer.Argument(help="fp32 ONNX classifier.", show_default="that of quantkit.yaml")
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Use no labels: compare the scores, which is weaker evidence.")
    ] = False,
    run: Annotated[
        Path | None,
        typer.Option(help="Run folder that gives images and preprocessing.", show_default="none"),
    ] = None,
    limit: Annotated[int, typer.Option(min=10, help="Try at most so many images.")] = 500,
    out: Annotated[
        Path | None,
        typer.Option(help="Preset file to write: the best found, or the one given.", show_default="not written"),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Try other scalings, channel orders, crops and filters; name the one that is better beyond chance."""
    from quantkit.cli.evaluation_settings import EvaluationSettings
    from quantkit.config.project import PROJECT_FILE
    from quantkit.config.settings import Settings
    from quantkit.files import write_text
    from quantkit.runs.folder import RunFolder
    from quantkit.workflows.guess_preprocessing import guess_preprocessing, guessed_preset
    from quantkit.workflows.project import load_project

    where = execution.arguments()
    for path in (out, json):
        if path is not None and path.exists():
            raise UsageError("the file exists and is not overwritten", where=path, fix="give another name")
    project = load_project()
    file = model or project.model
    if file is None:
        raise UsageError("no model was given", fix=f"name the ONNX file, or one in {PROJECT_FILE}")
    pipeline = read.pipeline(project) if read.preset is not None or run is None else None
    settings = EvaluationSettings.completed(run, on, read, pipeline, project, own_images=run is None)
    images = settings.images
    if images.images is None and run is None:
        raise UsageError("no images were given", fix=f"give --images, --run, or images in {PROJECT_FILE}")
    merged = Settings(project)
    merged.add("model", file, given=model, key="model")
    merged.add("run", run, given=run)
    merged.add("images", images.images, given=on.images, key="images")
    merged.add("labels", images.labels, given=on.labels, key="labels")
    merged.add_preprocessing(pipeline, read.preset, None if run is None else RunFolder(run).read().pipeline)
    if unlabelled:
        settings = replace(settings, images=replace(images, labels=on.labels, names=on.names))
    with show_progress(merged.by_name) as progress:
        done = guess_preprocessing(
            file, **settings.arguments(), unlabelled=unlabelled, limit=limit, **where, progress=progress
        )
    if out is not None:
        write_text(out, guessed_preset(done))
    give_result(done.to_json(), json)
    console.print(_table(done))
    print_lines(
        f"the model was run on {done.computed:,} images in {done.elapsed_s:.1f} s"
        + (f"; {done.known:,} answers were cached in {done.cache}" if done.known else "")
        if done.computed
        else f"all answers were cached in {done.cache}, nothing was run"
    )
    print_notes(done.notes)
    print_lines(done.verdict)
    if done.found_better and out is None:
        print_lines(f"preset: {done.best.describe()}; --out FILE writes it")
    print_files(path for path in (out, json) if path is not None)
    if out is not None:
        print_next("calibrate", "--model", file, "--images", str(images.images or "FOLDER"), "--preset", out)


def _table(done: "PreprocessingGuess") -> "Table":
    from quantkit.report.tables import plain_table, points

    labelled = done.evidence == "labels"
    figure, digits = ("top-1", 1) if labelled else ("nats", 2)
    headings = ("images", "present", figure, "Δ [95 %]", "corrected p")
    table = plain_table("Alternatives, each against the preprocessing of its round", ["alternative"], headings)
    before = None
    for one in done.tried:
        if before is not None and before != one.round:
            table.add_section()
        before = one.round
        style = "bold" if one.chosen else None
        found = one.contrast
        present, value = (f"{figure:.{digits}f}" for figure in (found.reference, found.value))
        cells = (f"{found.images}", present, value, points(found.difference, found.ci95), f"{one.p:.2g}")
        table.add_row(one.alternative.words, *cells, style=style)
    return table
