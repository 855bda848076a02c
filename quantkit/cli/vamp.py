"""``quantkit vamp``: inputs for the vendor's runner, and the accuracy of its results."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli.app import sub_app
from quantkit.cli.options import PreprocessingOptions, SomeImagesOption, ThreadsOption
from quantkit.cli.progress import show_progress
from quantkit.cli.show import print_files, print_lines, print_next, print_notes, print_preset_notes
from quantkit.errors import UsageError

vamp = sub_app("vamp", "Inputs for the VACC card's runner, and accuracy from its results.")


@vamp.command()
def inputs(
    images: SomeImagesOption,
    read: PreprocessingOptions,
    out: Annotated[Path, typer.Option(help="Folder to write: CLASS/NAME.npz, and the datalist.")],
    labels: Annotated[Path | None, typer.Option(help="Label file, if folder and file names are no labels.")] = None,
    names: Annotated[
        Path | None, typer.Option(help="Class names, one per line in class-index order, if labels are names.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder; its preprocessing is checked against the card.")] = None,
    datalist: Annotated[
        Path | None, typer.Option(help="Datalist to write.", show_default="npz_datalist.txt in --out")
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Skip undecodable images and damaged parts of archives.")
    ] = False,
    threads: ThreadsOption = None,
) -> None:
    """Write every image un-resized as npz, and the datalist. Resumable.

    The class folder is the WordNet id of ImageNet-1k, else the image's own class folder, else the class index. With
    --run, --preset or a preset in quantkit.yaml the preprocessing is checked against what the card can compute.
    """
    from quantkit.runs.folder import RunFolder
    from quantkit.workflows.project import load_project
    from quantkit.workflows.vamp import write_card_inputs

    if run is not None and read.preset is not None:
        raise UsageError("a run has its preprocessing", where="--run", fix="drop --preset")
    project = load_project()
    pipeline = RunFolder(run).read().pipeline if run is not None else read.pipeline(project)
    if run is not None and pipeline is not None and read.exif not in (None, pipeline.decode.exif):
        raise UsageError(
            f"the run was calibrated with{'' if pipeline.decode.exif else 'out'} the EXIF orientation",
            where="--exif",
            fix="calibrate with the option, or drop --run",
        )
    if run is None:
        print_preset_notes(read.preset, project)
    with show_progress() as progress:
        done = write_card_inputs(
            images,
            out,
            labels=labels,
            names=names,
            pipeline=pipeline,
            exif=read.exif,
            datalist=datalist,
            skip_broken=skip_broken,
            threads=threads,
            progress=progress,
        )
    report = done.report
    kept = len(report.files) - report.written
    print_lines(f"{report.written} inputs ({kept} were there); the list has {len(report.files)}")
    print_notes(done.notes, to_errors=True)
    for fault in report.broken:
        typer.echo(f"left out: {fault}", err=True)
    print_files([out, done.datalist])
    build = "BUILD.yaml" if run is None else run / "vamc.yaml"
    print_next("vamp", "command", build, "--datalist", done.datalist)


@vamp.command()
def command(
    build: Annotated[Path | None, typer.Argument(help="Build file of the model.")] = None,
    vdsp: Annotated[
        Path | None, typer.Option(help="vdsp_params.json of the model.", show_default="in the folder of the build file")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Compiled model, DIR/mod; by default from the build file.")] = None,
    datalist: Annotated[Path, typer.Option(help="Datalist of the inputs.")] = Path("npz_datalist.txt"),
    results: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("npz_output"),
    instances: Annotated[int, typer.Option("-i", "--instances", help="Model instances on the card.")] = 8,
    processes: Annotated[int, typer.Option("-p", "--processes", help="Processes that feed the instances.")] = 1,
    batch: Annotated[int, typer.Option("-b", "--batch", help="Images per batch.")] = 22,
) -> None:
    """Print the command lines that measure speed and accuracy on the card."""
    from quantkit.vendors.vacc.command import VampRun, compiled_model, default_vdsp, picture_size
    from quantkit.vendors.vacc.convert import read_spec
    from quantkit.vendors.vacc.dialects import dialect_of
    from quantkit.vendors.vacc.document import Document

    document = None if build is None else Document.load(build)
    spec = None if document is None else read_spec(document)
    if model is None:
        if spec is None or document is None:
            raise UsageError("no compiled model given", where="--model", fix="give --model DIR/mod, or the build file")
        model = compiled_model(spec, dialect_of(document))
    params = Path(vdsp or default_vdsp(build))
    run = VampRun(
        model=model,
        vdsp=str(params),
        size=None if spec is None else picture_size(spec),
        instances=instances,
        processes=processes,
        batch=batch,
    )
    if not params.is_file():
        fix = f"write it with quantkit vamc write --run RUN --vdsp {shlex.quote(str(params))}"
        typer.echo(f"note: {params} does not exist; {fix}", err=True)
    typer.echo(f"# performance\n{run.performance()}")
    typer.echo(f"# accuracy\n{run.accuracy(str(datalist), str(results))}")


@vamp.command("eval")
def evaluate(
    labels: Annotated[
        Path | None,
        typer.Option(
            help="imagenet.txt (one class name per line), or IMAGE INDEX lines; not needed for folders of WordNet ids."
        ),
    ] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of vamp --path_output.")] = None,
    datalist: Annotated[Path | None, typer.Option(help="Datalist of that vamp run.")] = None,
    text: Annotated[Path | None, typer.Option(help="Text file of the vendor, instead of --results.")] = None,
    text_run: Annotated[
        int | None, typer.Option(help="Run of --text to read, if it has several: 1 is the first, -1 the last.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the results as the vendor's text file.")] = None,
    skip_damaged: Annotated[bool, typer.Option("--skip-damaged", help="Evaluate without unreadable results.")] = False,
) -> None:
    """Print top-1 and top-5 of the card's results, and write them as text."""
    from quantkit.vendors.vacc.evaluate import evaluate as evaluate_outputs
    from quantkit.vendors.vacc.evaluate import is_relay_text, read_rates, read_relay_text
    from quantkit.vendors.vacc.results import pair_outputs, read_classes

    if text is not None and not is_relay_text(text):
        top1, top5 = read_rates(text)
        typer.echo(f"top-1 {top1:.3f} %  top-5 {top5:.3f} %, as printed")
        return
    if text is not None:
        accuracy = read_relay_text(text, labels, text_run)
    elif results is None or datalist is None:
        raise UsageError("no results were given", where="--results", fix="give --results and --datalist, or --text")
    else:
        outputs = pair_outputs(results, datalist)
        with show_progress() as progress:
            accuracy = evaluate_outputs(
                outputs,
                read_classes(labels, outputs),
                out,
                skip_damaged=skip_damaged,
                progress=progress.task("reading results", "images"),
            )
    typer.echo(accuracy.line())
    print_lines(f"top-1 {accuracy.top1} and top-5 {accuracy.top5} of {accuracy.images} images right")
    print_notes((*accuracy.notes, *accuracy.vendor_notes()), to_errors=True)
    for fault in accuracy.faults:
        typer.echo(f"left out: {fault}", err=True)
    if out is not None and text is None:
        print_files([out])
        print_next("compare", "fp32", f"card={results}", "--run", "RUN", "--datalist", str(datalist))
