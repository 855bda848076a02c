"""``quantkit calibrate``."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli.app import app
from quantkit.cli.options import (
    CalibrateOptions,
    CheckPreprocessingOption,
    ExecutionOptions,
    RequireCoverageOption,
    given_once,
)
from quantkit.cli.progress import show_progress
from quantkit.cli.set_summary import print_left_out, set_line
from quantkit.cli.show import (
    parse_percent,
    print_coverage,
    print_files,
    print_lines,
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
    given: CalibrateOptions,
    execution: ExecutionOptions,
    subject: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="fp32 ONNX classifier; --model is the same.")
    ] = None,
    until_stable: Annotated[
        str | None, typer.Option(help="Stop when no range changes by more than this share of its width, e.g. 0.5%.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ignore cached statistics; replace a run of other inputs.")
    ] = False,
    require_coverage: RequireCoverageOption = None,
    check_preprocessing: CheckPreprocessingOption = True,
) -> None:
    """Run the model once over a calibration set; write statistics, ranges and the int8 model."""
    from quantkit.cli.calibration_settings import calibration_settings, merged_settings
    from quantkit.workflows.calibrate import calibrate as step
    from quantkit.workflows.project import load_project

    given = replace(given, model=given_once(subject, given.model, "model"))
    where, project = execution.arguments(), load_project()
    settings = calibration_settings(given, project)
    stable = parse_percent(until_stable, "--until-stable")
    least = parse_percent(require_coverage, "--require-coverage", all_allowed=True)
    print_preset_notes(given.preset, project)
    merged = merged_settings(given, settings, execution, project, until_stable=until_stable)
    with show_progress() as progress:
        chosen = settings.calibration_set(progress)
    _print_set(chosen, drawn=chosen != settings.set)
    with show_progress(merged.by_name, recorded="calibrate") as progress:
        done = step(
            settings.model,
            chosen,
            **settings.arguments(),
            until_stable=stable,
            fresh=fresh,
            require_coverage=least,
            check_preprocessing=check_preprocessing,
            **where,
            progress=progress,
        )
    about = {"run": str(done.run), "images": len(done.statistics.images)}
    session.event("result", result={**about, **done.quantized.to_json()})
    _print(done, None if chosen == settings.set else chosen)
    others = () if project.images is not None or _leaves_images(chosen) else ("--images", "FOLDER")
    print_next("compare", "fp32", done.quantized.name, "--run", done.run, *others)


def _print_set(manifest: Path, *, drawn: bool) -> None:
    """Print a set with the source of its labels before the pass, and what was noticed when it was drawn."""
    from quantkit.data.calibration_set import CalibrationSet

    if not manifest.is_file():  # the calibration says so, after faults of the model
        return
    chosen = CalibrationSet.load(manifest)
    if not session.quiet:
        print_lines(f"calibration set: {set_line(chosen)}")
    if drawn:
        print_notes(chosen.remarks)
        if not session.quiet:
            print_left_out("left out", chosen.left_out)


def _print(done: "Calibration", drawn: Path | None) -> None:
    from quantkit.report.names import Name
    from quantkit.report.tables import plain_table
    from quantkit.runs.folder import RECORD

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
    table = plain_table("Ranges, and the values observed", ["tensor"], ("lo", "hi", "observed"))
    shown = dict(islice(quantized.ranges.items(), _RANGES_SHOWN))
    for name, range_ in shown.items():
        one = statistics.tensors[name]
        table.add_row(Name(name, shown), f"{range_.lo:.4g}", f"{range_.hi:.4g}", f"{one.lo:.4g} .. {one.hi:.4g}")
    console.print(table)
    more = len(quantized.ranges) - len(shown)
    rest = f"... and {more} more: " if more else ""
    console.print(
        f"{rest}{len(quantized.ranges)} of {len(statistics.tensors)} observed tensors need a range; the others stay in "
        "float or take that of another",
        soft_wrap=True,
    )
    if statistics.convergence and statistics.convergence[-1].movement:
        print_lines(_convergence(statistics.convergence))
    print_selection(quantized.selection)
    print_notes(done.notes)
    print_files((*done.files, done.run / RECORD, *([] if drawn is None else [drawn])), in_folder=done.run)
    print_coverage(done.coverage)


def _leaves_images(manifest: Path) -> bool:
    """Return whether the folder of a set has images that are not in it; assumed of what is no folder."""
    from quantkit.data.calibration_set import CalibrationSet
    from quantkit.data.images import IMAGE_SUFFIXES

    chosen = CalibrationSet.load(manifest)
    if not isinstance(chosen.root, Path) or not chosen.root.is_dir():
        return True
    files = (path for path in chosen.root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return next(islice(files, len(chosen), None), None) is not None


def _convergence(points: "Sequence[ConvergencePoint]") -> str:
    """Return how far the ranges moved between the last two checks of a pass."""
    from quantkit.stats.convergence import FIRST_POINT

    last = points[-1]
    before = points[-2].images if len(points) > 1 else FIRST_POINT
    moved = ", ".join(f"{name} {100 * share:.1f} % ({last.tensor[name]})" for name, share in last.movement.items())
    return f"from {before} to {last.images} images, ranges moved by at most this share of their width: {moved}"
